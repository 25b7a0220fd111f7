"""What the Learn2Synth studies share: one `Task` that synthesises, segments and compares."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import data, loading, losses, metrics, nets, rng, study, synth, synthesisers, train
from medjax.methods.learn2synth import SynthState
from medjax.types import Batch, Evaluator, Key, Model, Params, PyTree, Stream, TrainState


@dataclasses.dataclass(frozen=True)
class Task:
  """Segmentation of real images by a network that trains on synthetic ones.

  Attributes:
    model: the network, one example [*space, 1] -> logits [*space, class].
    generator: label map -> image in [0, 1].
    augmentation: the learnable part, applied to the generator's image.
    loss: compares logits and target.
  """

  model: Model
  generator: synth.Generator
  augmentation: synth.LearnableAugmentation
  loss: losses.SegmentationLoss

  def synthesise(self, theta: PyTree, key: Key, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One synthetic image [*space, 1] and its target class ids [*space]."""
    return self.synthesiser(theta)(key, label)

  def synthesiser(
    self, theta: PyTree, label_values: tuple[int, ...] = (0,), axis: int | None = None
  ) -> synthesisers.Synthesiser:
    """Generator and augmentation at theta as one function, which can be saved."""
    return synthesisers.Synthesiser(self.generator, self.augmentation, theta, label_values, axis)

  def inner_loss(self, params: Params, theta: PyTree, example: Any, key: Key) -> jax.Array:
    """Loss on an image synthesised from the example's label map."""
    image, target = self.synthesise(theta, key, example.label)
    return self.loss(self.model.apply(params, image)[0], target)

  def outer_loss(self, params: Params, example: Batch, key: Key) -> jax.Array:
    """Loss on the example's real image."""
    del key
    return self.loss(self.model.apply(params, example.image)[0], example.label)

  def fixed_loss(self, params: Params, example: "Draw", key: Key) -> jax.Array:
    """Loss on a synthetic image whose theta travels in the batch: one program for all."""
    return self.inner_loss(params, example.theta, example, key)

  def first_params(self, key: Key, shape: tuple[int, ...]) -> Params:
    """First weights of the network of the study whose key this is."""
    return self.model.init(rng.stream(key, "weights"), jnp.zeros((*shape, 1)))[0]

  def mean_dice(self, cases: Batch) -> Evaluator:
    """Mean foreground Dice over cases and classes."""
    num_classes = self.generator.grouping.num_targets

    def evaluate(state: TrainState) -> dict[str, float]:
      found = dice(self.predict(state.params, cases.image), cases.label, num_classes)
      return {"dice": float(np.nanmean(found))}

    return evaluate

  def mean_loss(self, params: Params, cases: Batch, batch_size: int = 64) -> float:
    """Mean outer loss over all cases."""
    values = [
      self._losses(params, cases.image[i : i + batch_size], cases.label[i : i + batch_size])
      for i in range(0, len(cases.weight), batch_size)
    ]
    return float(np.concatenate(values).mean(dtype=np.float64))

  @functools.cached_property
  def predict(self) -> study.ChunkedPredictor:
    """`predict(params, images)`: class ids [case, *space] of real images [case, *space, 1]."""
    return study.ChunkedPredictor(
      lambda params, image: self.model.apply(params, image)[0].argmax(-1)
    )

  @functools.cached_property
  def _losses(self):
    one = lambda params, image, label: self.loss(self.model.apply(params, image)[0], label)  # noqa: E731
    return jax.jit(jax.vmap(one, (None, 0, 0)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draw:
  """Label maps to synthesise from, each with its theta; `index` and `draw` as in `Batch`."""

  label: Any
  theta: Any
  index: Any
  draw: Any


def network(num_classes: int, widths: tuple[int, ...]) -> nets.UNet:
  """The studies' U-Net: ELU as in Learn2Synth, instance norm so that examples never couple."""
  return nets.UNet(num_outputs=num_classes, widths=widths, norm="instance", activation="elu")


def unet(num_classes: int, widths: tuple[int, ...]) -> Model:
  """`network` as a Model."""
  return nets.from_linen(network(num_classes, widths))


def save(
  directory: train.RunDirectory,
  one: study.Trained,
  task: Task,
  module: nets.UNet,
  source: data.NnUNetFolder,
  *,
  patch: tuple[int, ...],
  axis: int | None,
  residual: nets.UNet | None = None,
) -> None:
  """Writes what a training left: weights for `medjax.predict`, and what synthesiser it learnt.

  Args:
    directory: of the run.
    one: the training.
    task: with the augmentation that it learnt.
    module: of the network.
    source: that the images come from.
    patch: pixels or voxels of the network's input.
    axis: across which volumes were cut, None for volumes.
    residual: the network inside a `synth.UNetResidual`.
  """
  weights = directory.path / loading.FOLDER / f"{one.name}{loading.SUFFIX}"
  preprocess = source.preprocessing(patch=patch, axis=axis)
  loading.save_member(weights, one.params, preprocess, network=module)
  if isinstance(one.state.extra, SynthState):
    made = task.synthesiser(one.state.extra.theta, source.label_values, axis)
    path = directory.path / synthesisers.FOLDER / f"{one.name}{synthesisers.SUFFIX}"
    synthesisers.save(path, made, network=residual)


def dice_and_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Soft Dice plus cross-entropy, equal weights (nnU-Net's sum)."""
  return losses.soft_dice(logits, label) + losses.cross_entropy(logits, label)


def with_theta(stream: Stream, theta: PyTree) -> Stream:
  """The stream's label maps as `Draw`s that all carry `theta`."""

  def draw(step: int) -> Draw:
    batch = stream(step)
    size = len(batch.index)
    return Draw(
      label=batch.label,
      theta=jax.tree.map(lambda x: np.broadcast_to(x, (size, *np.shape(x))), theta),
      index=batch.index,
      draw=batch.draw,
    )

  return draw


def dice(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
  """Dice [case, class] of the foreground classes."""
  return np.asarray(_dice(jnp.asarray(prediction), jnp.asarray(target), num_classes))


@functools.partial(jax.jit, static_argnums=2)
def _dice(prediction: jax.Array, target: jax.Array, num_classes: int) -> jax.Array:
  return jax.vmap(lambda p, t: metrics.dice(p, t, num_classes=num_classes))(prediction, target)
