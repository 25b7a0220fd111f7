"""Losses on features of several views of several images: alike within an image, apart between.

Hu et al., "Domain Generalization via Meta-Learning on Anatomy-Consistent Pseudo-Modalities" (MAP,
2023), after Barlow Twins: z [image, view, feature].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check
from medjax.tree import at_least_float32


def view_similarity(z: Float[Array, "image view *feature"], anchor: Array) -> Float[Array, ""]:
  """Mean absolute difference of every view to its image's anchor [image, *feature], through which
  nothing flows.

  The paper sums over views and does not say whether over features; the released code takes the
  mean, as here.
  """
  check.same_shape("a view", z.shape[2:], "anchor", anchor.shape[1:])
  return jnp.abs(z - jax.lax.stop_gradient(anchor)[:, None]).mean()


def decorrelation(
  z: Float[Array, "image view *feature"], *, between: float = 1.0
) -> Float[Array, ""]:
  """Mean of (C* - C)^2, C the cosines of all pairs of views and C* 1 within an image, else 0.

  >>> z = jnp.array([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])
  >>> float(decorrelation(z)), float(decorrelation(z[:, :, :1] + 1))  # apart; all alike
  (0.0, 0.5)

  Args:
    z: features; cosines are of raw features, as published, not of centred ones.
    between: weight of pairs of different images; 2 in the released code.
  Raises:
    InputError: fewer than two images, which nothing could tell apart.
  """
  images, views = z.shape[:2]
  check.require(images > 1, "two images or more", f"{images}", "stack more images in an example")
  rows = at_least_float32(z).reshape(images * views, -1)
  # A row of zeros has no direction: its cosines are 0 and its gradient is that of a constant.
  square = (rows**2).sum(1, keepdims=True)
  rows = rows * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
  is_same = jnp.repeat(jnp.repeat(jnp.eye(images), views, 0), views, 1)
  weight = jnp.where(is_same > 0, 1.0, between)
  return (weight * (is_same - rows @ rows.T) ** 2).mean()
