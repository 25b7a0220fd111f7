"""Rules that trust the vectors with the nearest neighbours, and mixing of neighbours before a rule.

  s_i = sum of |v_i - v_j|^2 over the n - f - 2 nearest j != i     (Blanchard et al., NIPS 2017)

Published code differs in the number of neighbours (n - f - 1, n - f - 3) and the power of the
distance (1, 4); here they are the paper's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from medjax import check
from medjax.federated import rows as matrix
from medjax.federated.aggregate.rule import Rule, check_wrong


def krum(f: int) -> Rule:
  """The one client's vector with the smallest score s_i; the first of equal ones.

  Args:
    f: number of wrong clients to withstand; 2 f + 2 < n clients must be present.
  """
  return dataclasses.replace(multi_krum(f, 1), name=f"krum(f={f})")


def multi_krum(f: int, m: int) -> Rule:
  """Mean of the m vectors with the smallest scores s_i.

  Args:
    f: number of wrong clients to withstand; 2 f + 2 < n clients must be present.
    m: how many vectors, at least 1; f + m clients must be present.
  """
  check_wrong(f)
  check.require(m >= 1, "m >= 1 vectors to average", f"m={m}", "pass 1 for Krum")

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    score = scores(rows, on, f)
    chosen = (_ranks(score) < m) & on
    weights = matrix.shared(chosen.astype(rows.dtype), on)
    return matrix.combine(weights, rows), weights

  return Rule(f"multi_krum(f={f}, m={m})", join, least=max(2 * f + 3, m + f))


def scores(rows: jax.Array, on: jax.Array, f: int) -> jax.Array:
  """[clients] Krum's scores s_i, infinite for the absent."""
  squared = matrix.squared_distances(rows, on)
  others = jnp.where(jnp.eye(len(rows), dtype=bool), jnp.inf, squared)
  near = jnp.arange(len(rows)) < on.sum() - f - 2
  total = jnp.where(near[None], jnp.sort(others, axis=1), 0).sum(1)
  return jnp.where(on, total, jnp.inf)


def nearest_neighbour_mixing(f: int, then: Rule) -> Rule:
  """Replaces every vector by the mean of its n - f nearest, itself among them, then a rule.

  (Allouah et al., "Fixing by mixing", AISTATS 2023.)

  Args:
    f: number of wrong clients to withstand; more than 2 f must be present.
    then: the rule after it.
  """
  check_wrong(f)

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    squared = matrix.squared_distances(rows, on)
    nearest = jax.vmap(_ranks)(squared) < on.sum() - f
    share = (nearest & on[None]).astype(rows.dtype)
    share = share / jnp.maximum(share.sum(1, keepdims=True), 1)
    mixed = matrix.masked(jnp.matmul(share, rows, precision=jax.lax.Precision.HIGHEST), on)
    vector, weights = then.join(mixed, weight, on, **others)
    return vector, weights @ share

  name = f"nearest_neighbour_mixing({f})+{then.name}"
  least = max(2 * f + 1, then.least)
  return dataclasses.replace(then, name=name, join=join, least=least, is_mean=False)


def bucketing(s: int, then: Rule) -> Rule:
  """Averages random groups of s vectors, then applies a rule to the averages.

  (Karimireddy et al., "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR
  2022.) The last group may be smaller.

  Args:
    s: vectors a group, at least 1. A rule for f wrong of n sees f wrong of n / s.
    then: the rule after it.
  """
  check.require(s >= 1, "groups of s >= 1 vectors", f"s={s}", "pass 2, the paper's choice")

  def join(
    rows: jax.Array,
    weight: jax.Array,
    on: jax.Array,
    *,
    key: Any = None,
    metrics: Mapping[str, jax.Array],
    **others: object,
  ):
    check.require(key is not None, "a key for bucketing", "none", "pass key=...")
    draw_key, then_key = jax.random.split(key)
    drawn = jnp.where(on, jax.random.uniform(draw_key, on.shape), jnp.inf)
    group = _ranks(drawn) // s  # those present are spread over the first groups
    buckets = jnp.arange(-(-len(rows) // s))
    member = ((group[None] == buckets[:, None]) & on[None]).astype(rows.dtype)
    held = member.sum(1)
    share = member / jnp.maximum(held, 1)[:, None]
    averages = jnp.matmul(share, rows, precision=jax.lax.Precision.HIGHEST)
    reported = {name: share @ jnp.where(on, value, 0) for name, value in metrics.items()}
    vector, weights = then.join(averages, held, held > 0, key=then_key, metrics=reported, **others)
    return vector, weights @ share

  name, least = f"bucketing({s})+{then.name}", s * (then.least - 1) + 1
  return dataclasses.replace(then, name=name, join=join, least=least, is_mean=False)


def _ranks(values: jax.Array) -> jax.Array:
  """[n] position of each value in ascending order; of equal ones the first comes first."""
  return jnp.argsort(jnp.argsort(values, stable=True), stable=True)
