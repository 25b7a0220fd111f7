"""U-Net in two and three dimensions (Ronneberger et al. 2015), one example at a time.

The number of spatial axes is that of the input; the same fields describe a 2D and a 3D network.
Examples never couple: the norms are per example (instance, group) or absent.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax import check
from medjax.ops import conv, pooling
from medjax.tree import at_least_float32

ACTIVATIONS = {
  "elu": nn.elu,
  "relu": nn.relu,
  "leaky_relu": nn.leaky_relu,
  "gelu": nn.gelu,
  "silu": nn.silu,
  "softplus": nn.softplus,
}


class ConvBlock(nn.Module):
  """`num_convs` x (3^d convolution, norm, activation), optionally with a residual connection."""

  width: int
  num_convs: int
  norm: str
  activation: str
  residual: bool
  dtype: DTypeLike | None
  convolution: conv.Implementation

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dims = x.ndim - 2
    activation = ACTIVATIONS[self.activation]
    skip = x
    for i in range(self.num_convs):
      x = nn.Conv(
        self.width,
        (3,) * dims,
        use_bias=self.norm == "none",
        dtype=self.dtype,
        conv_general_dilated=functools.partial(
          conv.conv_general_dilated, implementation=self.convolution
        ),
        name=f"conv{i}",
      )(x)
      if self.norm == "instance":
        x = nn.GroupNorm(num_groups=None, group_size=1, dtype=self.dtype, name=f"norm{i}")(x)
      elif self.norm == "group":
        x = nn.GroupNorm(num_groups=min(8, self.width), dtype=self.dtype, name=f"norm{i}")(x)
      is_last = i + 1 == self.num_convs
      if is_last and self.residual:
        if skip.shape[-1] != self.width:
          skip = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="project")(skip)
        x = x + skip
      x = activation(x)
    return x


class UNet(nn.Module):
  """Encoder-decoder with skip connections; logits on the grid of the input, any size.

  Attributes:
    num_outputs: output channels (classes), logits.
    widths: channels of each level, finest first; their number is the depth.
    num_convs: convolutions of 3^d per block.
    norm: "none", "instance", or "group" (8 groups, fewer where the width is smaller).
    activation: a key of `ACTIVATIONS`; "silu", "gelu" and "softplus" are smooth.
    residual: add each block's input to its output (projected where the widths differ).
    downsample: "max", "mean" or "conv" (3^d with stride 2).
    upsample: "linear", "nearest" or "transpose" (2^d kernel with stride 2).
    dtype: computation type (jnp.bfloat16 on accelerators); parameters and logits stay float32.
    convolution: implementation of `ops.conv`; "auto" chooses for the backend.
    num_auxiliary: heads for deep supervision on the decoder levels above the finest, each at half
      the resolution of the one before; at most `len(widths) - 2`. Only `train=True` computes them.
    remat: keep the results of blocks alone for the backward pass and compute what lies in them
      again: one forward pass more, and the memory of the largest block instead of all of them.
  """

  num_outputs: int
  widths: tuple[int, ...] = (16, 32, 64)
  num_convs: int = 2
  norm: Literal["none", "instance", "group"] = "instance"
  activation: str = "leaky_relu"
  residual: bool = False
  downsample: Literal["max", "mean", "conv"] = "max"
  upsample: Literal["linear", "nearest", "transpose"] = "linear"
  dtype: DTypeLike | None = None
  convolution: conv.Implementation = "auto"
  num_auxiliary: int = 0
  remat: bool = False

  def __post_init__(self):
    super().__post_init__()
    most = max(len(self.widths) - 2, 0)
    check.in_interval("num_auxiliary", self.num_auxiliary, 0, most)

  @nn.compact
  def __call__(
    self, image: Float[Array, "*space channel"], train: bool = False
  ) -> Float[Array, "*space outputs"] | tuple[jax.Array, ...]:
    """Logits; with `num_auxiliary` and `train` a tuple of them, finest first.

    Auxiliary logits of level i have the shape ceil(space / 2^i).
    """
    x = image[None]
    skips, auxiliary = [], []
    for level, width in enumerate(self.widths):
      if level > 0:
        x = self._down(x, level)
      x = self._block(width, f"encoder{level}")(x)
      skips.append(x)
    skips.pop()
    for level in reversed(range(len(self.widths) - 1)):
      skip = skips.pop()
      x = self._up(x, skip.shape[1:-1], level)
      x = self._block(self.widths[level], f"decoder{level}")(jnp.concatenate([x, skip], axis=-1))
      if 1 <= level <= self.num_auxiliary and (train or self.is_initializing()):
        auxiliary.append(self._head(x, f"head{level}"))
    logits = self._head(x, "head")
    return (logits, *reversed(auxiliary)) if self.num_auxiliary and train else logits

  def _head(self, x: jax.Array, name: str) -> jax.Array:
    return nn.Dense(self.num_outputs, name=name)(at_least_float32(x))[0]

  def _block(self, width: int, name: str) -> ConvBlock:
    block: Any = nn.remat(ConvBlock) if self.remat else ConvBlock
    return block(
      width,
      self.num_convs,
      self.norm,
      self.activation,
      self.residual,
      self.dtype,
      self.convolution,
      name=name,
    )

  def _down(self, x: jax.Array, level: int) -> jax.Array:
    if self.downsample == "max":
      return pooling.max_pool(x)
    if self.downsample == "mean":
      return pooling.mean_pool(x)
    dims = x.ndim - 2
    return nn.Conv(
      x.shape[-1],
      (3,) * dims,
      strides=(2,) * dims,
      dtype=self.dtype,
      conv_general_dilated=functools.partial(
        conv.conv_general_dilated, implementation=self.convolution
      ),
      name=f"down{level}",
    )(x)

  def _up(self, x: jax.Array, shape: tuple[int, ...], level: int) -> jax.Array:
    if self.upsample == "linear":
      return pooling.upsample_linear(x, shape)
    if self.upsample == "nearest":
      return pooling.upsample_nearest(x, shape)
    corners = 2 ** (x.ndim - 2)
    x = nn.Dense(corners * self.widths[level], dtype=self.dtype, name=f"up{level}")(x)
    return pooling.depth_to_space(x, shape)
