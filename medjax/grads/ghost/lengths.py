"""Euclidean lengths of rows that neither underflow nor overflow, in float32 or wider.

The square of a number below 1e-19 is 0 in float32, and that of one above 1e19 is infinite, so that
a root of a sum of squares is wrong for gradients that float32 itself holds without effort. Rows
whose sum of squares comes near those ends are divided by their largest magnitude first.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medjax.tree import at_least_float32

_LOWEST_SQUARE = 2.0**-96
"""A mean square above it loses less than 1e-9 of itself to squares that underflow."""


def flat(x: jax.Array) -> jax.Array:
  """[rows, everything else], float32 or wider."""
  return at_least_float32(x.reshape(x.shape[0], math.prod(x.shape[1:])))


def of_rows(x: jax.Array) -> jax.Array:
  """[rows] lengths of x[row]; inf or NaN for a row that holds one.

  The usual case costs one pass over `x`. Only if some row needs it is the scaled length computed;
  even then each row takes its own choice, so that no row changes the result of another.
  """
  return of_each([x])[0]


def of_each(arrays: Sequence[jax.Array]) -> jax.Array:
  """[arrays, rows] lengths of the rows of each array, as `of_rows` has them.

  What is computed of a length once its sums are there is computed for all arrays together: the
  compiler would take longer over fifty such small things, of fifty leaves, than over the network.
  """
  rows = [flat(x) for x in arrays]
  squares = jnp.stack(
    [jnp.einsum("ri,ri->r", r, r, precision=jax.lax.Precision.HIGHEST) for r in rows]
  )
  sizes = np.array([r.shape[1] for r in rows])[:, None]
  is_plain = (squares > _LOWEST_SQUARE * sizes) & (squares < jnp.inf) | (sizes == 0)
  plain = jnp.sqrt(squares)
  return jax.lax.cond(
    jnp.all(is_plain), lambda: plain, lambda: jnp.where(is_plain, plain, scaled(rows))
  )


def scaled(rows: Sequence[jax.Array]) -> jax.Array:
  """The same of [rows, numbers], every row divided by its own size before it is squared."""
  size = _power_of_two(jnp.stack([_largest(r) for r in rows]))
  parts = [divided(r, unit[:, None]) for r, unit in zip(rows, size, strict=True)]
  return size * jnp.sqrt(jnp.stack([jnp.square(part).sum(1) for part in parts]))


def divided(x: jax.Array, unit: jax.Array) -> jax.Array:
  """x / unit, rounded to the type of `x` before anything else is done with it.

  XLA's simplifier takes (x / u) * (x / u) for (x * x) / (u * u) where it knows `x` and `u` when it
  compiles, such as examples that a function closes over: x * x is then 0 or inf, which the division
  was to prevent. No rewriting reaches across an optimisation barrier.
  """
  return jax.lax.optimization_barrier(x / unit)


def magnitude(rows: jax.Array) -> jax.Array:
  """[rows] powers of two beside the largest magnitude of each; 1 for zeros and what is not finite.

  Division by a power of two rounds nothing.
  """
  return _power_of_two(_largest(rows))


def _largest(rows: jax.Array) -> jax.Array:
  return jnp.max(jnp.abs(rows), axis=1, initial=0.0)


def _power_of_two(largest: jax.Array) -> jax.Array:
  is_usable = (largest > 0) & jnp.isfinite(largest)
  _, exponent = jnp.frexp(jnp.where(is_usable, largest, 1.0))
  # both 2^k and its inverse have to be normal numbers of float32
  return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -125, 125))


def joint(parts: Sequence[jax.Array] | jax.Array, axis: int = -1) -> jax.Array:
  """Length of a vector whose parts have the given lengths, [..., parts] or a sequence of [...]."""
  lengths = parts if isinstance(parts, jax.Array) else jnp.stack(list(parts), axis=-1)
  largest = jnp.max(lengths, axis=axis, keepdims=True, initial=0.0)
  is_usable = (largest > 0) & jnp.isfinite(largest)
  unit = jnp.where(is_usable, largest, 1.0)
  total = jnp.sqrt(jnp.square(divided(lengths, unit)).sum(axis=axis, keepdims=True))
  return jnp.squeeze(unit * total, axis=axis)
