"""Where the released code of Learn2Synth departs from the paper, each departure under its own name.

  doubled         the image is added to what the augmentation has made of it, which is an image
                  already, so that it comes out twice as bright
  batch_field     all synthetic images of a batch share one random field; the real images that they
                  are held to have one each
  released_dice   soft Dice alone, with squares below and voxels / classes added above and below,
                  which leaves small structures nearly without a gradient
  one_rate        the network's Adam and rate serve the augmentation too, and nothing decays
  raw_parameters  the noise level may turn negative; exponents are sigmoids, which reach neither 0
                  nor 1

Read in HuXiaoling/Learn2Synth@fc0fc26: train.py, optim.py, losses.py, scripts/train_noise_bias.py.
Not a study: options of `real_images`.
"""

import dataclasses
import math
from typing import Any, Protocol

import jax
import numpy as np
import optax

from experiments.learn2synth import synthetic_training
from medjax import losses, rng, synth
from medjax.types import Key, Params, PyTree, Stream


class Departures(Protocol):
  """The settings that this file reads."""

  @property
  def doubled(self) -> bool: ...
  @property
  def released_dice(self) -> bool: ...
  @property
  def one_rate(self) -> bool: ...
  @property
  def raw_parameters(self) -> bool: ...
  @property
  def num_steps(self) -> int: ...
  @property
  def learning_rate(self) -> float: ...
  @property
  def theta_learning_rate(self) -> float: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchDraw:
  """Label maps to synthesise from, with the key data of the field that the batch shares."""

  label: Any
  field: Any
  index: Any
  draw: Any


def augmentation(config: Departures) -> synth.ParametricAugmentation:
  """The augmentation that is learnt."""
  raw = config.raw_parameters
  return synth.ParametricAugmentation(
    residual=config.doubled,
    exponents="sigmoid" if raw else "real",
    sigma="identity" if raw else "softplus",
  )


def loss(config: Departures) -> losses.SegmentationLoss:
  """Of one image."""
  return released_dice if config.released_dice else synthetic_training.dice_and_cross_entropy


def released_dice(logits: jax.Array, label: jax.Array) -> jax.Array:
  """1 - mean over classes of (2 sum p r + e) / (sum p^2 + sum r^2 + e), e = voxels / classes."""
  smooth = math.prod(label.shape) / logits.shape[-1]
  return losses.soft_dice(logits, label, smooth=smooth, denominator="squares")


def optimisers(
  config: Departures,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
  """Of the network and of the augmentation."""
  if config.one_rate:
    return optax.adam(config.learning_rate, eps_root=1e-16), optax.adam(config.learning_rate)
  decaying = lambda rate: optax.cosine_decay_schedule(rate, config.num_steps, alpha=0.05)  # noqa: E731
  network = optax.adam(decaying(config.learning_rate), eps_root=1e-16)
  return network, optax.adam(decaying(config.theta_learning_rate))


def with_batch_field(stream: Stream, seed: int) -> Stream:
  """The stream's label maps as `BatchDraw`s, one field a batch and another one at the next."""
  key = rng.stream(jax.random.key(seed), "field of a batch")

  def draw(step: int) -> BatchDraw:
    batch = stream(step)
    field = np.asarray(jax.random.key_data(jax.random.fold_in(key, step)))
    fields = np.broadcast_to(field, (len(batch.index), *field.shape))
    return BatchDraw(batch.label, fields, batch.index, batch.draw)

  return draw


def batch_field_loss(
  task: synthetic_training.Task, params: Params, theta: PyTree, example: BatchDraw, key: Key
) -> jax.Array:
  """`Task.inner_loss` whose field is the batch's; the noise stays each image's own."""
  generator_key, augmentation_key = rng.streams(key, "generator", "augmentation")
  image, raw = synth.generate(task.generator, generator_key, example.label)
  learnt = task.augmentation
  shared = learnt.draw(jax.random.wrap_key_data(example.field), image.shape)
  draws = learnt.draw(augmentation_key, image.shape)._replace(log_fields=shared.log_fields)
  image = learnt.apply(theta, draws, image)
  return task.loss(task.model.apply(params, image)[0], task.generator.grouping.to_target(raw))
