"""An update whose clipping norm follows a quantile, as its plan says; see `privacy.quantile`."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from medjax import rng
from medjax.privacy import quantile
from medjax.privacy.mechanism import Mechanism, unit_weights
from medjax.types import Chunked, Sweep, TrainState


class Counted(NamedTuple):
  """What the sweeps accumulate, with the centred count of the gradients within the norm."""

  own: Any
  count: Any


def adaptive(chunked: Chunked, mechanism: Mechanism) -> Chunked:
  """The same update, which moves `state.extra.max_norm` after its last sweep.

  Returns `chunked` where the plan keeps the norm. The count is of the first sweep: all sweeps of a
  sample clip to the same norm.
  """
  rule, plan = mechanism.plan.adaptive_clipping, mechanism.plan
  if rule is None:
    return chunked
  end = len(chunked.sweeps) - 1

  def swept(sweep: Sweep, number: int) -> Sweep:
    def accumulate(state, acc, chunk, carry, key):
      own, carry = sweep.accumulate(state, acc.own, chunk, carry, key)
      count = acc.count
      if number == 0:
        norms = mechanism.clipped(state, chunk, key).norms  # the sweep's own: compiled once
        count += quantile.centred_bits(norms, unit_weights(chunk), state.extra.max_norm)
      return Counted(own, count), carry

    def finish(state, acc, key):
      state, own, metrics = sweep.finish(state, acc.own, key)
      if number == end:
        max_norm = quantile.next_norm(
          rule,
          state.extra.max_norm,
          acc.count,
          rng.stream(key, "clip count"),
          multiplier=plan.count_multiplier,
          sample_size=plan.expected_batch_size,
        )
        state = state.replace(extra=state.extra._replace(max_norm=max_norm))
        return state, own, metrics
      return state, Counted(own, acc.count), metrics

    return Sweep(accumulate, finish)

  def begin(state: TrainState) -> Counted:
    return Counted(chunked.begin(state), jnp.zeros(()))

  sweeps = tuple(swept(sweep, i) for i, sweep in enumerate(chunked.sweeps))
  return Chunked(begin, sweeps, chunked.carry)
