"""A link between two parts of a network that loses packets, forward and back.

  h' = M_f * h,   g' = M_b * g,   M of independent rows of 0 and 1

A packet is one row of one feature map. What is lost is zero; the masks of features and of their
gradients are drawn apart, so the backward pass is not the derivative of the forward one: over
draws of M_b the gradient of one crossing has the mean (1 - P) g.

Shiranthika et al., "SplitFed resilience to packet loss: Where to split, that is the question"
(2023).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check, rng
from medjax.types import Key, Number


@jax.custom_vjp
def masked(
  features: Float[Array, "*shape"],
  forward: Float[Array, "*forward"],
  backward: Float[Array, "*backward"],
) -> Float[Array, "*shape"]:
  """features * forward, whose gradient is g * backward in place of g * forward.

  >>> f = lambda x: masked(x, jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])).sum()
  >>> jax.value_and_grad(f)(jnp.array([3.0, 5.0]))
  (Array(3., dtype=float32), Array([0., 1.], dtype=float32))

  Args:
    features: of any shape.
    forward, backward: factors of shapes that broadcast to it; they have no gradient.
  """
  del backward
  return features * forward


def _masked_forward(features: Array, forward: Array, backward: Array) -> tuple[Array, Array]:
  return features * forward, backward


def _masked_backward(backward: Array, g: Array) -> tuple[Array, None, None]:
  return g * backward, None, None


masked.defvjp(_masked_forward, _masked_backward)


def lossy_link(
  features: Float[Array, "*space channels"], key: Key, loss_rate: Number, *, rescales: bool = False
) -> Float[Array, "*space channels"]:
  """Features of one example as they arrive over a link that loses each packet with `loss_rate`.

  Args:
    features: [*space, channel] with one spatial axis or more; a packet is a row along the last of
      them, of one channel. Leading axes of size 1 are packets' places as any others.
    key: two streams of it draw the losses forward and back.
    loss_rate: P in [0, 1), alike for both; it may be traced, and is not checked then.
    rescales: what arrives is divided by 1 - P, so that features and gradients have the mean that
      they would have without losses.
  Raises:
    InputError: features without a spatial axis, or a rate that is known and out of range.
  Guarantees: at P = 0 features and gradients come through bit for bit.
  """
  check.require(
    features.ndim >= 2, "features [*space, channel]", f"shape {features.shape}", "keep an axis"
  )
  if not isinstance(loss_rate, jax.core.Tracer):
    check.require(
      0 <= float(loss_rate) < 1,
      "loss_rate in [0, 1)",
      f"{float(loss_rate):g}",
      "at 1 nothing would ever arrive",
    )
  shape = (*features.shape[:-2], 1, features.shape[-1])
  arrives = 1 - jnp.asarray(loss_rate, features.dtype)

  def mask(name: str) -> Array:
    found = jax.random.bernoulli(rng.stream(key, name), arrives, shape).astype(features.dtype)
    return found / arrives if rescales else found

  return masked(features, mask("features"), mask("gradients"))
