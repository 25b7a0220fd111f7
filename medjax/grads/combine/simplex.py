"""Weights on the simplex: the shortest convex combination (MGDA) and CAGrad's neighbour of it."""

import jax
import jax.numpy as jnp

from medjax import check
from medjax.grads.combine.base import HIGHEST, Combiner, equal, of_weights, scaled
from medjax.types import Array, Key

_SWEEPS = 100  # over all pairs of tasks
_ROUNDS = 40


def mgda() -> Combiner:
  """The shortest vector among the convex combinations of the rows (Désidéri 2012).

  It points no task uphill: <g_i, d> >= |d|^2 for all i.

  >>> rows = jnp.array([[2.0, 0.0], [0.0, 1.0]])
  >>> [round(float(x), 4) for x in mgda()(rows, jax.random.key(0))]  # (1/5, 4/5) on the rows
  [0.4, 0.8]
  """

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    del key
    gramian, _ = scaled(gramian)
    return _shortest(gramian, jnp.zeros(len(gramian), gramian.dtype), is_there, equal(is_there))

  return of_weights("mgda", weights)


def cagrad(c: float = 0.5) -> Combiner:
  """The best worst-case descent within c |g_0| of the mean g_0 (Liu et al. 2021, Eqs. 3 and 4).

    max over |d - g_0| <= c |g_0|  of  min_i <g_i, d>
    d = g_0 + c |g_0| g_w / |g_w|,   w = argmin over the simplex of  <g_w, g_0> + c |g_0| |g_w|

  >>> d = jax.jit(cagrad(0.5).combine)(jnp.array([[2.0, 0.0]]), jax.random.key(0))
  >>> [round(float(x), 3) for x in d]  # of one task (1 + c) of its gradient
  [3.0, 0.0]

  Args:
    c: in [0, 1); 0 is the mean.
  """
  check.in_interval("c", c, 0.0, 1.0)

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    del key
    gramian, _ = scaled(gramian)
    first = equal(is_there).astype(gramian.dtype)
    toward = jnp.matmul(gramian, first, precision=HIGHEST)  # <g_i, g_0>
    radius = c * jnp.sqrt(jnp.maximum(first @ toward, 0.0))

    def length(w: Array) -> Array:
      return jnp.sqrt(jnp.maximum(w @ jnp.matmul(gramian, w, precision=HIGHEST), 1e-12))

    def improve(_: Array, w: Array) -> Array:
      # |g_w| <= (|g_w|^2 / |g_v| + |g_v|) / 2 with equality at w = v: a quadratic above it.
      return _shortest(gramian * (radius / length(w)), toward, is_there, w, sweeps=20)

    found = jax.lax.fori_loop(0, _ROUNDS, improve, first)
    return first + radius * found / length(found)

  return of_weights("cagrad", weights)


def _shortest(
  matrix: Array, slope: Array, is_there: Array, start: Array, sweeps: int = _SWEEPS
) -> Array:
  """argmin over the simplex of w^T M w / 2 + w^T s, pair by pair, each exactly.

  What one weight of a pair gains the other one loses. Unlike gradient steps this does not slow down
  where rows are of very different lengths.
  """
  start = start.astype(matrix.dtype)
  if len(slope) == 1:
    return start
  first, second = jnp.triu_indices(len(slope), 1)

  def step(number: Array, w: Array) -> Array:
    i, j = first[number % len(first)], second[number % len(first)]
    gradient = jnp.matmul(matrix, w, precision=HIGHEST) + slope
    curvature = matrix[i, i] + matrix[j, j] - 2 * matrix[i, j]
    best = (gradient[j] - gradient[i]) / jnp.where(curvature > 0, curvature, 1.0)
    move = jnp.clip(jnp.where(curvature > 0, best, 0.0), -w[i], w[j])
    move = jnp.where(is_there[i] & is_there[j], move, 0.0)
    return w.at[i].add(move).at[j].add(-move)

  return jax.lax.fori_loop(0, sweeps * len(first), step, start)
