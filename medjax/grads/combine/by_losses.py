"""Weights of tasks that follow from their losses alone: dynamic averages and uncertainties.

Unlike a `Combiner` these remember something from one update to the next.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import check
from medjax.types import Array, PyTree


class LossWeights(NamedTuple):
  """A way to weigh the losses of tasks; the direction is the sum of the weighted gradients.

  Attributes:
    name: for people.
    init: `init(num_tasks) -> memory`.
    update: `update(memory, losses [tasks], is_there [tasks]) -> (weights [tasks], memory)`. Losses
      of tasks that are not there are not looked at.
  """

  name: str
  init: Callable[[int], PyTree]
  update: Callable[[PyTree, Array, Array], tuple[Array, PyTree]]


class _Averages(NamedTuple):
  """Sums of the running period [tasks], and the means of the two periods before it."""

  number: Any
  total: Any
  count: Any
  newer: Any
  older: Any


def dwa(temperature: float = 2.0, period: int = 1) -> LossWeights:
  """Dynamic weight averaging: a task whose loss falls slowly gets more weight (Liu et al. 2019).

    w_k = K exp(r_k / T) / sum_i exp(r_i / T),   r_k = L_k(t-1) / L_k(t-2)         (MTAN, Eq. 7)

  L_k(t) is the mean loss of period t; the weights sum to K and are 1 in the first two periods.

  >>> rule = dwa()
  >>> memory, both = rule.init(2), jnp.ones(2, bool)
  >>> for losses in ([2.0, 2.0], [1.0, 2.0], [1.0, 1.0]):  # one halves, then the other
  ...   weights, memory = rule.update(memory, jnp.array(losses), both)
  >>> [round(float(x), 3) for x in weights]  # 2 softmax(0.5 / 2, 1 / 2)
  [0.876, 1.124]

  Args:
    temperature: T, above 0; the paper's 2.
    period: updates over which losses are averaged, 1 or more; the paper's is an epoch. Ratios of
      single batches are mostly noise.
  Guarantees: a task without a loss in a whole period keeps its last mean.
  """
  check.positive("temperature", temperature)
  check.positive("period", period)

  def init(num_tasks: int) -> _Averages:
    zeros, unknown = jnp.zeros(num_tasks), jnp.full(num_tasks, jnp.nan)
    return _Averages(jnp.zeros((), jnp.int32), zeros, zeros, unknown, unknown)

  def update(memory: _Averages, losses: Array, is_there: Array) -> tuple[Array, _Averages]:
    is_known = jnp.isfinite(memory.newer) & jnp.isfinite(memory.older) & (memory.older != 0)
    rate = jnp.where(is_known, memory.newer / jnp.where(is_known, memory.older, 1.0), 1.0)
    weights = len(losses) * jax.nn.softmax(rate / temperature)
    weights = jnp.where(is_known.any(), weights, jnp.ones_like(weights))
    number = memory.number + 1
    total = memory.total + jnp.where(is_there, losses, 0.0)
    count = memory.count + is_there
    is_over = number % period == 0
    mean = jnp.where(count > 0, total / jnp.maximum(count, 1), memory.newer)
    return weights, _Averages(
      number,
      jnp.where(is_over, 0.0, total),
      jnp.where(is_over, 0.0, count),
      jnp.where(is_over, mean, memory.newer),
      jnp.where(is_over, memory.newer, memory.older),
    )

  return LossWeights("dwa", init, update)


class _Uncertainties(NamedTuple):
  """Log-variances s [tasks] and the state of their optimiser."""

  log_variance: Any
  opt_state: Any


def uncertainty(tx: optax.GradientTransformation | None = None) -> LossWeights:
  """Weights by learned variances of the tasks (Kendall et al. 2018).

    sum_k  exp(-s_k) L_k / 2 + s_k / 2,   s_k = log sigma_k^2, learned beside the network

  At its minimum over s the variance of a task is its loss.

  >>> rule = uncertainty(optax.sgd(0.1))
  >>> weights, memory = rule.update(rule.init(2), jnp.array([1.0, 3.0]), jnp.ones(2, bool))
  >>> weights.tolist(), [round(float(x), 3) for x in memory.log_variance]  # slope (1 - L) / 2
  ([0.5, 0.5], [0.0, 0.1])

  Args:
    tx: optimiser of the log-variances, which start at 0; None: Adam with a rate of 0.01.
  Guarantees: the variance of a task that is not there stays what it was, up to the optimiser's own
    momentum.
  """
  own = optax.adam(1e-2) if tx is None else tx

  def init(num_tasks: int) -> _Uncertainties:
    start = jnp.zeros(num_tasks)
    return _Uncertainties(start, own.init(start))

  def update(
    memory: _Uncertainties, losses: Array, is_there: Array
  ) -> tuple[Array, _Uncertainties]:
    precision = jnp.exp(-memory.log_variance)
    slope = jnp.where(is_there, 0.5 * (1 - precision * jnp.where(is_there, losses, 0.0)), 0.0)
    moves, opt_state = own.update(slope, memory.opt_state, memory.log_variance)
    log_variance = memory.log_variance + jnp.asarray(moves)
    return 0.5 * precision, _Uncertainties(log_variance, opt_state)

  return LossWeights("uncertainty", init, update)
