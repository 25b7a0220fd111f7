"""The moving average of the parameters, beside the training that it does not touch."""

import jax
import numpy as np
import optax

from medjax import methods
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
