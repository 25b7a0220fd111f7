"""DenseNet for 2D images (Huang et al., CVPR 2017), with as many heads as there are label sets.

  stem        conv 7x7 stride 2, norm, relu, max 3x3 stride 2
  layer       x <- [x, conv3(relu(norm(conv1(relu(norm(x))))))]     `growth` new channels
  transition  norm, relu, conv 1x1 to half the channels, mean 2x2
  head        norm, relu, mean over space, dense

The defaults are DenseNet-121 as torchvision builds it: 6,953,856 parameters before the heads with
BatchNorm and three channels, 6,947,584 with one.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax import check
from medjax.nets.norms import NormKind, norm
from medjax.tree import at_least_float32

_START = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # He et al. 2015


class DenseNet(nn.Module):
  """Classifier of [height, width, channel]; logits [outputs], those of all heads in a row.

  Heads are the parameters "head0", "head1", ...: a network that moves to another label set keeps
  its head and gets a new one, and a loss takes the columns of the head that a label is for.

  Attributes:
    num_outputs: classes of each head; (14,) or, for transfer from 14 classes to 13, (14, 13).
    num_layers: number of layers of each dense block.
    growth: channels that a layer adds.
    width: channels of the stem.
    bottleneck: channels between the two convolutions of a layer, in units of `growth`.
    norm: "batch" (the original; couples the examples of a batch, see `nets.norms`) or "group".
    dtype: computation type; parameters, statistics and logits stay float32.
  """

  num_outputs: tuple[int, ...]
  num_layers: tuple[int, ...] = (6, 12, 24, 16)
  growth: int = 32
  width: int = 64
  bottleneck: int = 4
  norm: NormKind = "batch"
  dtype: DTypeLike | None = None

  def __post_init__(self):
    super().__post_init__()
    check.require(
      len(self.num_outputs) and min(self.num_outputs) > 0,
      "one head or more, each of one class or more",
      f"num_outputs={self.num_outputs}",
      "pass for example (14,)",
    )

  @nn.compact
  def __call__(
    self, image: Float[Array, "height width channel"], train: bool = False
  ) -> Float[Array, " outputs"]:
    x = self._conv(image[None], self.width, 7, "stem", stride=2)
    x = self._active(x, "stem_norm", train)
    x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
    for block, num_layers in enumerate(self.num_layers):
      if block > 0:
        x = self._active(x, f"transition{block}_norm", train)
        x = self._conv(x, x.shape[-1] // 2, 1, f"transition{block}")
        x = nn.avg_pool(x, (2, 2), (2, 2))
      for layer in range(num_layers):
        x = jnp.concatenate([x, self._layer(x, f"block{block}_layer{layer}", train)], axis=-1)
    x = self._active(x, "norm", train)
    features = at_least_float32(x).mean(axis=(0, 1, 2))
    return jnp.concatenate(
      [nn.Dense(n, name=f"head{i}")(features) for i, n in enumerate(self.num_outputs)]
    )

  def _layer(self, x: jax.Array, name: str, train: bool) -> jax.Array:
    x = self._active(x, f"{name}_norm0", train)
    x = self._conv(x, self.bottleneck * self.growth, 1, f"{name}_conv0")
    return self._conv(self._active(x, f"{name}_norm1", train), self.growth, 3, f"{name}_conv1")

  def _active(self, x: jax.Array, name: str, train: bool) -> jax.Array:
    return nn.relu(norm(self.norm, x.shape[-1], train=train, dtype=self.dtype, name=name)(x))

  def _conv(self, x: jax.Array, width: int, kernel: int, name: str, stride: int = 1) -> jax.Array:
    layer = nn.Conv(
      width,
      (kernel, kernel),
      strides=(stride, stride),
      padding=kernel // 2,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=_START,
      name=name,
    )
    return layer(x)
