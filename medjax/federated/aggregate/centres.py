"""Rules that look for a centre that far vectors hardly move."""

from typing import Any

import jax
import jax.numpy as jnp

from medjax import check
from medjax.federated import rows as matrix
from medjax.federated.aggregate.rule import Rule
from medjax.types import PyTree


def geometric_median(
  *, iterations: int = 100, smoothing: float = 1e-6, tolerance: float = 1e-6
) -> Rule:
  """The point of least summed distance to all vectors (RFA, Pillutla et al. 2019).

  z <- sum_i a_i v_i,  a_i proportional to 1 / max(nu, |v_i - z|),  from the mean  (Weiszfeld)

  Args:
    iterations: at most so many.
    smoothing: nu > 0 as a share of the mean distance to the start.
    tolerance: it ends when z moves by less than this share of the mean distance.
  """
  check.positive("iterations", iterations)
  check.positive("smoothing", smoothing)

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    equal = matrix.shared(on.astype(rows.dtype), on)
    start = equal @ rows
    scale = jnp.maximum(equal @ matrix.distances_to(start, rows, on), 1e-30)

    def goes_on(state: PyTree) -> jax.Array:
      count, moved = state[2], state[3]
      return (count < iterations) & (moved > tolerance * scale)

    def improve(state: PyTree) -> Any:
      point, count = state[0], state[2]
      near = jnp.maximum(matrix.distances_to(point, rows, on), smoothing * scale)
      weights = matrix.shared(1 / near, on)
      new = weights @ rows
      return new, weights, count + 1, jnp.linalg.norm(new - point)

    first = (start, equal, jnp.int32(0), jnp.full_like(scale, jnp.inf))
    point, weights, _, _ = jax.lax.while_loop(goes_on, improve, first)
    return point, weights

  return Rule("geometric_median", join)


def centred_clipping(tau: float | int, *, iterations: int = 1) -> Rule:
  """Moves the last round's vector by differences that are clipped (Karimireddy et al. 2021).

  z <- z + mean_i (v_i - z) min(1, tau / |v_i - z|),  z starting from the vector of the round before

  Args:
    tau: clipping radius > 0, in units of an update.
    iterations: how often a round.
  """
  check.positive("tau", tau)
  check.positive("iterations", iterations)

  def join(
    rows: jax.Array, weight: jax.Array, on: jax.Array, *, previous: jax.Array, **others: object
  ):
    equal = matrix.shared(on.astype(rows.dtype), on)
    point, factor = previous, jnp.ones_like(equal)
    for _ in range(iterations):
      far = matrix.distances_to(point, rows, on)
      factor = jnp.minimum(1, tau / jnp.maximum(far, 1e-30))
      point = point + (equal * factor) @ matrix.masked(rows - point[None], on)
    return point, matrix.shared(factor, on)

  return Rule(f"centred_clipping({tau:g})", join, keeps_previous=True)
