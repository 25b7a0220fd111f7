"""The mean of the rows, and sign dropout (GradDrop, Chen et al. 2020)."""

import jax
import jax.numpy as jnp

from medjax.grads.combine.base import HIGHEST, Combiner, equal, of_weights
from medjax.types import Array, Key


def mean() -> Combiner:
  """The mean of the rows that are there: what a sum of losses does.

  >>> float(mean()(jnp.array([[1.0], [3.0], [jnp.nan]]), jax.random.key(0))[0])
  2.0
  """

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    del gramian, key
    return equal(is_there)

  return of_weights("mean", weights)


def graddrop() -> Combiner:
  """Keeps one sign at random in every coordinate (Chen et al. 2020, Alg. 1).

    P = (1 + sum_i g_i / sum_i |g_i|) / 2,   sum_i g_i [g_i > 0 if U < P, else g_i < 0]

  with U uniform, one a coordinate. Coordinates in which all rows agree are their plain sum.

  >>> rows = jnp.array([[1.0, 2.0], [3.0, 5.0]])
  >>> graddrop()(rows, jax.random.key(0)).tolist()
  [4.0, 7.0]
  """

  def combine(rows: Array, key: Key) -> Array:
    is_there = jnp.isfinite(rows).all(axis=1)
    rows = jnp.where(is_there[:, None], rows, 0.0)
    # Sums over rows as matrix products: XLA's own take twenty times as long on a CPU.
    every = jnp.ones(len(rows), rows.dtype)
    above = jnp.matmul(every, jnp.maximum(rows, 0.0), precision=HIGHEST)
    below = jnp.matmul(every, jnp.minimum(rows, 0.0), precision=HIGHEST)
    size = above - below
    purity = 0.5 * (1 + (above + below) / jnp.where(size > 0, size, 1.0))
    takes_positive = jax.random.uniform(key, size.shape, size.dtype) < purity
    return jnp.where(takes_positive, above, below)

  return Combiner("graddrop", combine, None)
