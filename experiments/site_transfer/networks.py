"""Networks of the transfer study: one logit a pixel and class, or one a finding.

Where sites have findings of their own, the network has a head for each site; a head that no example
reaches keeps its initial weights, so that a target's is new when its training starts.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.site_transfer.config import Config
from experiments.site_transfer.setting import Pair
from medjax import losses, nets
from medjax.methods.spottune import blocks, first_level
from medjax.nets.sum_unet import FIRST_LAYERS, SumUNet
from medjax.types import Batch, Key, Model, Params, PyTree

POLICY_SHAPE = (32, 32)
"""Pixels that SpotTune's policy sees."""

_HEAD = re.compile(r"head(\d+)/")


class Task(NamedTuple):
  """A network and its loss.

  Attributes:
    network: the Linen module.
    model: the same, with logits [height, width, class] or [finding].
    loss: of logits and label; for two classes a pixel the logit of the first is 0, and
      cross-entropy is then the paper's BCE.
    first_layers: beginnings of the paths that "first-layers" tunes: first convolution and block.
    deepest: beginnings of the names of modules, the last of which gives the features of `drift`.
    block_of: path of a parameter -> its block for SpotTune.
  """

  network: Any
  model: Model
  loss: losses.SegmentationLoss
  first_layers: tuple[str, ...]
  deepest: tuple[str, ...]
  block_of: Callable[[str], str]

  def loss_fn(
    self, params: Params, example: Batch, key: Key, model_state: PyTree
  ) -> tuple[jax.Array, PyTree]:
    """Value and new running statistics, {} without BatchNorm."""
    del key
    logits, kept = self.model.apply(params, example.image, model_state=model_state, train=True)
    return self.loss(logits, example.label), kept


def task_of(config: Config, heads: tuple[int, ...]) -> Task:
  """The network for `heads`: outputs of each head, of U-Nets the number of classes."""
  if config.network == "densenet":
    module: Any = nets.DenseNet(
      num_outputs=heads,
      num_layers=config.dense_layers,
      growth=config.growth,
      width=config.widths[0],
      norm=config.norm,
    )
    first = ("stem/", "stem_norm/", "block0_layer0_")
    return Task(
      module,
      _model(module),
      losses.binary_cross_entropy,
      first,
      ("norm",),
      lambda path: re.sub(r"_(norm|conv)\d*$", "", first_level(path)),
    )
  num_outputs = 1 if heads[0] == 2 else heads[0]
  levels = ("encoder", "down")
  if config.network == "sum_unet":
    module = SumUNet(num_outputs=num_outputs, width=config.widths[0], norm=config.norm)
    first = FIRST_LAYERS
  else:
    module = nets.UNet(num_outputs=num_outputs, widths=config.widths, norm="group")
    first = ("encoder0/",)
  model = _model(module, is_binary=num_outputs == 1)
  return Task(module, model, losses.cross_entropy, first, levels, first_level)


def as_float(image: jax.Array) -> jax.Array:
  """Pictures of 8 bits in [0, 1]."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image


def _model(module: Any, *, is_binary: bool = False) -> Model:
  bare = nets.from_linen(module)

  def apply(params: Params, image: jax.Array, **options: Any) -> tuple[jax.Array, PyTree]:
    logits, state = bare.apply(params, as_float(image), **options)
    if is_binary:
      logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    return logits, state

  return Model(bare.init, apply)


def head_of(path: str) -> int | None:
  """Number of the head that a parameter belongs to, None for all else."""
  found = _HEAD.match(path)
  return int(found[1]) if found else None


def policy_of(task: Task, params: Params, pair: Pair) -> tuple[Model, Callable[..., jax.Array]]:
  """SpotTune's policy: a small residual network that sees the image at 32 x 32 pixels.

  The target's new head is always tuned: its frozen copy has learnt nothing.
  """
  names = blocks(params, task.block_of)
  new = np.array([pair.has_new_head and head_of(f"{n}/") == pair.target_head for n in names])
  network = nets.ResNet9(num_outputs=len(names), widths=(4, 8, 16, 16), num_groups=4)
  model = nets.from_linen(network)

  def policy_fn(policy: Params, example: Batch) -> jax.Array:
    image = as_float(example.image)
    small = jax.image.resize(image, (*POLICY_SHAPE, image.shape[-1]), "linear")
    return jnp.where(new, 1e6, model.apply(policy, small)[0])

  return model, policy_fn
