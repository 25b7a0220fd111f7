"""What all trainings of the replay study share: data, network, loss, prediction and tests."""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.ms_replay.config import Config
from experiments.ms_replay.hospitals import Setting
from medjax import methods, nets, rng, train
from medjax.data.streams.volume_pool import cut_patches
from medjax.grads.sketch import sketched
from medjax.inference import window
from medjax.methods.distillation import held_to_teacher
from medjax.methods.ewc import fisher_anchor
from medjax.nets.residual_unet import Encoder, ResidualUNet
from medjax.ops.soft_segmentation import normalised_relu, soft_overlap_loss
from medjax.types import Evaluator, Key, LossFn, Model, Params, Step, Stream, TrainState

Split: TypeAlias = dict[str, dict[str, tuple[int, ...]]]
"""Centre -> "train" or "test" -> positions of volumes."""
Scores: TypeAlias = dict[str, dict[str, np.ndarray]]
"""Centre -> metric -> [test volume], or [test person] once they are averaged."""


class Bench:
  """What all trainings of a study share: data, network, loss, compiled prediction.

  Attributes:
    config, setting, directory: of the run.
    model: the network.
    flops: arm -> operations of an update.
  """

  def __init__(self, config: Config, setting: Setting, directory: train.RunDirectory):
    self.config, self.setting, self.directory = config, setting, directory
    self.flops: dict[str, float] = {}
    self._steps: dict[tuple[LossFn, int], Step] = {}
    self.module = ResidualUNet(widths=config.widths, dropout=config.dropout)
    self.model: Model = nets.from_linen(self.module)
    coupled = config.couple_batch

    def logits(params: Params, example: Any, key: Key, *, train: bool = True) -> jax.Array:
      x = example["image"] if isinstance(example, dict) else example
      return self.model.apply(params, x, key=key, train=train)[0][..., 0]

    def label_loss(output: jax.Array, example: Any) -> jax.Array:
      prediction = normalised_relu(output, couple_batch=coupled)
      return soft_overlap_loss(prediction, example["label"], couple_batch=coupled)

    def loss_fn(params: Params, example: Any, key: Key) -> jax.Array:
      return label_loss(logits(params, example, key), example)

    self.logits, self.loss_fn = logits, loss_fn
    self.taught_loss = held_to_teacher(logits, label_loss)
    key = jax.random.key(0)
    self.outputs = jax.jit(
      jax.vmap(lambda params, x: logits(params, x, key, train=False), (None, 0))
    )
    self.activation = jax.jit(normalised_relu)
    self.features = jax.jit(jax.vmap(self._features, (None, 0)))
    self.sketches = jax.jit(sketched(loss_fn, size=256))
    self.fisher = jax.jit(functools.partial(fisher_anchor, loss_fn))

  def _features(self, params: Params, image: jax.Array) -> jax.Array:
    """Mean over space of what the encoder hands down, of one patch."""
    shared = (self.module.widths, None, self.module.convolution, image.ndim == 4)
    x, _ = Encoder(*shared, dropout=0.0).apply({"params": params["encoder"]}, image[None], False)
    return x.mean(tuple(range(x.ndim - 1)))

  def first_params(self, seed: int, stage: int = 0) -> Params:
    key = jax.random.fold_in(rng.stream(jax.random.key(seed), "parameters"), stage)
    return self.model.init(key, jnp.zeros((*self.config.patch, self.setting.image.shape[-1])))[0]

  def steps_of(self, num_volumes: int, num_centres: int = 1) -> int:
    config = self.config
    if config.num_epochs > 0:
      return max(round(config.num_epochs * -(-num_volumes // config.batch_size)), 1)
    return config.num_steps * num_centres

  def optimiser(self, num_steps: int) -> optax.GradientTransformation:
    third = max(num_steps // 3, 1)
    rate = optax.piecewise_constant_schedule(
      self.config.learning_rate, {third: 0.5, 2 * third: 0.5}
    )
    return optax.adamw(rate, weight_decay=self.config.weight_decay)

  def supervised(self, num_steps: int, loss_fn: LossFn | None = None) -> Step:
    """One Step for all trainings of one loss and length."""
    key = (loss_fn or self.loss_fn, num_steps)
    if key not in self._steps:
      self._steps[key] = methods.supervised(key[0], self.optimiser(num_steps))
    return self._steps[key]

  def patches(
    self,
    drawn: Stream,
    seed: int,
    name: str,
    stored: tuple[Any, np.ndarray] | None = None,
    *,
    per_volume: int | None = None,
  ) -> Stream:
    config = self.config
    return cut_patches(
      self.setting.pool,
      drawn,
      config.patch,
      seed,
      per_volume=config.patches_per_volume if per_volume is None else per_volume,
      foreground_fraction=config.foreground_fraction,
      standardise=config.standardise_patches,
      turn=0.1 if config.patch[0] == config.patch[1] else 0.0,
      stored=stored,
      name=name,
    )

  def evaluators(
    self, split: Split, num_steps: int, validation: Sequence[int]
  ) -> dict[str, Evaluator]:
    """Dice of every test volume at the last step; soft Dice on validation volumes before.

    In a private run people's values are in no row: see `tested`.
    """

    def test(state: TrainState) -> dict[str, float]:
      if int(state.step) < num_steps:
        return {}
      return {
        f"{centre}|{place}|{metric}": value
        for centre, parts in split.items()
        for place, row in enumerate(parts["test"])
        for metric, value in self.score(state.params, row).items()
      }

    found: dict[str, Evaluator] = {} if self.directory.private else {"test": test}
    if validation:

      def validate(state: TrainState) -> dict[str, float]:
        soft = [self.score(state.params, row)["soft_dice"] for row in validation]
        return {"soft_dice": float(np.mean(soft))}

      found["validation"] = validate
    return found

  def tested(self, params: Params, split: Split) -> Scores:
    """{centre: {metric: [test volume]}}."""
    found = {}
    for centre, parts in split.items():
      each = [self.score(params, row) for row in parts["test"]]
      found[centre] = {m: np.array([one[m] for one in each]) for m in each[0]}
    return found

  def predicted(self, params: Params, row: int) -> np.ndarray:
    """[*space] soft prediction of one volume, whose maximum, not a window's, is 1."""
    return np.asarray(self.activation(self._logits(params, row)))

  def stored_output(self, params: Params, row: int) -> np.ndarray:
    """[*space] logits of one volume in half precision, which DER++ keeps."""
    return self._logits(params, row).astype(np.float16)

  def _logits(self, params: Params, row: int) -> np.ndarray:
    config, image = self.config, self.setting.image[row]
    patch = config.window or image.shape[:-1]
    found = window.slide(
      lambda batch: self.outputs(params, batch)[..., None],
      image,
      patch,
      overlap=config.overlap,
      batch_size=1 if patch == image.shape[:-1] else 4,
    )
    return found[..., 0]

  def score(self, params: Params, row: int) -> dict[str, float]:
    return scores_of(self.predicted(params, row), self.setting.label[row])


def scores_of(prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
  """Dice of both above one half, 1 where both are empty; and of the soft values."""
  ours, theirs = prediction > 0.5, label > 0.5
  total, soft = ours.sum() + theirs.sum(), prediction.sum() + label.sum()
  return {
    "dice": float(2 * (ours & theirs).sum() / total) if total else 1.0,
    "soft_dice": float(2 * (prediction * label).sum() / soft) if soft else 1.0,
  }
