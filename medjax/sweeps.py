"""An update in pieces (`types.Chunked`): its keys, and the pieces put together on one chunk.

acc <- begin(state);  for each chunk:  carry <- carry(chunk, k_s)
for each sweep j:  for each chunk:  acc, carry <- accumulate_j(state, acc, chunk, carry, k_s)
                   state, acc, metrics <- finish_j(state, acc, k_j)
"""

from collections.abc import Callable

import jax

from medjax import check, rng
from medjax.types import Chunked, Key, Metrics, PyTree, Step, TrainState


def sample_key(key: Key) -> Key:
  """k_s: key of all chunks in all sweeps of a sample.

  A Step whose noise reaches back (`privacy.BandedNoise`) has keys [window], its own first.
  """
  return rng.stream(key if key.ndim == 0 else key[0], "sample")


def finish_key(key: Key, sweep: int | jax.Array) -> Key:
  """k_j: key of the end of sweep j; no two sweeps share one, also where they share a function.

  Of keys [window] it makes as many.
  """
  if key.ndim > 0:
    return jax.vmap(finish_key, (0, None))(key, sweep)
  return jax.random.fold_in(rng.stream(key, "finish"), sweep)


def whole(step: Step) -> Callable[[TrainState, PyTree, Key], tuple[TrainState, Metrics]]:
  """The update of a Step as one function; `Step.update` itself may ask who calls it."""
  return step.update if step.chunked is None else on_one_chunk(step.chunked)


def on_one_chunk(
  chunked: Chunked,
) -> Callable[[TrainState, PyTree, Key], tuple[TrainState, Metrics]]:
  """`Step.update` of an update in pieces: the whole sample is one chunk.

  It raises InputError for a list of chunks.
  """

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    check.require(
      not isinstance(batch, list),
      "one chunk in step.update",
      f"a list of {len(batch) if isinstance(batch, list) else 0}",
      "pass chunks[0] where a sample is one chunk; several need train.fit, or step.chunked in a"
      " loop of your own (see types.Chunked)",
    )
    acc, carry, metrics = chunked.begin(state), chunked.carry(batch, sample_key(key)), {}
    for number, sweep in enumerate(chunked.sweeps):
      acc, carry = sweep.accumulate(state, acc, batch, carry, sample_key(key))
      state, acc, metrics = sweep.finish(state, acc, finish_key(key, number))
    return state, metrics

  return update
