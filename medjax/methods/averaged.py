"""Averages of the parameters, carried along by any method.

average_t = d_t average_{t-1} + (1 - d_t) phi_t,   t >= 1

`averaged` is the exponential moving average (Polyak & Juditsky 1992), d_t = min(decay, (1 + t) /
(10 + t)). `segment_mean` is the plain mean of the weights since the last evaluation, with
d_t = j / (j + 1) for the j updates that the segment has already. SWAD (Cha et al., "SWAD: Domain
Generalization by Seeking Flat Minima", NeurIPS 2021) averages over those segments that validation
chooses, which `flat_stretch` finds: from where the validation loss stops falling to where it rises.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
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
  kept = lambda t: jnp.minimum(decay, (1 + t) / (10 + t))  # noqa: E731
  return _carried(step, kept, {"parameter_average": decay})


def segment_mean(step: Step, period: int) -> Step:
  """The same training, which carries the mean of its parameters since the last evaluation along.

  Args:
    step: any method; its updates do not see the mean.
    period: updates of a segment, those between two evaluations. After update k * period the mean is
      that of the last `period` updates, and the next update begins a new one.
  Returns:
    Step whose state holds the mean as that of `averaged` does.
  """
  check.positive("period", period)

  def kept(t: jax.Array) -> jax.Array:
    so_far = (t - 1) % period
    return so_far / (so_far + 1)

  return _carried(step, kept, {"parameter_segments": period})


def flat_stretch(
  losses: Sequence[float], *, patience: int = 3, tolerance: int = 6, ratio: float = 1.3
) -> tuple[int, int]:
  """First and last evaluation of the segments that SWAD averages (its Algorithm 1).

  The stretch begins at the first evaluation that none of the next `patience` - 1 is below. It ends
  before the first `tolerance` evaluations in a row that all lie above `ratio` times the mean of the
  `patience` losses at its beginning, or with the last one.

  >>> flat_stretch([3.0, 2.0, 1.0, 1.1, 1.2, 1.1, 2.0, 2.1, 2.2], tolerance=3)
  (2, 5)
  >>> flat_stretch([3.0, 2.0, 1.0])  # it still falls: the last weights alone
  (2, 2)

  Args:
    losses: on validation people of the sources, an evaluation each.
    patience: N_s, tolerance: N_e, ratio: r of the paper.
  Raises:
    InputError: no evaluation, or a loss that is not finite.
  """
  for name, value in (("patience", patience), ("tolerance", tolerance), ("ratio", ratio)):
    check.positive(name, value)
  number = len(losses)
  check.require(
    number and all(map(math.isfinite, losses)),
    "finite validation losses of one evaluation or more",
    f"{list(losses)}",
    "lower eval_every, or the learning rate",
  )
  for first in range(number - patience + 1):
    near = losses[first : first + patience]
    if near[0] == min(near):
      break
  else:
    first = min(range(number), key=lambda i: losses[i])
    near = losses[first:]
  limit = ratio * sum(near) / len(near)
  for end in range(first + len(near), number - tolerance + 1):
    if min(losses[end : end + tolerance]) > limit:
      return first, end - 1
  return first, number - 1


def _carried(
  step: Step, kept_at: Callable[[jax.Array], jax.Array], manifest: dict[str, float | int]
) -> Step:
  """`step` with an average whose share `kept_at(t)` stays at update t, counted from 1."""

  def own(state: TrainState) -> TrainState:
    return state.replace(extra=state.extra.inner)

  def init(params: Params, key: Key) -> TrainState:
    state = step.init(params, key)
    return state.replace(extra=Averaged(jax.tree.map(_wide, state.params), state.extra))

  def blend(average: PyTree, new: TrainState) -> TrainState:
    kept = kept_at(new.step.astype(jnp.float32))

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
  own_manifest = {**step.manifest, **manifest}
  return dataclasses.replace(step, init=init, update=update, manifest=own_manifest, chunked=chunked)


def _wide(x: jax.Array) -> jax.Array:
  return jnp.copy(at_least_float32(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x)
