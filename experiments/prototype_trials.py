"""Trainings of plain networks and of prototypes on one set of pictures, and their answers.

Not a study: what `experiments.prototypes` compares.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from experiments import prototype_learning as learning
from medjax import data, methods, nets, rng, study
from medjax.grads import weights
from medjax.train import RunDirectory
from medjax.types import Array, Key, Params, Step

BOTH, GLOBAL, LOCAL = (True, True), (True, False), (False, True)


@dataclasses.dataclass(frozen=True)
class Settings(study.Settings):
  """What every training is told."""

  num_prototypes: int = 5  # of each class and branch
  code: int = 32  # width of what is likened
  widths: tuple[int, ...] = (16, 32)  # channels of the convolutions, () for maps of a backbone
  temperature: float = 0.07  # that cosines are divided by: the code's; 1 is the paper's
  has_sigmoid: bool = True  # whether branches end in a sigmoid, as in the code
  strength: float = 0.01  # lambda of the pull to the centroids
  low: float = 0.1  # lambda of LOW
  num_steps: int = 400  # updates
  second_steps: int = 200  # updates of the second stage
  batch_size: int = 48  # pictures an update
  learning_rate: float = 1e-3  # Adam's; ten times it for prototypes and the second stage


class Trials:
  """One set of pictures; the same Steps for all seeds."""

  def __init__(
    self, config: Settings, image: np.ndarray, label: np.ndarray, num_classes: int, num_train: int
  ):
    """Pictures or maps [n, *space, channel], their classes, and how many train in each seed."""
    self.config, self.image, self.label, self.num_classes = config, image, label, num_classes
    sizes: dict[str, Any] = {
      "num_classes": num_classes, "num_prototypes": config.num_prototypes, "code": config.code,
      "widths": config.widths,
    }  # fmt: skip
    self.net = nets.Prototypes(
      **sizes, temperature=config.temperature, has_sigmoid=config.has_sigmoid
    )
    self.printed = nets.Prototypes(**sizes, temperature=1.0, has_sigmoid=False)
    self.plain = learning.Plain(num_classes, config.code, config.widths)
    self.epoch_steps = max(num_train // config.batch_size, 1)
    self._steps: dict[str, Step] = {}
    self._say: dict[str, study.ChunkedPredictor] = {}

  def weigh(self) -> weights.Weigher:
    return weights.low(self.config.low)

  def module(self, arm: str, *, is_plain: bool) -> Any:
    return self.plain if is_plain else self.printed if arm == "printed" else self.net

  def step(self, arm: str, how: dict[str, Any], train: np.ndarray) -> Step:
    """The Step of an arm; `how` as its row says, without "branches" a plain network's."""
    if arm not in self._steps:
      own: dict[str, Any] = {**how, **({"weigh": self.weigh()} if how.get("weigh") else {})}
      if "branches" in how:
        own.setdefault("strength", self.config.strength)
        self._steps[arm] = learning.step_of(
          self.module(arm, is_plain=False),
          learning.optimiser(self.config.learning_rate),
          **own,
          epoch_steps=self.epoch_steps,
        )
      else:
        if own.pop("by_class", False):
          counts = np.bincount(self.label[train], minlength=self.num_classes)
          own["class_weights"] = (counts.sum() / (self.num_classes * counts)).astype(np.float32)
        tx = optax.adam(self.config.learning_rate)
        self._steps[arm] = learning.plain_step(self.plain, tx, **own)
    return self._steps[arm]

  def train(
    self, arm: str, how: dict[str, Any], train: np.ndarray, seed: int, directory: RunDirectory
  ) -> study.Trained:
    """A training of an arm on the pictures at `train`; the same first weights for all of a kind."""
    key = jax.random.key(seed)
    module = self.module(arm, is_plain="branches" not in how)
    params = jax.jit(module.init)(rng.stream(key, "parameters"), self.image[0])
    store = {"image": self.image[train], "label": self.label[train]}
    stream = data.batches(store, self.config.batch_size, key, name="pictures")
    step, num = self.step(arm, how, train), self.config.num_steps
    job = study.Job(f"{arm}-{seed}", step, stream, params, key, num)
    return study.train_job(job, directory, log_every=self.config.log_every)

  def logits(self, arm: str, how: dict[str, Any], params: Params, rows: np.ndarray) -> np.ndarray:
    """[picture, class]; of two branches the logarithm of their mean probability."""
    branches = how.get("branches")
    if arm not in self._say:
      module = self.module(arm, is_plain=branches is None)

      def run(params: Params, image: Array) -> Array:
        found: Any = module.apply(params, image)
        if branches is None:
          return found
        return found.probabilities if branches == BOTH else found.logits[int(branches == LOCAL)]

      self._say[arm] = study.ChunkedPredictor(run, chunk=32)
    found = self._say[arm](params, self.image[rows])
    return np.log(np.maximum(found, 1e-9)) if branches == BOTH else found

  def likeness(self, params: Params, rows: np.ndarray) -> np.ndarray:
    """[picture, branch, class, prototype]."""
    if "likeness" not in self._say:

      def run(params: Params, image: Array) -> Array:
        found: Any = self.net.apply(params, image)
        return found.likeness

      self._say["likeness"] = study.ChunkedPredictor(run, chunk=32)
    return self._say["likeness"](params, self.image[rows])

  def second(
    self,
    arm: str,
    joint: study.Trained,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
    directory: RunDirectory,
  ) -> tuple[np.ndarray, study.Trained, float]:
    """Logits of the second stage on a joint network, its training, and the share that is kept."""
    if "second" not in self._steps:
      self._steps["second"] = methods.supervised(
        learning.second_loss(self.config.temperature), optax.adam(10 * self.config.learning_rate)
      )
    known, new = (self.likeness(joint.params, rows) for rows in (train, test))
    mask = learning.pruned(known) if arm == "pruned" else np.ones(known.shape[1:], bool)
    key: Key = jax.random.key(seed)
    own = {
      "likeness": known.reshape(len(known), -1),
      "mask": np.broadcast_to(mask.ravel(), (len(known), mask.size)).astype(np.float32),
      "label": self.label[train],
    }
    start = {"weights": learning.block_weights(self.num_classes, self.config.num_prototypes)}
    job = study.Job(
      f"{arm}-{seed}",
      self._steps["second"],
      data.batches(own, self.config.batch_size, key, name="second stage"),
      jax.tree.map(jax.numpy.asarray, start),
      key,
      self.config.second_steps,
      inherited=joint.params,
    )
    one = study.train_job(job, directory, log_every=self.config.log_every)
    masked = new.reshape(len(new), -1) * mask.ravel()
    logits = masked @ np.asarray(one.params["weights"]).T / (2 * self.config.temperature)
    return logits, one, float(mask.mean())
