"""Aligned-MTL (Senushkin et al. 2023): the nearest rows whose Gramian is a multiple of one."""

import jax.numpy as jnp

from medjax.grads.combine.base import HIGHEST, Combiner, equal, of_weights, scaled, spectrum
from medjax.types import Array, Key


def aligned_mtl() -> Combiner:
  """The mean of the rows after their principal components got one size, the smallest of them.

    G = V L V^T,   B = sqrt(l_min) V L^(-1/2) V^T,   weights = B 1 / K     (Eqs. 11 and 12)

  The rows B g have the Gramian l_min I, on the space that they span.

  >>> import jax
  >>> rows = jnp.array([[3.0, 0.0], [0.0, 1.0]])  # both get the length 1
  >>> [round(float(x), 4) for x in jax.jit(aligned_mtl().combine)(rows, jax.random.key(0))]
  [0.5, 0.5]
  """

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    del key
    gramian, _ = scaled(gramian)
    values, vectors, is_kept = spectrum(gramian)
    smallest = jnp.min(jnp.where(is_kept, values, jnp.inf))
    smallest = jnp.where(jnp.isfinite(smallest), smallest, 0.0)
    shrink = jnp.where(is_kept, jnp.sqrt(smallest / jnp.where(is_kept, values, 1.0)), 0.0)
    along = jnp.matmul(vectors.T, equal(is_there), precision=HIGHEST)
    return jnp.matmul(vectors, shrink * along, precision=HIGHEST)

  return of_weights("aligned_mtl", weights)
