"""Directions that serve all tasks alike: equal projections (IMTL-G) and equal cosines (ConFIG)."""

import jax.numpy as jnp

from medjax.grads.combine.base import HIGHEST, Combiner, of_weights, pseudo_inverse, unit_rows
from medjax.types import Array, Key


def imtl_g() -> Combiner:
  """Equal projections on all unit gradients (Liu et al. 2021, Eq. 7); the weights sum to 1.

  With u_i = g_i / |g_i|:  <d, u_i> is one number for all i,  so that  C (w |g|) ~ 1  for the
  cosines C between the rows.

  >>> import jax
  >>> rows = jnp.array([[2.0, 0.0], [0.0, 1.0]])  # the weights are 1/3 and 2/3
  >>> [round(float(x), 4) for x in jax.jit(imtl_g().combine)(rows, jax.random.key(0))]
  [0.6667, 0.6667]
  """

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    del is_there, key
    of_units, length = _alike(gramian)
    found = of_units / jnp.where(length > 0, length, 1.0)
    total = found.sum()
    return found / jnp.where(jnp.abs(total) > 0, total, 1.0)

  return of_weights("imtl_g", weights)


def config() -> Combiner:
  """Equal cosines with all gradients (ConFIG, Liu et al. 2024, Eqs. 2 and 3).

    v = U^+ 1,   d = (sum_i <g_i, v / |v|>)  v / |v|,   U the rows u_i = g_i / |g_i|

  U^+ 1 = U^T (U U^T)^+ 1, so that the cosines between the rows are enough.

  >>> import jax
  >>> rows = jnp.array([[3.0, 0.0], [0.0, 1.0]])  # projections of 3 and 1 on the diagonal, / sqrt 2
  >>> [round(float(x), 4) for x in jax.jit(config().combine)(rows, jax.random.key(0))]
  [2.0, 2.0]
  """

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    del is_there, key
    of_units, length = _alike(gramian)
    cosines, _ = unit_rows(gramian)
    products = jnp.matmul(cosines, of_units, precision=HIGHEST)
    square, toward = of_units @ products, products @ length  # |v|^2 and sum_i <g_i, v>
    found = toward / jnp.where(square > 0, square, 1.0) * of_units
    return found / jnp.where(length > 0, length, 1.0)

  return of_weights("config", weights)


def _alike(gramian: Array) -> tuple[Array, Array]:
  """Weights of the unit rows whose sum has one product with all of them; the rows' lengths."""
  cosines, length = unit_rows(gramian)
  ones = (length > 0).astype(length.dtype)
  return jnp.matmul(pseudo_inverse(cosines), ones, precision=HIGHEST), length
