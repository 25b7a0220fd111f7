"""Exponential moving average of the parameters, around any method (Polyak & Juditsky 1992).

average_t = d_t average_{t-1} + (1 - d_t) phi_t,   d_t = min(decay, (1 + t) / (10 + t)),   t >= 1
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax import check
from medjax.tree import at_least_float32
from medjax.types import Key, Leaf, Metrics, Params, PyTree, Step, Sweep, TrainState


class Averaged(NamedTuple):
  """`extra` of an averaged method: the average, and the `extra` of the method itself."""

  params: Leaf
  inner: Leaf


def averaged(step: Step, decay: float = 0.999) -> Step:
  """The same training, which carries the moving average of its parameters along.

  Args:
    step: any method; its updates do not see the average.
    decay: in [0, 1): the average remembers about 1 / (1 - decay) steps. The first steps use the
      smaller (1 + t) / (10 + t), so that the initial weights are forgotten.
  Returns:
    Step whose state holds the average in `extra.params`, float32 or wider, and the method's own
    `extra` in `extra.inner`. Integers among the parameters are copied, not averaged.
  """
  check.require(0 <= decay < 1, "decay in [0, 1)", f"{decay=}", "pass for example 0.999")

  def own(state: TrainState) -> TrainState:
    return state.replace(extra=state.extra.inner)

  def init(params: Params, key: Key) -> TrainState:
    state = step.init(params, key)
    return state.replace(extra=Averaged(jax.tree.map(_wide, state.params), state.extra))

  def blend(average: PyTree, new: TrainState) -> TrainState:
    t = new.step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + t) / (10 + t))

    def leaf(old: jax.Array, value: jax.Array) -> jax.Array:
      if not jnp.issubdtype(value.dtype, jnp.inexact):
        return value
      value = at_least_float32(value)  # in bfloat16 a decay of 0.999 is 1
      return value + kept.astype(value.dtype) * (old - value)

    return new.replace(extra=Averaged(jax.tree.map(leaf, average, new.params), new.extra))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    new, metrics = step.update(own(state), batch, key)
    return blend(state.extra.params, new), metrics

  def swept(sweep: Sweep, is_last: bool) -> Sweep:
    def accumulate(state: TrainState, *rest: Any) -> tuple[PyTree, PyTree]:
      return sweep.accumulate(own(state), *rest)

    def finish(state: TrainState, acc: PyTree, key: Key) -> tuple[TrainState, PyTree, Metrics]:
      new, acc, metrics = sweep.finish(own(state), acc, key)
      average = state.extra.params
      kept = new.replace(extra=Averaged(average, new.extra))
      return blend(average, new) if is_last else kept, acc, metrics

    return Sweep(accumulate, finish)

  chunked = step.chunked
  if chunked is not None:
    begin, last = chunked.begin, len(chunked.sweeps) - 1
    chunked = chunked._replace(
      begin=lambda state: begin(own(state)),
      sweeps=tuple(swept(sweep, i == last) for i, sweep in enumerate(chunked.sweeps)),
    )
  manifest = {**step.manifest, "parameter_average": decay}
  return dataclasses.replace(step, init=init, update=update, manifest=manifest, chunked=chunked)


def _wide(x: jax.Array) -> jax.Array:
  return jnp.copy(at_least_float32(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x)
