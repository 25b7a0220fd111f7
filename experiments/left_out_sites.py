"""Sites that are left out in turn, and scores on them.

Not a study: what `left_out`, the frame of the studies of domain generalisation, is told and how it
scores (Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", 2021). Weights are
chosen in one of two ways, which are never mixed:
  source    the evaluation that is best on validation people of the sites that train, or the last
            weights (`Settings.choose`): roles "in-domain" and "unseen"
  oracle    the evaluation that is best on the site left out itself: role "unseen, oracle". Nobody
            who meets a new site has it; it shows what a better choice could bring at most.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.task_trials import overlaps
from medjax import check, files, losses, methods, study
from medjax.train import weights as weights_of
from medjax.tree import entry
from medjax.types import Array, Key, Params, PyTree, Source, TrainState

# --- settings and sites


@dataclasses.dataclass(frozen=True)
class Settings(study.Settings):
  """What every study that leaves sites out is told."""

  num_steps: int = 400  # updates
  batch_size: int = 32  # pictures an update
  eval_every: int = 100  # updates between two evaluations, among which weights are chosen
  choose: Literal["best", "last"] = "best"  # weights: best on validation people of sources, or last
  resample: bool = True  # sites, and classes within them, come equally often
  left_out: tuple[str, ...] = ()  # sites that are left out in turn; () takes all
  train_on: tuple[str, ...] = ()  # sites that train; () takes all but the one left out
  known: str = ""  # what is known of these data, a sentence shown beside the scores


def chosen_sites(
  sites: Mapping[str, Source], left_out: Sequence[str], train_on: Sequence[str]
) -> tuple[dict[str, Source], list[tuple[str, ...]]]:
  """The sites that take part, and those left out in each turn.

  >>> sites = dict.fromkeys("abcd")
  >>> chosen_sites(sites, (), ())[1]
  [('a',), ('b',), ('c',), ('d',)]
  >>> kept, turns = chosen_sites(sites, ("c",), ("a", "b"))
  >>> list(kept), turns
  (['a', 'b', 'c'], [('c',)])

  Args:
    sites: name -> source.
    left_out, train_on: as in `Settings`. With `train_on` there is one turn.
  Raises:
    InputError: fewer than two sites, an unknown one, or one that trains and is left out.
  """
  check.require(
    len(sites) > 1, "two sites or more", f"{list(sites)}", "pass --data SITE1 --data SITE2"
  )
  for name in (*left_out, *train_on):
    check.one_of("site", name, sites)
  both = sorted(set(left_out) & set(train_on))
  check.require(
    not both,
    "sites left out that do not train",
    f"{', '.join(both)} in left_out and in train_on",
    "take them out of one of the two",
  )
  if not train_on:
    return dict(sites), [(name,) for name in left_out or sites]
  unseen = tuple(left_out) or tuple(name for name in sites if name not in train_on)
  check.require(unseen, "a site left out", "all sites train", "leave one out of train_on")
  return {name: own for name, own in sites.items() if name in (*train_on, *unseen)}, [unseen]


def check_classes(whole: Source) -> None:
  """Refuses a site that lacks a class: a network could tell the class by the site.

  Raises:
    InputError: naming the first site and class.
  """
  seen = {(site, int(np.asarray(whole[i].label))) for i, site in enumerate(whole.domains)}
  for site in dict.fromkeys(whole.domains):
    for k, name in enumerate(whole.class_names):
      check.require(
        (site, k) in seen,
        f"pictures of every class at {site}",
        f"none of {name}",
        "leave the site out, or join classes",
      )


# --- task


@runtime_checkable
class LeftOutTask(Protocol):
  """What a study brings for one turn after another: first weights, and outputs of one image."""

  def start(self, arm: str, key: Key, image: Array) -> Params: ...
  def logits(self, params: Params, image: Array) -> Array: ...


# --- scores


class Scorer:
  """Rows of people for outputs on cases of the whole source."""

  def __init__(self, whole: Source, task: LeftOutTask, metrics: Sequence[str]):
    self.whole, self.metrics = whole, tuple(metrics)
    self._site_of = dict(zip(whole.subjects, whole.domains, strict=True))
    self._predict = study.ChunkedPredictor(task.logits, chunk=64)

  def __call__(self, params: Params, cases: PyTree, about: Mapping[str, Any]) -> list[dict]:
    outputs, label = self._predict(params, entry(cases, "image")), entry(cases, "label")
    subjects = [self.whole.subjects[i] for i in entry(cases, "index")]
    if self.metrics != ("dice",):
      found = study.classes(outputs, label, about=about, subjects=subjects, wanted=self.metrics)
      return [{**row, "domain": self._site_of[row["subject"]]} for row in found]
    each = overlaps(outputs.argmax(-1), label, outputs.shape[-1])
    owners: dict[str, list[float]] = {}
    for person, value in zip(subjects, each, strict=True):
      owners.setdefault(person, []).append(float(value))
    return [
      {
        **about,
        "case": person,
        "subject": person,
        "domain": self._site_of[person],
        "dice/all": float(np.mean(own)),
      }
      for person, own in sorted(owners.items())
    ]

  def cross_entropy(self, params: Params, cases: PyTree) -> float:
    """Mean over pictures, of classes."""
    logits, label = self._predict(params, entry(cases, "image")), entry(cases, "label")
    return float(jax.vmap(losses.cross_entropy)(jnp.asarray(logits), jnp.asarray(label)).mean())

  def score(self, rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean of the first metric over people."""
    return float(np.mean([row[f"{self.metrics[0]}/all"] for row in rows]))


class Watch:
  """Evaluators of a training: validation people choose; rows of the unseen site are put aside."""

  def __init__(
    self,
    scorer: Scorer,
    turn: study.Turn,
    weights: Callable[[TrainState], Params],
    folder: pathlib.Path,
  ):
    self.scorer, self.turn, self.weights, self.folder = scorer, turn, weights, folder

  def validation(self, state: TrainState) -> dict[str, float]:
    rows = self.scorer(self.weights(state), self.turn.validation, {})
    return {self.scorer.metrics[0]: self.scorer.score(rows)}

  def unseen(self, state: TrainState) -> dict[str, float]:
    rows = self.scorer(self.weights(state), self.turn.test["unseen"], {})
    self.folder.mkdir(parents=True, exist_ok=True)
    content = {"names": list(rows[0]), "rows": [list(row.values()) for row in rows]}
    files.write_json(self._path(int(state.step)), content)
    return {self.scorer.metrics[0]: self.scorer.score(rows)}

  def final(self, one: study.Trained) -> Params:
    """The weights that a finished training is judged by."""
    return self.weights(one.state)

  def oracle(self, one: study.Trained, about: Mapping[str, Any]) -> list[dict]:
    """Rows of the evaluation that is best on the unseen site, the first of several."""
    steps, scores = one.curve(f"unseen/{self.scorer.metrics[0]}")
    path = self._path(steps[int(np.argmax(scores))])
    check.existing_file(path, "evaluations of this training were removed: pass a new --workdir")
    content = files.read_json(path)
    names = content["names"]
    return [
      {**about, **{n: files.number(v) if "/" in n else v for n, v in zip(names, row, strict=True)}}
      for row in content["rows"]
    ]

  def _path(self, step: int) -> pathlib.Path:
    return self.folder / f"{step}.json"


class StretchWatch(Watch):
  """Averages the weights over a stretch of the training that validation chooses: SWAD.

  The Step is a `methods.segment_mean` of the period of the evaluations. Each evaluation keeps the
  mean of the weights since the last one, and the cross-entropy of validation people.
  """

  def validation(self, state: TrainState) -> dict[str, float]:
    cases = self.turn.validation
    loss = self.scorer.cross_entropy(state.params, cases)
    self.folder.mkdir(parents=True, exist_ok=True)
    path = self.folder / f"{int(state.step)}.safetensors"
    weights_of.save_weights(path, self.weights(state), {"loss": loss})
    return {**super().validation(state), "loss": loss}

  def final(self, one: study.Trained) -> Params:
    steps, _ = one.curve("validation/loss")
    found = [weights_of.read_weights(self.folder / f"{step}.safetensors") for step in steps]
    first, last = methods.flat_stretch([float(own.settings["loss"]) for own in found])
    # Segments are of equal lengths, but for a last one that the training cut short.
    lengths = np.diff([0, *steps])[first : last + 1]
    arrays = {
      name: np.average([own.arrays[name] for own in found[first : last + 1]], 0, lengths)
      for name in found[0].arrays
    }
    say = lambda text: None  # noqa: E731
    return weights_of.load_into(one.params, arrays, strict=True, say=say).params
