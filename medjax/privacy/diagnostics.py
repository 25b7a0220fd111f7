"""Measurements of the private examples themselves, for plans that give up privacy for them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from medjax.privacy.alignment import cosine
from medjax.privacy.mechanism import Mechanism, add, unit_weights, zeros_like
from medjax.types import Chunked, Sweep, TrainState


class Measured(NamedTuple):
  """What the sweeps accumulate, with sums over the examples of a sample for diagnostics."""

  own: Any
  raw: Any
  loss: Any
  clipped: Any
  count: Any


def diagnosed(chunked: Chunked, mechanism: Mechanism) -> Chunked:
  """The same update, which also measures the sample itself: nothing of it is private."""
  end = len(chunked.sweeps) - 1

  def swept(sweep: Sweep, number: int) -> Sweep:
    def accumulate(state, acc, chunk, carry, key):
      own, carry = sweep.accumulate(state, acc.own, chunk, carry, key)
      if number == 0:
        out, weight = mechanism.clipped(state, chunk, key, clips=False), unit_weights(chunk)
        above = out.norms > state.extra.max_norm
        acc = Measured(
          acc.own,
          add(acc.raw, out.grads),
          acc.loss + jnp.where(weight > 0, weight * out.losses, 0.0).sum(),
          acc.clipped + (weight * above).sum(),
          acc.count + weight.sum(),
        )
      return acc._replace(own=own), carry

    def finish(state, acc, key):
      state, own, metrics = sweep.finish(state, acc.own, key)
      if number == end:
        num, lengths = jnp.maximum(acc.count, 1.0), map(optax.tree.norm, (own, acc.raw))
        metrics["loss"], metrics["clipped"] = acc.loss / num, acc.clipped / num
        metrics["cosine"] = cosine(optax.tree.vdot(own, acc.raw), *lengths)
      return state, acc._replace(own=own), metrics

    return Sweep(accumulate, finish)

  def begin(state: TrainState) -> Measured:
    return Measured(chunked.begin(state), zeros_like(state.params), *(jnp.zeros(()),) * 3)

  sweeps = tuple(swept(sweep, i) for i, sweep in enumerate(chunked.sweeps))
  return Chunked(begin, sweeps, chunked.carry)
