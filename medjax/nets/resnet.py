"""ResNet9 with scale normalisation, the network of private training from scratch.

Klause et al. 2022 (arXiv:2203.00324): a ResNet of nine weight layers without batch statistics, with
one more normalisation after every residual addition. Here in the form of the gradient-alignment
paper (Sect. 4.1): Mish before GroupNorm, 2 x 2 pooling in the second, third and fourth block, 1,024
features on 32 x 32 images.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.ops import pooling
from medjax.tree import at_least_float32


class ResNet9(nn.Module):
  """Classifier of 2D images whose sides are multiples of 16; logits [outputs].

  Attributes:
    num_outputs: classes.
    widths: channels of the four convolution blocks; the residual blocks follow the second and the
      fourth.
    num_groups: groups of every GroupNorm, or fewer where a width is smaller.
    scale_norm: normalise after each residual addition.
    dtype: computation type; parameters and logits stay float32.
  """

  num_outputs: int
  widths: tuple[int, int, int, int] = (64, 128, 256, 256)
  num_groups: int = 32
  scale_norm: bool = True
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, image: Float[Array, "height width channel"]) -> Float[Array, " outputs"]:
    first, second, third, fourth = self.widths
    x = image[None]
    x = self._block(x, first, "block1")
    x = pooling.max_pool(self._block(x, second, "block2"))
    x = self._residual(x, second, "residual1")
    x = pooling.max_pool(self._block(x, third, "block3"))
    x = pooling.max_pool(self._block(x, fourth, "block4"))
    x = self._residual(x, fourth, "residual2")
    features = pooling.max_pool(x).reshape(-1)
    return nn.Dense(self.num_outputs, name="head")(at_least_float32(features))

  def _block(self, x: jax.Array, width: int, name: str) -> jax.Array:
    x = nn.Conv(width, (3, 3), dtype=self.dtype, name=f"{name}_conv")(x)
    return self._norm(mish(x), f"{name}_norm")

  def _residual(self, x: jax.Array, width: int, name: str) -> jax.Array:
    inner = self._block(x, width, f"{name}_a")
    x = x + self._block(inner, width, f"{name}_b")
    return self._norm(x, f"{name}_scale") if self.scale_norm else x

  def _norm(self, x: jax.Array, name: str) -> jax.Array:
    groups = min(self.num_groups, x.shape[-1])
    return nn.GroupNorm(num_groups=groups, dtype=self.dtype, name=name)(x)


def mish(x: jax.Array) -> jax.Array:
  """x tanh(softplus(x)) (Misra 2019)."""
  return x * jnp.tanh(nn.softplus(x))
