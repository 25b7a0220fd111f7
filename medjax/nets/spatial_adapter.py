"""A spatial adapter: what is trained on the last features of a frozen network, for one structure.

Silva-Rodriguez, Dolz & Ben Ayed, "Towards Foundation Models and Few-Shot Parameter-Efficient
Fine-Tuning for Volumetric Organ Segmentation" (2023):

  y = f(N(W_2 * f(N(W_1 * z))) + N(W_3 * z)),  logit = w . y + b     f: leaky ReLU, N: norm

with three convolutions of 3^d. On the 48 channels of SwinUNETR they have 3 x 62,208 = 186,624
parameters. The paper's 209.6 K are those of that network's last decoder block, 18,432 to double the
grid and 124,416 + 62,208 + 4,608 in its convolutions: 209,664, which it reports for both.

DEVIATION: a norm of each example where the paper has batch norm; few shots make small batches.
"""

import functools

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from medjax.ops import conv


class SpatialAdapter(nn.Module):
  """Logits of one structure, [*space], from features [*space, channel], 2D or 3D.

  >>> import jax.numpy as jnp
  >>> net, features = SpatialAdapter(), jnp.ones((4, 4, 4, 48))
  >>> params = jax.eval_shape(net.init, jax.random.key(0), features)
  >>> sum(x.size for x in jax.tree.leaves(params))  # 186,624, norms of 3 x 96, and 49
  186961

  Attributes:
    convolves: False leaves the linear probe, w . z + b: 49 parameters on 48 channels.
    convolution: implementation of `ops.conv`.
  """

  convolves: bool = True
  convolution: conv.Implementation = "auto"

  @nn.compact
  def __call__(self, features: Float[Array, "*space channel"]) -> Float[Array, "*space"]:
    """Logits; a probability is their sigmoid."""
    x = features[None]
    if self.convolves:
      inner = nn.leaky_relu(self._normed(x, "1"))
      x = nn.leaky_relu(self._normed(inner, "2") + self._normed(x, "3"))
    return nn.Dense(1, name="head")(x)[0, ..., 0]

  def _normed(self, x: jax.Array, name: str) -> jax.Array:
    layer = nn.Conv(
      x.shape[-1],
      (3,) * (x.ndim - 2),
      use_bias=False,
      conv_general_dilated=functools.partial(
        conv.conv_general_dilated, implementation=self.convolution
      ),
      name=f"conv{name}",
    )
    return nn.GroupNorm(num_groups=None, group_size=1, name=f"norm{name}")(layer(x))
