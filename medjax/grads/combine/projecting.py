"""Rows that are projected until they harm nobody: PCGrad, and UPGrad on the cone of all tasks."""

import jax
import jax.numpy as jnp

from medjax.grads.combine.base import HIGHEST, Combiner, equal, of_weights, scaled
from medjax.types import Array, Key

_SWEEPS = 300


def pcgrad() -> Combiner:
  """Each row without its parts against the others, in random order; then the sum (Yu et al. 2020).

    for j in a random order:  g_i' <- g_i' - min(0, <g_i', g_j>) / |g_j|^2  g_j

  >>> rows = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
  >>> pcgrad()(rows, jax.random.key(0)).tolist()  # (1/2, 1/2) + (0, 1)
  [0.5, 1.5]
  """

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    gramian, _ = scaled(gramian)
    num = len(gramian)
    size = jnp.diagonal(gramian)

    def projected(own: Array, order: Array) -> Array:
      """Coefficients of g_i' in all rows."""

      def step(c: Array, j: Array) -> tuple[Array, None]:
        along = jnp.minimum(c @ gramian[:, j], 0.0)
        share = jnp.where(size[j] > 0, along / jnp.where(size[j] > 0, size[j], 1.0), 0.0)
        # A row is not projected on itself: its own product is not negative at the start, and
        # projections of an earlier j must not be undone by it.
        return c.at[j].add(jnp.where(own[j] > 0, 0.0, -share)), None

      return jax.lax.scan(step, own, order)[0]

    orders = jax.vmap(lambda k: jax.random.permutation(k, num))(jax.random.split(key, num))
    rows = jax.vmap(projected)(jnp.eye(num, dtype=gramian.dtype), orders)
    return jnp.where(is_there[:, None], rows, 0.0).sum(0)

  return of_weights("pcgrad", weights)


def upgrad() -> Combiner:
  """Each row projected on the cone of directions that harm no task; then the mean.

    proj(g_i) = J^T w_i,   w_i = argmin w^T G w  over  w >= e_i     (Quinton & Rey 2024, Prop. 1)

  The quadratic programmes are solved coordinate by coordinate, each exactly.

  >>> rows = jnp.array([[1.0, 0.0], [-1.0, 1.0]])  # the projections are (1/2, 1/2) and (0, 1)
  >>> [round(float(x), 3) for x in jax.jit(upgrad().combine)(rows, jax.random.key(0))]
  [0.25, 0.75]
  """

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    del key
    gramian, _ = scaled(gramian)
    num = len(gramian)
    size = jnp.diagonal(gramian)

    def projected(own: Array) -> Array:
      def sweep(_: Array, w: Array) -> Array:
        for j in range(num):
          rest = jnp.matmul(gramian[j], w, precision=HIGHEST) - size[j] * w[j]
          best = jnp.where(size[j] > 0, -rest / jnp.where(size[j] > 0, size[j], 1.0), own[j])
          w = w.at[j].set(jnp.maximum(best, own[j]))
        return w

      return jax.lax.fori_loop(0, _SWEEPS, sweep, own)

    rows = jax.vmap(projected)(jnp.eye(num, dtype=gramian.dtype))
    return jnp.matmul(equal(is_there).astype(rows.dtype), rows, precision=HIGHEST)

  return of_weights("upgrad", weights)
