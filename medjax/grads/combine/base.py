"""What all combiners share: rows that are not there, scales, and how far tasks disagree."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax.types import Array, Key

HIGHEST = jax.lax.Precision.HIGHEST


class Combiner(NamedTuple):
  """A way to combine gradients.

  Attributes:
    name: for people.
    combine: `combine(rows [tasks, parameters], key) -> [parameters]`.
    weights: `weights(gramian [tasks, tasks], key) -> [tasks]`, the direction being the sum of the
      rows with these weights; None where the rows themselves are needed.
  """

  name: str
  combine: Callable[[Array, Key], Array]
  weights: Callable[[Array, Key], Array] | None

  def __call__(self, rows: Array, key: Key) -> Array:
    return self.combine(rows, key)


class Conflicts(NamedTuple):
  """How far gradients disagree; pairs with a row that is zero or not finite do not count.

  Attributes:
    cosines: [tasks, tasks], 0 where there is none.
    lengths: [tasks], 0 where a row is not finite.
    share: of the pairs, those whose cosine is below 0; 0 if there is no pair.
    lowest: cosine of all pairs; 1 if there is no pair.
    ratio: shortest by longest row, in [0, 1].
  """

  cosines: Any
  lengths: Any
  share: Any
  lowest: Any
  ratio: Any


def of_weights(name: str, weights: Callable[[Array, Array, Key], Array]) -> Combiner:
  """A combiner from `weights(gramian, is_there, key)`.

  The Gramian comes with zeros in the place of rows that are not there.
  """

  def of_gramian(gramian: Array, key: Key) -> Array:
    is_there = jnp.isfinite(jnp.diagonal(gramian))
    clean = jnp.where(is_there[:, None] & is_there[None], gramian, 0.0)
    found = weights(clean, is_there, key)
    return jnp.where(is_there, found, 0.0)

  def combine(rows: Array, key: Key) -> Array:
    is_there = jnp.isfinite(rows).all(axis=1)
    rows = jnp.where(is_there[:, None], rows, 0.0)
    gramian = jnp.where(is_there[:, None] & is_there[None], gramian_of_rows(rows), jnp.nan)
    return jnp.matmul(of_gramian(gramian, key), rows, precision=HIGHEST)

  return Combiner(name, combine, of_gramian)


def gramian_of_rows(rows: Array) -> Array:
  """[tasks, tasks] inner products of [tasks, parameters], float32 or wider.

  >>> gramian_of_rows(jnp.array([[1.0, 2.0], [3.0, -1.0]])).tolist()
  [[5.0, 1.0], [1.0, 10.0]]
  """
  wide = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
  return jnp.matmul(wide, wide.T, precision=HIGHEST)


def scaled(gramian: Array) -> tuple[Array, Array]:
  """The Gramian divided by its largest diagonal entry, and that entry (1 if all are 0)."""
  largest = jnp.max(jnp.diagonal(gramian))
  unit = jnp.where(largest > 0, largest, 1.0)
  return gramian / unit, unit


def unit_rows(gramian: Array) -> tuple[Array, Array]:
  """Cosines between the rows and their lengths; a row of zeros has the length 0 and no cosine."""
  length = jnp.sqrt(jnp.diagonal(gramian))
  safe = jnp.where(length > 0, length, 1.0)
  return gramian / (safe[:, None] * safe[None]), length


def equal(is_there: Array) -> Array:
  """Equal weights of the rows that are there; they sum to 1."""
  return is_there / jnp.maximum(is_there.sum(), 1)


def spectrum(gramian: Array) -> tuple[Array, Array, Array]:
  """Eigenvalues, eigenvectors in columns, and which values are more than rounding."""
  values, vectors = jnp.linalg.eigh(gramian)
  floor = 10 * len(values) * jnp.finfo(values.dtype).eps * jnp.maximum(values[-1], 0.0)
  return values, vectors, values > floor


def pseudo_inverse(gramian: Array) -> Array:
  """Moore-Penrose inverse of a symmetric matrix without negative eigenvalues."""
  values, vectors, is_kept = spectrum(gramian)
  inverse = jnp.where(is_kept, 1 / jnp.where(is_kept, values, 1.0), 0.0)
  return jnp.matmul(vectors * inverse[None], vectors.T, precision=HIGHEST)


def conflicts(gramian: Array) -> Conflicts:
  """Cosines and lengths from [tasks, tasks] inner products.

  >>> found = conflicts(jnp.array([[4.0, -1.0], [-1.0, 1.0]]))
  >>> float(found.share), float(found.lowest), float(found.ratio)
  (1.0, -0.5, 0.5)
  """
  square = jnp.diagonal(gramian)
  is_there = jnp.isfinite(square) & (square > 0)
  length = jnp.sqrt(jnp.where(is_there, square, 1.0))
  is_pair = is_there[:, None] & is_there[None]
  cosines = jnp.where(is_pair, gramian / (length[:, None] * length[None]), 0.0)
  is_other = is_pair & ~jnp.eye(len(square), dtype=bool)
  count = is_other.sum()
  share = (is_other & (cosines < 0)).sum() / jnp.maximum(count, 1)
  lowest = jnp.min(jnp.where(is_other, cosines, 1.0))
  shortest = jnp.min(jnp.where(is_there, length, jnp.inf))
  longest = jnp.max(jnp.where(is_there, length, 0.0))
  ratio = jnp.where(longest > 0, shortest / jnp.where(longest > 0, longest, 1.0), 0.0)
  return Conflicts(cosines, jnp.where(is_there, length, 0.0), share, lowest, ratio)
