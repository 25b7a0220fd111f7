"""Residual U-Net of the MS replay paper: additions within a level, concatenations across the U.

As in the released code (naga-karthik/continual-learning-ms, models.py, after Isensee et al. 2017),
for any number of levels and for two or three axes. What is easy to miss there:

  one 3^d kernel a level serves both of its convolutions (levels 2 and below);
  the skip of level 1 leaves before the instance norm, those of the others after it;
  no convolution has a bias and no norm has parameters;
  coarse logits of the last level but one are upsampled and added to the fine ones.

With widths (32, 64, 128, 256) and one channel a volume has 7,080,992 parameters; the released class
holds 64 more, a second coarse head that nothing calls.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax import check
from medjax.ops import conv, pooling
from medjax.tree import at_least_float32


class _Block(nn.Module):
  """Convolutions and norms that encoder and decoder share; x is [1, *space, channel]."""

  widths: tuple[int, ...]
  dtype: DTypeLike | None
  convolution: conv.Implementation
  is_volume: bool

  def conv(self, width: int, name: str, *, size: int = 3, stride: int = 1) -> nn.Conv:
    dims = 3 if self.is_volume else 2
    return nn.Conv(
      width,
      (size,) * dims,
      strides=(stride,) * dims,
      padding=size // 2,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nn.initializers.he_normal(),
      conv_general_dilated=functools.partial(
        conv.conv_general_dilated, implementation=self.convolution
      ),
      name=name,
    )

  def norm(self, x: jax.Array) -> jax.Array:
    """Instance norm without parameters, then leaky ReLU."""
    x = nn.GroupNorm(
      num_groups=None, group_size=1, epsilon=1e-5, use_bias=False, use_scale=False, dtype=self.dtype
    )(x)
    return nn.leaky_relu(x)

  def up(self, x: jax.Array, shape: tuple[int, ...], width: int, name: str) -> jax.Array:
    return self.norm(self.conv(width, name)(pooling.upsample_nearest(self.norm(x), shape)))


class Encoder(_Block):
  """Levels down and the first way up; what moves from centre to centre in the paper."""

  dropout: float | int = 0.5

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, list[jax.Array]]:
    channels = tuple(range(1, x.ndim - 1))
    drop = nn.Dropout(self.dropout, broadcast_dims=channels, deterministic=not train)
    first, *others = self.widths
    x = residual = self.conv(first, "level0_in")(x)
    x = drop(self.conv(first, "level0_middle")(nn.leaky_relu(x)))
    x = self.conv(first, "level0_out")(nn.leaky_relu(x)) + residual
    skips = [nn.leaky_relu(x)]  # before the norm
    x = self.norm(x)
    for level, width in enumerate(others, 1):
      x = residual = self.conv(width, f"level{level}_down", stride=2)(x)
      shared = self.conv(width, f"level{level}")
      x = shared(self.norm(drop(shared(self.norm(x))))) + residual
      if level < len(others):
        x = self.norm(x)
        skips.append(x)
    return self.up(x, skips[-1].shape[1:-1], self.widths[-2], "up"), skips


class Decoder(_Block):
  """Levels up and both heads."""

  num_outputs: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, skips: list[jax.Array]) -> jax.Array:
    x = self.norm(self.conv(self.widths[-2], "entry", size=1)(x))
    coarse = None
    for level in reversed(range(len(skips))):
      width = self.widths[level]
      x = self.norm(self.conv(2 * width, f"level{level}")(jnp.concatenate([x, skips[level]], -1)))
      if level == 1:
        coarse = self.conv(self.num_outputs, "coarse_head", size=1)(x)
      if level > 0:
        x = self.conv(width, f"level{level}_narrow", size=1)(x)
        x = self.up(x, skips[level - 1].shape[1:-1], self.widths[level - 1], f"level{level}_up")
    logits = at_least_float32(self.conv(self.num_outputs, "head", size=1)(x))
    if coarse is None:
      return logits
    return logits + pooling.upsample_nearest(at_least_float32(coarse), logits.shape[1:-1])


class ResidualUNet(nn.Module):
  """The network of the MS replay paper; logits on the grid of the input, any size, one example.

  Attributes:
    num_outputs: output channels, logits.
    widths: channels of each level, finest first, at least two. "Three layers" of the paper are
      four widths: it counts the halvings.
    dropout: share of channels dropped in every level of the encoder while training, [0, 1).
    dtype: computation type; parameters and logits stay float32.
    convolution: implementation of `ops.conv`.
  """

  num_outputs: int = 1
  widths: tuple[int, ...] = (32, 64, 128, 256)
  dropout: float | int = 0.5
  dtype: DTypeLike | None = None
  convolution: conv.Implementation = "auto"

  def __post_init__(self):
    super().__post_init__()
    check.require(
      len(self.widths) >= 2, "two widths or more", f"{self.widths}", "pass for example (8, 16, 32)"
    )
    check.require(0 <= self.dropout < 1, "dropout in [0, 1)", f"{self.dropout}", "0 drops nothing")

  @nn.compact
  def __call__(
    self, image: Float[Array, "*space channel"], train: bool = False
  ) -> Float[Array, "*space outputs"]:
    shared = (self.widths, self.dtype, self.convolution, image.ndim == 4)
    x, skips = Encoder(*shared, dropout=self.dropout, name="encoder")(image[None], train)
    return Decoder(*shared, num_outputs=self.num_outputs, name="decoder")(x, skips)[0]
