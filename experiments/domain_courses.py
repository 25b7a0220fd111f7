"""Networks that learn one domain after another, each way of it a `Way`.

Not a study: what `continual_gen` compares.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments import domain_groups
from experiments.domain_sets import DomainSet
from medjax import data, losses, methods, rng, study
from medjax.methods import unit_masks
from medjax.train import RunDirectory
from medjax.types import Array, Key, Params, PyTree


class Gated(nn.Module):
  """Perceptron whose hidden units are gated."""

  widths: tuple[int, ...]
  num_classes: int

  @nn.compact
  def __call__(self, image: jax.Array, gates: Any) -> tuple[jax.Array, jax.Array]:
    x = image
    for i, width in enumerate(self.widths):
      x = nn.relu(nn.Dense(width, name=f"hidden{i}")(x)) * gates[f"hidden{i}"]
    return nn.Dense(self.num_classes, name="head")(x), x


class Way(NamedTuple):
  """How an arm learns and predicts.

  Attributes:
    learn: `learn(course, k)` trains on domain k.
    is_told: whether it is told that every set that it learns is of a new domain.
    route: `route(course, image, logits, k)` -> the subnetwork [n] of each picture of domain k, by
      the logits [subnetwork, n, class]; None: the one of domain k.
    score: of units, "taylor" or "magnitude"; for subnetworks.
    has_groups: whether clusters group a domain's features beside its classes.
    kind: of clusters, see `domain_groups.grouped`.
  """

  learn: Callable[["Course", int], None]
  is_told: bool = True
  route: Callable[["Course", np.ndarray, np.ndarray, int], np.ndarray] | None = None
  score: str = "taylor"
  has_groups: bool = True
  kind: str = "mixture"


class Subnetwork(NamedTuple):
  """Units of a domain and those it reads, and what is kept of the domain's features."""

  gates: dict[str, np.ndarray]
  groups: domain_groups.DomainGroups


class Course:
  """One arm under one seed: trains domain after domain and predicts with what it has."""

  def __init__(
    self, config: Any, arm: str, way: Way, seed: int, domains: DomainSet, directory: RunDirectory
  ):
    self.config, self.arm, self.way, self.seed = config, arm, way, seed
    self.directory = directory
    self.names, self.parts = domains.names, domains.parts
    self.key = jax.random.key(seed)
    self.module = Gated(config.widths, domains.num_classes)
    self.sizes = {f"hidden{i}": width for i, width in enumerate(config.widths)}
    self.every = {layer: np.ones(size, np.float32) for layer, size in self.sizes.items()}
    self.tx = optax.adam(config.learning_rate)
    image = np.zeros_like(self.parts["train"][0]["image"][0])
    start = jax.jit(self.module.init)(rng.stream(self.key, "parameters"), image, self.every)
    self.params: Params = start["params"]
    self.used = unit_masks.no_units(self.sizes)
    self.subnetworks: list[Subnetwork] = []
    self.of_domain: list[int] = []
    self.trained: list[study.Trained] = []
    self.anchor: methods.Anchor | None = None
    self._run = _program(self.module)

  def loss(self, params: Params, gates: Any, example: PyTree, key: Key) -> Array:
    del key
    logits = self.module.apply({"params": params}, example["image"], gates)[0]
    return losses.cross_entropy(logits, example["label"])

  def whole(self, params: Params, example: PyTree, key: Key) -> Array:
    return self.loss(params, self.every, example, key)

  def fit(self, name: str, step: Any, store: Any, num_steps: int, teach: Any = None) -> None:
    stream = data.batches(store, self.config.batch_size, self.key, name=name)
    if teach is not None:
      stream = methods.with_teacher(stream, teach, self.config.lwf_strength)
    job = study.Job(f"{self.arm}-{name}-{self.seed}", step, stream, self.params, self.key,
                    num_steps, inherited=self.params if self.trained else ())  # fmt: skip
    one = study.train_job(job, self.directory, log_every=self.config.log_every, progress=False)
    self.trained.append(one)
    self.params = one.params

  def fit_units(self, name: str, gates: Any, store: Any, num_steps: int) -> None:
    moves = unit_masks.may_move(self.params, self.used, head="head")
    own = lambda params, example, key: self.loss(params, gates, example, key)  # noqa: E731
    step = methods.supervised(own, unit_masks.only_moved(self.tx, moves))
    self.fit(name, step, store, num_steps)

  def features(self, gates: Any, image: np.ndarray) -> np.ndarray:
    speaks = np.flatnonzero(gates[f"hidden{len(self.sizes) - 1}"])
    return np.asarray(self._run(self.params, gates, image)[1])[:, speaks]

  def far(self, image: np.ndarray) -> np.ndarray:
    """[subnetwork, picture] distances over what is typical of each domain."""
    return np.stack([
      domain_groups.distances(own.groups.means, own.groups.variances,
                              self.features(own.gates, image)) / own.groups.typical
      for own in self.subnetworks
    ])  # fmt: skip

  def known(self, image: np.ndarray) -> int | None:
    """The subnetwork that a set of pictures is for, None where it is new."""
    if not self.subnetworks:
      return None
    means = self.far(image).mean(1)
    return int(means.argmin()) if means.min() <= self.config.novelty else None

  def predict(self, image: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, class] and the subnetwork [n] of each; k is for arms that know the domain."""
    if not self.subnetworks:
      logits = np.asarray(self._run(self.params, self.every, image)[0])
      return logits, np.zeros(len(image), int)
    every = np.stack([
      np.asarray(self._run(self.params, own.gates, image)[0]) for own in self.subnetworks
    ])  # fmt: skip
    if self.way.route is None:
      chosen = np.full(len(image), min(k, len(self.subnetworks) - 1))
    else:
      chosen = self.way.route(self, image, every, k)
    return every[chosen, np.arange(len(image))], chosen


# --- which subnetwork a picture is for


def nearest(course: Course, image: np.ndarray, logits: np.ndarray, k: int) -> np.ndarray:
  """That of the domain whose clusters lie nearest, picture by picture."""
  del logits, k
  return course.far(image).argmin(0)


def strongest(course: Course, image: np.ndarray, logits: np.ndarray, k: int) -> np.ndarray:
  """The one whose highest logits are highest, over so many pictures that are known to be of one
  domain (Dekhovich et al., "Continual Prune-and-Select", 2023)."""
  del image, k
  number = course.config.num_together
  response = logits.max(-1)  # [subnetwork, n]
  parts = np.split(response, range(number, response.shape[1], number), axis=1)
  return np.concatenate([np.full(own.shape[1], own.sum(1).argmax()) for own in parts])


# --- ways


def joint(course: Course, k: int) -> None:
  """All domains at once, before the first is tested."""
  if k == 0:
    stores = course.parts["train"]
    pooled = {key: np.concatenate([own[key] for own in stores]) for key in stores[0]}
    steps = course.config.num_steps * len(course.names)
    course.fit("all", methods.supervised(course.whole, course.tx), pooled, steps)


def sequential(course: Course, k: int) -> None:
  """All weights, domain after domain."""
  step = methods.supervised(course.whole, course.tx)
  course.fit(course.names[k], step, course.parts["train"][k], course.config.num_steps)


def anchored(course: Course, k: int) -> None:
  """Elastic weight consolidation."""
  store = course.parts["train"][k]
  step = methods.ewc(course.whole, course.tx, course.anchor, strength=course.config.ewc_strength)
  course.fit(course.names[k], step, store, course.config.num_steps)
  found = methods.fisher_anchor(course.whole, course.params, _some(store), course.key)
  course.anchor = methods.merged_anchors(course.anchor, found)


def without_forgetting(course: Course, k: int) -> None:
  """Learning without forgetting: held to the old network's logits on new pictures."""
  if k == 0:
    sequential(course, k)
    return
  old, run = course.params, _program(course.module)
  output = lambda params, example, key: course.module.apply(  # noqa: E731
    {"params": params}, example["image"], course.every
  )[0]
  label = lambda logits, example: losses.cross_entropy(logits, example["label"])  # noqa: E731
  step = methods.supervised(methods.held_to_teacher(output, label), course.tx)
  teach = lambda batch: run(old, course.every, batch["image"])[0]  # noqa: E731
  course.fit(course.names[k], step, course.parts["train"][k], course.config.num_steps, teach)


def units(course: Course, k: int) -> None:
  """A subnetwork of units for a new domain, or the one that there is."""
  name, store, half = course.names[k], course.parts["train"][k], course.config.num_steps // 2
  same = None if course.way.is_told else course.known(store["image"])
  if same is not None:
    course.of_domain.append(same)
    return
  course.fit_units(f"{name}-free", course.every, store, half)
  if course.way.score == "magnitude":
    scores = unit_masks.magnitude(course.params, course.every)
  else:
    scores = unit_masks.taylor(course.loss, course.params, course.every, _some(store), course.key)
  mine = unit_masks.kept(scores, course.used, course.config.share_fraction)
  gates = unit_masks.joined(course.used, mine)
  course.fit_units(name, gates, store, half)
  course.used = gates
  groups = domain_groups.grouped(
    course.features(gates, store["image"]),
    store["label"],
    sizes=course.config.groupings if course.way.has_groups else (),
    seed=course.seed,
    kind=course.way.kind,
  )
  course.of_domain.append(len(course.subnetworks))
  course.subnetworks.append(Subnetwork(gates, groups))


def _some(store: Any) -> dict[str, np.ndarray]:
  return {key: value[:256] for key, value in store.items()}


_PROGRAMS: dict[Any, Any] = {}


def _program(module: Gated) -> Any:
  """Logits and features of many pictures; one program for all courses."""
  if module not in _PROGRAMS:
    one = lambda params, gates, image: module.apply({"params": params}, image, gates)  # noqa: E731
    _PROGRAMS[module] = jax.jit(jax.vmap(one, (None, None, 0)))
  return _PROGRAMS[module]
