"""Filters that keep the examples whose gradient points along a public reference, at no extra cost.

  release = (sum_i a(g_i, s) clip(g_i, C) + sigma C z) / (L pi),   a in [0, 1]

where s is a function of released quantities only. Given s the map of one example is fixed and no
longer than C, so that the release is exactly as private as without a filter. Here a is a threshold
on the cosine of g_i to r, the moving average of past releases, of which only those coordinates may
count that past releases single out. After Bani-Harouni et al., "Gradient Self-alignment in Private
Deep Learning" (2023), who compare examples with their own sample, see `privacy.published`.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from medjax import check
from medjax.ops.selection import kth_smallest
from medjax.privacy.mechanism import Mechanism, add, zeros_like
from medjax.types import Chunked, Params, PyTree, Sweep, TrainState

Measure: TypeAlias = Literal["magnitude", "std", "cov"]
Gate: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


class Filter(NamedTuple):
  """A rule for what of a sample reaches the optimiser.

  Attributes:
    name: for manifests and tables.
    releases: noisy results that leave one sample, None where the result is not private at all.
    init: `init(params) -> state of the filter`, made of released quantities.
    pieces: `pieces(mechanism) -> Chunked`, the update; the end of its last sweep gives
      `(state, released gradient, {})`.
    options: what was chosen, flat, for manifests.
  """

  name: str
  releases: int | None
  init: Callable[[Params], Any]
  pieces: Callable[[Mechanism], Chunked]
  options: dict[str, Any]


class Reference(NamedTuple):
  """Moments of past releases.

  Attributes:
    count: releases seen, int32.
    mean: their moving average, a tree like the parameters.
    square: that of their squares, () where no measure needs it.
  """

  count: Any
  mean: Any
  square: Any


def no_filter() -> Filter:
  """Every example counts: DP-SGD (Abadi et al. 2016)."""

  def pieces(mechanism: Mechanism) -> Chunked:
    def accumulate(state, acc, chunk, carry, key):
      return add(acc, mechanism.clipped(state, chunk, key).grads), carry

    def finish(state, acc, key):
      gradient = mechanism.release(acc, state, key)
      return mechanism.apply(state, gradient, ()), gradient, {}

    return Chunked(lambda state: zeros_like(state.params), (Sweep(accumulate, finish),))

  return Filter("none", 1, lambda params: (), pieces, {})


def public_reference(
  *,
  threshold: float | int = 0.0,
  decay: float = 0.99,
  measure: Measure | None = None,
  dropped: float | int = 0.0,
  softness: float | None = None,
  warmup: int = 0,
  kept: float | int = 1.0,
) -> Filter:
  """Cosine to the moving average of past releases; costs no privacy.

  Beware: the reference is made of what the filter let through. At threshold 0 it drops whatever
  disagrees and confirms itself, and small networks on PneumoniaMNIST and CIFAR-10 collapsed
  (experiments/records); slightly below 0, or with softness, it did no harm and no good.

  Args:
    threshold: psi in [-1, 1]; an example counts if its cosine exceeds it.
    decay: of the moving averages, in [0, 1). One release is mostly noise; an average over
      (1 + decay) / (1 - decay) of them has that many times less noise variance.
    measure: which coordinates the reference keeps: those with the largest "magnitude" |m|, "std"
      sqrt(v - m^2 - noise variance) or "cov" std / |m| of past releases; None keeps all.
    dropped: gamma in [0, 1), the share of coordinates left out.
    softness: None for a threshold; else a = sigmoid((cosine - threshold) / softness).
    warmup: first steps, in which every example counts, as it does where no coordinate stands out.
    kept: pi in (0, 1], public guess of the share kept; the release is divided by it.
  DEVIATION: with a measure the cosine is <g, r_S> / (|g| |r_S|), over all of g, not over g_S; a
    function of one example all the same, and ghost norms give it for nothing.
  """
  _check(threshold, decay, measure, dropped, softness, kept)

  def pieces(mechanism: Mechanism) -> Chunked:
    def accumulate(state, acc, chunk, carry, key):
      total, direction = acc
      unfiltered = state.extra.filter.count < jnp.maximum(warmup, 1)
      gate = _gate(direction, threshold, softness, unfiltered)
      out = mechanism.clipped(state, chunk, key, direction=direction, weight_fn=gate)
      return (add(total, out.grads), direction), carry

    def begin(state):
      variance = _noise_variance(mechanism, state, kept)
      direction = _strongest(state.extra.filter, measure, dropped, variance)
      return zeros_like(state.params), direction

    def finish(state, acc, key):
      gradient = mechanism.release(acc[0], state, key, kept=kept)
      reference = _follow(state.extra.filter, gradient, decay)
      return mechanism.apply(state, gradient, reference), gradient, {}

    return Chunked(begin, (Sweep(accumulate, finish),))

  options = dict(threshold=threshold, decay=decay, measure=measure, dropped=dropped)
  options |= dict(softness=softness, warmup=warmup, kept=kept)
  return Filter("public_reference", 1, lambda p: _start(p, measure), pieces, options)


def fresh_reference(
  *,
  threshold: float | int = 0.0,
  decay: float | int = 0.0,
  measure: Measure | None = None,
  dropped: float | int = 0.0,
  softness: float | None = None,
  kept: float | int = 1.0,
) -> Filter:
  """Cosine to a release of the same sample, for which part of the budget is spent.

  The plan needs two noise multipliers, that of the reference and that of the update; both come from
  one subsample: sigma^-2 = sigma_1^-2 + sigma_2^-2. With `decay` above 0 past references are
  averaged in. Other arguments as for `public_reference`.
  """
  _check(threshold, decay, measure, dropped, softness, kept)

  def pieces(mechanism: Mechanism) -> Chunked:
    def first(state, acc, chunk, carry, key):
      return (add(acc[0], mechanism.clipped(state, chunk, key).grads), acc[1]), carry

    def refer(state, acc, key):
      release = mechanism.release(acc[0], state, key, which=0)
      reference = _follow(state.extra.filter, release, decay)
      state = state.replace(extra=state.extra._replace(filter=reference))
      variance = _noise_variance(mechanism, state, 1.0, which=0)
      direction = _strongest(reference, measure, dropped, variance)
      return state, (zeros_like(state.params), direction), {}

    def second(state, acc, chunk, carry, key):
      gate = _gate(acc[1], threshold, softness, jnp.array(False))
      out = mechanism.clipped(state, chunk, key, direction=acc[1], weight_fn=gate)
      return (add(acc[0], out.grads), acc[1]), carry

    def finish(state, acc, key):
      gradient = mechanism.release(acc[0], state, key, kept=kept)
      return mechanism.apply(state, gradient, state.extra.filter), gradient, {}

    def begin(state):
      return zeros_like(state.params), zeros_like(state.params)

    return Chunked(begin, (Sweep(first, refer), Sweep(second, finish)))

  options = dict(threshold=threshold, decay=decay, measure=measure, dropped=dropped)
  options |= dict(softness=softness, kept=kept)
  return Filter("fresh_reference", 2, lambda p: _start(p, measure), pieces, options)


def largest(values: PyTree, dropped: float | int) -> PyTree:
  """True at the coordinates above the `dropped` quantile of all leaves together (Algorithm 2)."""
  leaves = jax.tree.leaves(values)
  flat = jnp.concatenate([x.ravel() for x in leaves])
  edge = kth_smallest(flat, int(dropped * (flat.size - 1)))
  return jax.tree.map(lambda x: x > edge, values)


def cosine(dot: Any, norm: Any, other: Any) -> jax.Array:
  """dot / (norm * other), 0 where either is 0."""
  product = norm * other
  return jnp.where(product > 0, dot / jnp.where(product > 0, product, 1.0), 0.0)


def _start(params: Params, measure: Measure | None) -> Reference:
  square = zeros_like(params) if measure in ("std", "cov") else ()
  return Reference(jnp.zeros((), jnp.int32), zeros_like(params), square)


def _follow(reference: Reference, release: PyTree, decay: float | int) -> Reference:
  def blend(old: jax.Array, new: jax.Array) -> jax.Array:
    return decay * old + (1 - decay) * new

  square = reference.square
  if square != ():
    square = jax.tree.map(lambda v, x: blend(v, x * x), square, release)
  return Reference(reference.count + 1, jax.tree.map(blend, reference.mean, release), square)


def _strongest(
  reference: Reference, measure: Measure | None, dropped: float | int, noise: jax.Array
) -> PyTree:
  """The reference where the measure is largest, 0 elsewhere."""
  mean = reference.mean
  if measure is None or dropped == 0:
    return mean
  if measure == "magnitude":
    values = jax.tree.map(jnp.abs, mean)
  else:

    def std(m: jax.Array, v: jax.Array) -> jax.Array:
      return jnp.sqrt(jnp.maximum(v - m * m - noise, 0.0))

    values = jax.tree.map(std, mean, reference.square)
    if measure == "cov":
      values = jax.tree.map(lambda s, m: s / jnp.maximum(jnp.abs(m), 1e-30), values, mean)
  return jax.tree.map(lambda keep, m: jnp.where(keep, m, 0.0), largest(values, dropped), mean)


def _noise_variance(
  mechanism: Mechanism, state: TrainState, kept: float | int, which: int = -1
) -> jax.Array:
  plan = mechanism.plan
  std = plan.multipliers[which] * state.extra.max_norm / (plan.expected_batch_size * kept)
  return jnp.square(std)


def _gate(
  direction: PyTree, threshold: float | int, softness: float | None, unfiltered: jax.Array
) -> Gate:
  length = optax.tree.norm(direction)
  unfiltered = unfiltered | (length == 0)  # nothing to compare with

  def gate(norm: jax.Array, dot: jax.Array) -> jax.Array:
    above = cosine(dot, norm, length) - threshold
    share = (
      (above > 0).astype(jnp.float32) if softness is None else jax.nn.sigmoid(above / softness)
    )
    return jnp.where(unfiltered, 1.0, share)

  return gate


def _check(threshold, decay, measure, dropped, softness, kept) -> None:
  check.require(-1 <= threshold <= 1, "threshold in [-1, 1]", f"{threshold}", "it is a cosine")
  check.require(0 <= decay < 1, "decay in [0, 1)", f"{decay}", "pass for example 0.99")
  check.one_of("measure", measure, (None, "magnitude", "std", "cov"))
  check.require(0 <= dropped < 1, "dropped in [0, 1)", f"{dropped}", "it is a share")
  check.require(
    measure is not None or dropped == 0, "a measure to drop by", f"{dropped=}", "pass measure="
  )
  check.require(0 < kept <= 1, "kept in (0, 1]", f"{kept}", "it is a share of the sample")
  if softness is not None:
    check.positive("softness", softness)
