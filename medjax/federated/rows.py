"""What rules and attacks need of client vectors as the rows of a matrix [clients, parameters].

A client that is absent (weight 0) has a row of zeros, and `on` [clients] tells who is present;
every function here leaves the absent out.
"""

import jax
import jax.numpy as jnp

NETWORK_ROWS = 20
"""Up to so many rows are sorted by a network of minima and maxima instead of a sort."""
DIRECT_ROWS = 32
"""Up to so many rows, distances come from differences; beyond, from inner products."""


def is_present(rows: jax.Array, weight: jax.Array) -> jax.Array:
  """[clients] bool: the weight is above 0 and the row is finite."""
  return (weight > 0) & jnp.isfinite(rows).all(1)


def masked(rows: jax.Array, on: jax.Array) -> jax.Array:
  """Rows of the absent set to zero, whatever they held."""
  return jnp.where(on[:, None], rows, 0)


def mean(rows: jax.Array, on: jax.Array) -> jax.Array:
  """[parameters] mean of the rows that are present, 0 if none is."""
  return shared(on.astype(rows.dtype), on) @ rows


def shared(weight: jax.Array, on: jax.Array) -> jax.Array:
  """[clients] weights of those present, scaled to sum 1; all 0 if nobody is present."""
  kept = jnp.where(on, weight, 0)
  total = kept.sum()
  return kept / jnp.where(total > 0, total, 1)


def combine(weights: jax.Array, rows: jax.Array) -> jax.Array:
  """sum_i weights_i rows_i, added row after row: a row of weight 0 anywhere changes no bit."""

  def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return total + pair[0] * pair[1], None

  return jax.lax.scan(add, jnp.zeros_like(rows[0]), (weights, rows), unroll=16)[0]


def squared_distances(rows: jax.Array, on: jax.Array) -> jax.Array:
  """[clients, clients] squared Euclidean distances; infinite to and from the absent.

  Up to `DIRECT_ROWS` rows they are sums of squared differences: exact to float32 whatever one of
  the rows holds. Beyond, |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b> of rows from which the mean row was
  taken: without that, float32 loses all digits when clients differ by a thousandth of their norm.
  """
  if len(rows) <= DIRECT_ROWS:
    squared = jax.lax.map(lambda row: ((rows - row[None]) ** 2).sum(1), rows)
  else:
    centred = masked(rows - mean(rows, on)[None], on)
    inner = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.diagonal(inner)
    squared = jnp.maximum(norms[:, None] + norms[None] - 2 * inner, 0)
    squared = jnp.where(jnp.eye(len(rows), dtype=bool), 0, squared)
  both = on[:, None] & on[None]
  return jnp.where(both & ~jnp.isnan(squared), squared, jnp.inf)


def distances_to(point: jax.Array, rows: jax.Array, on: jax.Array) -> jax.Array:
  """[clients] Euclidean distances of the rows to `point` [parameters], 0 for the absent."""
  return jnp.where(on, jnp.linalg.norm(rows - point[None], axis=1), 0)


def sorted_columns(rows: jax.Array, on: jax.Array) -> jax.Array:
  """[clients, parameters] every column in ascending order, the absent last, as infinities."""
  filled = jnp.where(on[:, None], rows, jnp.inf)
  if len(rows) > NETWORK_ROWS:
    return jnp.sort(filled, axis=0)
  lanes = list(filled)
  for low, high in comparators(len(rows)):
    a, b = lanes[low], lanes[high]
    lanes[low], lanes[high] = jnp.minimum(a, b), jnp.maximum(a, b)
  return jnp.stack(lanes)


def comparators(size: int) -> list[tuple[int, int]]:
  """Pairs of Batcher's odd-even merge sort (Knuth, vol. 3, algorithm 5.2.2M)."""
  pairs = []
  top = 1 << max((size - 1).bit_length() - 1, 0)
  p = top
  while p > 0:
    q, r, d = top, 0, p
    while True:
      pairs += [(i, i + d) for i in range(size - d) if i & p == r]
      if q == p:
        break
      d, q, r = q - p, q >> 1, p
    p >>= 1
  return pairs
