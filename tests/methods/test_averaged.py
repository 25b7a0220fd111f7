"""Averages of the parameters, beside the training that they do not touch."""

import jax
import numpy as np
import optax
import pytest

from medjax import methods
from medjax.check import InputError
from tests.contracts import methods as table


def test_average_is_the_recursion_and_training_is_untouched():
  row = next(row for row in table.ROWS if row.name == "supervised")
  plain, averaged = row.step(), methods.averaged(row.step(), 0.7)
  state, with_average = (step.init(row.params(), jax.random.key(0)) for step in (plain, averaged))
  want = np.asarray(row.params()["w"], np.float64)
  update, update_average = jax.jit(plain.update), jax.jit(averaged.update)
  for t in range(1, 40):
    key = jax.random.key(t)
    state, _ = update(state, row.stream(t), key)
    with_average, _ = update_average(with_average, row.stream(t), key)
    kept = min(0.7, (1 + t) / (10 + t))
    want = kept * want + (1 - kept) * np.asarray(state.params["w"], np.float64)
  np.testing.assert_array_equal(state.params["w"], with_average.params["w"])
  np.testing.assert_allclose(with_average.extra.params["w"], want, rtol=1e-6)
  assert with_average.extra.inner == state.extra


def test_decay_zero_is_the_parameters():
  def loss(params, example, key):
    del key
    return 0.5 * (params - example) ** 2

  step = methods.averaged(methods.supervised(loss, optax.sgd(0.1)), 0.0)
  state = step.init(jax.numpy.float32(1), jax.random.key(0))
  state, _ = jax.jit(step.update)(state, jax.numpy.zeros(2), jax.random.key(1))
  assert state.params == state.extra.params


def test_a_segment_holds_the_plain_mean_of_its_own_updates():
  row = next(row for row in table.ROWS if row.name == "supervised")
  step = methods.segment_mean(row.step(), 3)
  state, update = step.init(row.params(), jax.random.key(0)), jax.jit(step.update)
  seen = []
  for t in range(1, 9):
    state, _ = update(state, row.stream(t), jax.random.key(t))
    seen.append(np.asarray(state.params["w"], np.float64))
    own = seen[(t - 1) // 3 * 3 :]  # updates 1 to 3, 4 to 6, 7 and 8
    np.testing.assert_allclose(state.extra.params["w"], np.mean(own, 0), rtol=1e-6)


def test_the_stretch_begins_where_the_loss_stops_falling_and_ends_before_it_has_risen():
  losses = [5.0, 4.0, 1.0, 1.2, 0.8, 1.0, 1.0, 1.2, 1.5, 1.1, 3.0, 3.0]
  # Evaluation 2 is above evaluation 4, within its patience; 1.3 of (.8 + 1 + 1) / 3 is 1.21.
  assert methods.flat_stretch(losses, tolerance=2) == (4, 9)
  assert methods.flat_stretch(losses, tolerance=1) == (4, 7)
  assert methods.flat_stretch(losses) == (4, 11)  # six in a row that are all above never come
  assert methods.flat_stretch(losses, patience=1, tolerance=20) == (0, 11)
  with pytest.raises(InputError, match="finite validation losses"):
    methods.flat_stretch([1.0, float("nan")])
