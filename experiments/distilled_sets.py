"""Clients whose pictures are distilled, and whether what they publish says who was there.

Not a study: data and audit of `gdd_fl`. Every candidate belongs to a client; a fair coin for each
person says whether the person's pictures are among those that the client holds. All arms of a seed
have the same coins.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import classification, scanner_sets
from medjax import check, cli, data, federated, study
from medjax.data.seeds import generator
from medjax.methods import condensation
from medjax.privacy import audit
from medjax.types import Batch, Source


class Pictures(NamedTuple):
  """Who may take part and who is tested.

  Attributes:
    title: for the page.
    num_classes: of the labels.
    pool: candidates.
    test: pictures of other people.
    people: names, by part.
    names: person of each test picture.
    bounds: (low, high) of pixels, public.
    manifest: what the run directory records.
  """

  title: str
  num_classes: int
  pool: Batch
  test: Batch
  people: Mapping[str, Sequence[str]]
  names: list[str]
  bounds: tuple[float, float]
  manifest: dict[str, Any]


class ClientSets(NamedTuple):
  """Whose picture is whose, in one seed.

  Attributes:
    owner: [candidates] client.
    is_in: [candidates] bool, whether the client holds it.
  """

  owner: np.ndarray
  is_in: np.ndarray

  def rows(self, client: int) -> np.ndarray:
    """Candidates that a client holds."""
    return np.flatnonzero((self.owner == client) & self.is_in)


def load(config: Any, options: cli.RunOptions) -> Pictures:
  """Simulated tissue under three scanners, or a user's pictures."""
  if options.preset == "folder":
    shown = classification.Config(size=config.size, label=config.label, subject=config.subject)
    title, source, turn = classification.load(shown, options)
    rows = dict(classification.parts_of(source, options.seed))
    people = {part: study.people_of(source.subjects, rows[part]) for part in ("train", "test")}
    names = [source.subjects[i] for i in rows["test"]]
    low, high = float(turn.train.image.min()), float(turn.train.image.max())
    # The bounds are published: read off the pictures they would tell of whoever has the extremes.
    bounds = (0.0, 1.0)
    check.require(
      0 <= low and high <= 1,
      "pixels from 0 to 1, a range that is public",
      f"{low:.3g} to {high:.3g}",
      "pass 8-bit pictures, or scale yours by numbers that do not depend on them",
    )
    number = len(source.class_names)
    test, manifest = turn.test["test"], source.manifest()
    return Pictures(title, number, turn.train, test, people, names, bounds, manifest)
  study.paths_of(options.data, 0)
  whole: Source = data.concat(
    {
      name: scanner_sets.tissue(config.num_pictures, config.size, options.seed, name)
      for name in scanner_sets.SCANNERS
    }
  )
  parts = study.parted(whole.subjects, {"train": 2 / 3, "test": 1 / 3}, options.seed)
  people = study.people_by_part(whole.subjects, parts)
  held = {part: data.stack(whole, own) for part, own in parts.items()}
  names = [whole.subjects[i] for i in parts["test"]]
  title, bounds = "simulated tissue", (-0.3, 1.5)
  return Pictures(title, 2, held["train"], held["test"], people, names, bounds, whole.manifest())


def clients(pool: Batch, num_clients: int, alpha: float, seed: int) -> ClientSets:
  """Shares of classes from Dirichlet(alpha), and a coin a person."""
  held = federated.dirichlet(
    pool.label, num_clients, alpha, seed, subjects=np.asarray(pool.subject), least=6
  )
  owner = np.zeros(len(pool.label), np.int32)
  for client, rows in enumerate(held):
    owner[rows] = client
  people, code = np.unique(pool.subject, return_inverse=True)
  coins = generator(seed, "coins").random(len(people)) < 0.5
  return ClientSets(owner, coins[code])


def member_scores(
  networks: condensation.RandomNetworks,
  pool: Batch,
  owner: np.ndarray,
  sets: Sequence[federated.PublishedSet | None],
) -> np.ndarray:
  """[candidates] how near each is to what its own client published of its class.

  The distance is that of features of unit length under random networks, to the nearest picture and
  to the mean of the pictures, added; the mean over the candidates of a client and class is taken
  away, since how far a class is from its pictures says nothing about who was there.
  """
  every = study.ChunkedPredictor(lambda nets, image: nets_features(networks, nets, image), chunk=64)
  drawn = (networks.networks, networks.drawn)
  own = every(drawn, pool.image)
  score = np.full(len(owner), -np.inf)
  for client, one in enumerate(sets):
    if one is None:
      continue
    for label in np.unique(pool.label):
      rows = np.flatnonzero((owner == client) & (pool.label == label))
      shown = np.flatnonzero(one.label == label)
      if not len(rows) or not len(shown):
        continue
      theirs = every(drawn, one.pixels[shown])
      apart = np.square(own[rows][:, None] - theirs[None]).sum((2, 3)).min(1)
      middle = np.square(own[rows] - theirs.mean(0)).sum((1, 2))
      score[rows] = -(apart + middle) + (apart + middle).mean()
  return score


def nets_features(networks: condensation.RandomNetworks, drawn: Any, image: jax.Array) -> jax.Array:
  """Features under all networks, whose parameters come as an argument of the program."""
  return networks._replace(networks=drawn[0], drawn=drawn[1]).every(image)


def audited(
  scores: np.ndarray, is_in: np.ndarray, claim: tuple[float, float], confidence: float
) -> dict[str, float]:
  """What the pictures of all clients betray: a share of right guesses, and a bound on mu.

  A tenth of the candidates with the highest scores are guessed to have been there, a tenth with
  the lowest not to have been; so many guesses were fixed beforehand.
  """
  known = np.isfinite(scores)
  number = max(int(known.sum()) // 10, 1)
  found = audit.one_run(
    scores[known],
    is_in[known],
    claim=claim,
    num_in=number,
    num_out=number,
    confidence=confidence,
  )
  right = 1 - found.errors / found.guesses
  return {"right": right, "guesses": found.guesses, "mu": found.mu_lower, "most": found.most}
