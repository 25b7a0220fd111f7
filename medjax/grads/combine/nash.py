"""Nash-MTL (Navon et al. 2022): the bargaining solution of the tasks."""

import jax
import jax.numpy as jnp

from medjax.grads.combine.base import HIGHEST, Combiner, equal, of_weights, unit_rows
from medjax.types import Array, Key

_STEPS = 60
_RIDGE = 1e-6  # opposite gradients have no finite solution without it


def nash_mtl() -> Combiner:
  """Weights a > 0 with  G a = 1 / a  (Navon et al. 2022, Eq. 5).

  They minimise the convex  a^T G a / 2 - sum_i log a_i,  here by damped Newton steps. A task whose
  gradient is 0 takes no part. Unlike in the paper's code |d| is not bounded: |d|^2 is the number of
  tasks whatever the size of the gradients, so give the optimiser a rate that fits.

  >>> rows = jnp.array([[2.0, 0.0], [0.0, 0.5]])  # weights 1/2 and 2
  >>> [round(float(x), 3) for x in jax.jit(nash_mtl().combine)(rows, jax.random.key(0))]
  [1.0, 1.0]
  """

  def weights(gramian: Array, is_there: Array, key: Key) -> Array:
    del key
    # With b = a |g| the condition reads  C b = 1 / b  for the cosines C, whatever the lengths.
    cosines, length = unit_rows(gramian)
    is_player = is_there & (length > 0)
    # A task that takes no part is alone with a gradient of its own, and forgotten afterwards.
    matrix = cosines + jnp.diag(jnp.where(is_player, _RIDGE, 1.0))

    def step(_: Array, a: Array) -> Array:
      slope = jnp.matmul(matrix, a, precision=HIGHEST) - 1 / a
      move = jnp.linalg.solve(matrix + jnp.diag(1 / a**2), slope)
      # The Newton decrement decides the step of a self-concordant function (Nesterov 1994).
      decrement = jnp.sqrt(jnp.maximum(slope @ move, 0.0))
      share = jnp.where(decrement > 0.25, 1 / (1 + decrement), 1.0)
      return jnp.maximum(a - share * move, 1e-3 * a)

    start = jnp.ones(len(length), matrix.dtype) / jnp.sqrt(jnp.maximum(is_player.sum(), 1))
    found = jax.lax.fori_loop(0, _STEPS, step, start)
    players = jnp.where(is_player, found / jnp.where(length > 0, length, 1.0), 0.0)
    return jnp.where(is_player.any(), players, equal(is_there))

  return of_weights("nash_mtl", weights)
