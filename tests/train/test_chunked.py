"""Steps in pieces: chunks, sweeps, keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import methods, sweeps, train
from medjax.check import InputError
from medjax.types import Chunked, Step, Sweep, TrainState

KEY = jax.random.key(3)
VALUES = np.arange(1.0, 7.0, dtype=np.float32)


def centred_step(**fields):
  """Two sweeps: the mean of a sample, then the sum of squares about it, which the carry holds."""

  def first(state, acc, chunk, carry, key):
    del state, key
    return (acc[0] + chunk.sum(), acc[1] + (chunk != 0).sum(), acc[2]), chunk

  def mean(state, acc, key):
    return state, (acc[0] / acc[1], acc[1], jnp.zeros(())), {"key": _bits(key)}

  def second(state, acc, chunk, carry, key):
    del state, key
    squares = jnp.where(carry != 0, (carry - acc[0]) ** 2, 0.0)
    return (acc[0], acc[1], acc[2] + squares.sum()), carry

  def finish(state, acc, key):
    new = state.replace(step=state.step + 1, params=state.params + acc[2])
    return new, acc, {"variance": acc[2] / acc[1], "key": _bits(key)}

  def begin(state):
    del state
    return (jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros(()))

  def init(params, key):
    return TrainState(jnp.zeros((), jnp.int32), params, (), {}, ())

  pieces = Chunked(
    begin, (Sweep(first, mean), Sweep(second, finish)), lambda chunk, key: jnp.zeros_like(chunk)
  )
  return Step(init, sweeps.on_one_chunk(pieces), chunked=pieces, **fields)


def _bits(key):
  return jax.random.uniform(key)


def fit(step, stream, num_steps=2, **options):
  return train.fit(
    step, stream, jnp.zeros(()), KEY, num_steps=num_steps, log_every=1, progress=False, **options
  )


@pytest.mark.parametrize(
  "stream",
  [
    lambda t: VALUES,
    lambda t: [VALUES[:3], VALUES[3:]],
    lambda t: iter([VALUES[:4], np.concatenate([VALUES[4:], np.zeros(2, np.float32)])]),
    lambda t: [VALUES[i : i + 2] for i in range(0, 6, 2)] + [np.zeros(2, np.float32)],
  ],
)
def test_a_sample_in_any_chunks_is_the_same_sample(stream):
  out = fit(centred_step(), stream)
  np.testing.assert_allclose(out.history[0]["variance"], VALUES.var(), rtol=1e-6)
  np.testing.assert_allclose(out.state.params, 2 * 6 * VALUES.var(), rtol=1e-6)
  whole = fit(centred_step(), lambda t: VALUES)
  assert [row["key"] for row in out.history] == [row["key"] for row in whole.history]


def test_the_number_of_chunks_may_change_from_step_to_step():
  out = fit(centred_step(), lambda t: [VALUES[i : i + 2] for i in range(0, 2 + 2 * t, 2)], 3)
  want = sum(VALUES[: 2 + 2 * t].var() * (2 + 2 * t) for t in range(3))
  np.testing.assert_allclose(out.state.params, want, rtol=1e-6)


def test_a_sample_without_chunks_is_refused():
  with pytest.raises(InputError, match="at least one chunk"):
    fit(centred_step(), lambda t: [])


def test_no_two_sweeps_and_no_two_steps_end_with_one_key():
  keys = [sweeps.finish_key(jax.random.fold_in(KEY, t), s) for t in range(3) for s in range(3)]
  keys += [sweeps.sample_key(jax.random.fold_in(KEY, t)) for t in range(3)]
  assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 12


def test_a_step_may_bring_its_own_keys():
  asked = []

  def key_of(t):
    asked.append(t)
    return jax.random.key(100 + t)

  out = fit(centred_step(key_of=key_of), lambda t: [VALUES], 3)
  assert asked == [0, 1, 2]
  want = [float(_bits(sweeps.finish_key(jax.random.key(100 + t), 1))) for t in range(3)]
  assert [row["key"] for row in out.history] == want


def test_blocks_are_refused():
  with pytest.raises(InputError, match="block=1"):
    fit(centred_step(), lambda t: VALUES, block=2)


def test_an_average_goes_along_in_pieces():
  step = methods.averaged(centred_step(), 0.5)
  pieces = fit(step, lambda t: [VALUES[:2], VALUES[2:], np.zeros(2, np.float32)], 3)
  update, state = jax.jit(step.update), step.init(jnp.zeros(()), KEY)
  for _ in range(3):
    state, _ = update(state, VALUES, KEY)
  np.testing.assert_allclose(pieces.state.extra.params, state.extra.params, rtol=1e-6)
  assert 0 < state.extra.params < state.params


def test_a_list_of_chunks_is_no_batch_of_an_update():
  step = centred_step()
  with pytest.raises(InputError, match=r"one chunk in step.update, got a list of 2; pass chunks"):
    step.update(step.init(jnp.zeros(()), KEY), [VALUES[:2], VALUES[2:]], KEY)
