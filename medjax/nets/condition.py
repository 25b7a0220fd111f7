"""Instance norm whose scale and shift come from a condition, such as a site or a kind of picture.

Shin, Kim & Baek, "CEmb-SAM" (2023): with a vector e of the condition,

  gamma = W_2 relu(W_1 W_gamma e),   beta = W_2 relu(W_1 W_beta e),
  CIN(x | gamma, beta) = gamma (x - E[x]) / (sqrt(Var[x]) + epsilon) + beta

with moments over the pixels of one image, channel by channel, and

  z = relu(CIN(conv(relu(CIN(conv(x))))))       between the encoder and the decoder of a segmenter.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

_EPSILON = 1e-5


def conditional_instance_norm(
  x: Float[Array, "*space channel"],
  gamma: Float[Array, " channel"],
  beta: Float[Array, " channel"],
) -> Float[Array, "*space channel"]:
  """gamma (x - E[x]) / (sqrt(Var[x]) + epsilon) + beta; gamma 1 and beta 0 are instance norm.

  >>> x = jnp.arange(8.0).reshape(4, 2)
  >>> y = conditional_instance_norm(x, jnp.ones(2), jnp.zeros(2))
  >>> [round(float(v), 3) for v in (y[:, 0].mean(), y[:, 0].std())]
  [0.0, 1.0]
  """
  axes = tuple(range(x.ndim - 1))
  apart = x - x.mean(axes, keepdims=True)
  variance = jnp.square(apart).mean(axes, keepdims=True)
  # sqrt has no slope at 0, where a channel is constant: the inner where keeps gradients finite.
  std = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
  shape = (1,) * (x.ndim - 1) + (-1,)
  return gamma.reshape(shape) * apart / (std + _EPSILON) + beta.reshape(shape)


class ConditionBlock(nn.Module):
  """Two convolutions with conditional instance norm.

  >>> import jax
  >>> block = ConditionBlock(num_conditions=3)
  >>> given = jnp.ones((4, 4, 8)), jnp.int32(1)
  >>> params = jax.eval_shape(block.init, jax.random.key(0), *given)
  >>> jax.eval_shape(block.apply, params, *given).shape
  (4, 4, 8)

  Attributes:
    num_conditions: kinds; 1: the same block without a condition.
    has_skip: z + x, with the last gamma at 0, so that the block starts as the identity. False is
      the paper's form, which has to learn the embedding anew.
  Guarantees: at the start gamma is 1 and beta 0 for every condition (DEVIATION: the paper does not
    say how they start; here gamma is 1 + what the layers give, and their last layer starts at 0).
  """

  num_conditions: int
  has_skip: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, "h w channel"], condition: Array
  ) -> Float[Array, "h w channel"]:
    width = x.shape[-1]
    # W_1 and W_2 are shared by scale and shift, as printed.
    first = nn.Dense(width, use_bias=False, name="first")
    second = nn.Dense(width, use_bias=False, kernel_init=nn.initializers.zeros, name="second")
    z = x
    for layer in range(2):
      z = nn.Conv(width, (3, 3), name=f"conv{layer}")(z)
      scale, shift = (
        second(nn.relu(first(self._vector(f"{name}{layer}", width)[condition])))
        for name in ("scale", "shift")
      )
      start = 1.0
      if self.has_skip and layer == 1:
        start = self.param("last_scale", nn.initializers.zeros, (width,))
      z = conditional_instance_norm(z, start + scale, shift)
      if not (self.has_skip and layer == 1):
        z = nn.relu(z)
    return x + z if self.has_skip else z

  def _vector(self, name: str, width: int) -> Array:
    """[condition, channel]: a column of W_gamma or W_beta for each condition."""
    return self.param(name, nn.initializers.normal(1.0), (self.num_conditions, width))
