"""Means of client vectors: FedAvg, weights of one's own, and clipping of norms before a rule."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from medjax import check
from medjax.federated import rows as matrix
from medjax.federated.aggregate.rule import Rule


def mean() -> Rule:
  """sum_i w_i v_i / sum_i w_i; with w_i = n_i examples it is FedAvg (McMahan et al. 2017).

  >>> import jax.numpy as jnp
  >>> rows = jnp.array([[1.0], [3.0], [jnp.nan]])
  >>> float(mean()(rows, jnp.array([3.0, 1.0, 5.0])).vector[0])  # the third counts as absent
  1.5
  """

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    weights = matrix.shared(weight, on)
    return matrix.combine(weights, rows), weights

  return Rule("mean", join, is_mean=True)


def weighted(weigh: Callable[[jax.Array, jax.Array], jax.Array], name: str = "weighted") -> Rule:
  """Mean with weights of one's own.

  Args:
    weigh: `weigh(rows, weight) -> [clients]`, values >= 0 in any unit; negative ones and those of
      the absent count as 0.
    name: what the manifest calls it.
  """

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    weights = matrix.shared(jnp.maximum(weigh(rows, weight), 0), on)
    return matrix.combine(weights, rows), weights

  return Rule(name, join)


def norm_clipping(max_norm: float | int, then: Rule | None = None) -> Rule:
  """Shortens every client's vector to a norm of at most `max_norm`, then applies a rule.

  v_i min(1, C / |v_i|)       (Sun et al., "Can you really backdoor federated learning?", 2019)

  Args:
    max_norm: C > 0, in units of an update.
    then: the rule after it; default `mean()`.
  """
  check.positive("max_norm", max_norm)
  after = mean() if then is None else then

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    clipped = rows * jnp.minimum(1, max_norm / jnp.maximum(norms, 1e-30))
    return after.join(clipped, weight, on, **others)

  return dataclasses.replace(
    after, name=f"norm_clipping({max_norm:g})+{after.name}", join=join, is_mean=False
  )
