"""Rules that work on every coordinate by itself: the median and the trimmed mean.

Up to 20 clients the columns are ordered by a sorting network of minima and maxima, which XLA fuses
into one pass over the matrix; that was 85 times faster than a sort on a CPU.
"""

import jax
import jax.numpy as jnp

from medjax.federated import rows as matrix
from medjax.federated.aggregate.rule import Rule, check_wrong


def median() -> Rule:
  """Median of every coordinate (Yin et al., ICML 2018); of an even number, the middle two's mean.

  >>> import jax.numpy as jnp
  >>> rows = jnp.array([[1.0], [2.0], [1e6], [0.0]])
  >>> float(median()(rows, jnp.array([1.0, 1.0, 1.0, 0.0])).vector[0])  # the last is absent
  2.0
  """

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    num = on.sum()
    return _between(rows, on, (num - 1) // 2, num // 2)

  return Rule("median", join)


def trimmed_mean(f: int) -> Rule:
  """Mean of every coordinate without its f smallest and f largest values (Yin et al., ICML 2018).

  Args:
    f: number of wrong clients to withstand; more than 2 f must be present.
  """
  check_wrong(f)

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    return _between(rows, on, jnp.int32(f), on.sum() - f - 1)

  return Rule(f"trimmed_mean(f={f})", join, least=2 * f + 1)


def _between(
  rows: jax.Array, on: jax.Array, first: jax.Array, last: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mean of the values of ranks first..last of every column, and each client's share in it."""
  ordered = matrix.sorted_columns(rows, on)
  rank = jnp.arange(len(rows))
  kept = ((rank >= first) & (rank <= last))[:, None]
  count = jnp.maximum(last - first + 1, 1).astype(rows.dtype)
  total = jnp.where(kept, ordered, 0).sum(0)
  low, high = ordered[jnp.clip(first, 0, len(rows) - 1)], ordered[jnp.clip(last, 0, len(rows) - 1)]
  # A client's share in a coordinate is 1 / (values kept), equal values sharing alike.
  inside = (on[:, None] & (rows >= low[None]) & (rows <= high[None])).astype(rows.dtype)
  share = inside / jnp.maximum(inside.sum(0), 1)[None]
  return total / count, matrix.shared(share.mean(1), on)
