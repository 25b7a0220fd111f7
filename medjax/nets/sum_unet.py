"""The 2D U-Net of MMTL and OCTL: sums for skips, pre-activation, residual blocks.

In the form of the released code (github.com/yishayahu/MMTL, unet.py; its blocks are deep_pipe's),
down to the norm of the logits:

  stem    conv 3^d, 3 blocks                          x0
  down    norm, relu, conv 2^d stride 2, 3 blocks     x1, x2, and the bottleneck
  up      3 blocks, transposed conv 2^d stride 2      u <- up(u + conv1(x))
  head    3 blocks, norm, relu, conv 1, norm          logits

  block(x) = x + conv3(relu(norm(conv3(relu(norm(x))))))

With BatchNorm, 16 channels and one channel in and out: 1,561,491 parameters.
"""

import jax
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.nets.norms import NormKind, norm
from medjax.ops import conv, pooling
from medjax.tree import at_least_float32

FIRST_LAYERS = ("stem/", "stem_block0/")
"""Paths of the parameters that "fine-tune the first layers" tunes."""

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's own start; biases start at 0.
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class PreActivation(nn.Module):
  """norm, relu, convolution of [1, *space, channel]."""

  width: int
  kernel: int
  norm: NormKind
  stride: int = 1
  use_bias: bool = False
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = norm(self.norm, x.shape[-1], train=train, dtype=self.dtype, name="norm")(x)
    layer = _conv(
      self.width,
      self.kernel,
      x.ndim - 2,
      stride=self.stride,
      use_bias=self.use_bias,
      dtype=self.dtype,
      name="conv",
    )
    return layer(nn.relu(x))


class ResidualBlock(nn.Module):
  """Two pre-activated 3^d convolutions added to the input."""

  norm: NormKind
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width = x.shape[-1]
    inner = PreActivation(width, 3, self.norm, dtype=self.dtype, name="first")(x, train)
    return x + PreActivation(width, 3, self.norm, dtype=self.dtype, name="second")(inner, train)


class SumUNet(nn.Module):
  """Logits on the grid of the input, any size, 2D or 3D; modules are named as in the table above.

  The stem's convolution and first block, 4,816 parameters, are what "fine-tune the first layers"
  tunes: `only(tx, lambda path: path.startswith(FIRST_LAYERS))`.

  Attributes:
    num_outputs: output channels; 1 with a sigmoid in the paper.
    width: channels of the finest level; they double at each of the three levels below.
    num_blocks: residual blocks of each stage.
    norm: "batch" (the paper's; couples the examples of a batch, see `nets.norms`) or "group".
    norm_logits: a last norm on the logits; None: with "batch" only, since a norm of each example
      would fix the share of foreground that it may predict.
    dtype: computation type; parameters, statistics and logits stay float32.
  """

  num_outputs: int = 1
  width: int = 16
  num_blocks: int = 3
  norm: NormKind = "batch"
  norm_logits: bool | None = None
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, image: Float[Array, "*space channel"], train: bool = False
  ) -> Float[Array, "*space outputs"]:
    dims = image.ndim - 1
    x = _conv(self.width, 3, dims, dtype=self.dtype, name="stem")(image[None])
    x = self._blocks(x, "stem", train)
    skips = []
    for level in (1, 2, 3):
      skips.append(x)
      down = PreActivation(
        2 * x.shape[-1], 2, self.norm, stride=2, dtype=self.dtype, name=f"down{level}"
      )
      x = self._blocks(down(x, train), f"down{level}", train)
    for level in (2, 1, 0):
      skip = skips.pop()
      if level < 2:  # the bottleneck's blocks came last on the way down
        x = self._blocks(x, f"up{level}", train)
      x = self._up(x, skip.shape[1:-1], f"up{level}_conv")
      shortcut = _conv(
        skip.shape[-1], 1, dims, use_bias=True, dtype=self.dtype, name=f"shortcut{level}"
      )
      x = x + shortcut(skip)
    x = self._blocks(x, "head", train)
    head = PreActivation(
      self.num_outputs, 1, self.norm, use_bias=True, dtype=self.dtype, name="head"
    )
    logits = at_least_float32(head(x, train))
    if self.norm == "batch" if self.norm_logits is None else self.norm_logits:
      last = norm(self.norm, self.num_outputs, train=train, dtype=None, name="norm_logits")
      logits = last(logits)
    return logits[0]

  def _blocks(self, x: jax.Array, stage: str, train: bool) -> jax.Array:
    for i in range(self.num_blocks):
      x = ResidualBlock(self.norm, self.dtype, name=f"{stage}_block{i}")(x, train)
    return x

  def _up(self, x: jax.Array, shape: tuple[int, ...], name: str) -> jax.Array:
    """Transposed convolution to half the channels: no overlap, so a matrix for each voxel."""
    corners = 2 ** (x.ndim - 2)
    # PyTorch counts the fan of a transposed convolution over its outputs: here 2^(d-1) inputs.
    start = nn.initializers.variance_scaling(2 / (3 * corners), "fan_in", "uniform")
    layer = nn.Dense(
      corners * (x.shape[-1] // 2), use_bias=False, dtype=self.dtype, kernel_init=start, name=name
    )
    return pooling.depth_to_space(layer(x), shape)


def _conv(
  width: int,
  kernel: int,
  dims: int,
  *,
  name: str,
  stride: int = 1,
  use_bias: bool = False,
  dtype: DTypeLike | None,
) -> nn.Conv:
  return nn.Conv(
    width,
    (kernel,) * dims,
    strides=(stride,) * dims,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=_UNIFORM,
    conv_general_dilated=conv.conv_general_dilated,
    name=name,
  )
