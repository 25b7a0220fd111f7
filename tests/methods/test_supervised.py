"""Supervised steps of networks that keep statistics beside their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import losses, nets
from medjax.methods import supervised
from medjax.types import Batch


@pytest.fixture(scope="module")
def batch():
  draw = np.random.default_rng(0)
  numbers = np.arange(4, dtype=np.int32)
  image = draw.normal(2.0, 3.0, (4, 8, 8, 1)).astype(np.float32)
  label = draw.integers(0, 2, (4, 8, 8)).astype(np.int32)
  return Batch(image, label, numbers, numbers, numbers, np.ones(4, np.float32))


@pytest.fixture(scope="module")
def network(batch):
  model = nets.from_linen(nets.SumUNet(num_outputs=2, width=4, num_blocks=1))
  params, model_state = model.init(jax.random.key(0), jnp.asarray(batch.image[0]))

  def loss_fn(params, example, key, model_state):
    logits, new = model.apply(params, example.image, model_state=model_state, train=True)
    return losses.cross_entropy(logits, example.label), new

  step = supervised(loss_fn, optax.sgd(0.0), model_state=model_state)
  start = step.init(params, jax.random.key(1))
  return params, model_state, loss_fn, start, jax.jit(step.update)


def test_running_statistics_move_a_tenth_of_the_way_to_those_of_the_batch(batch, network):
  _, model_state, _, start, update = network
  state, _ = update(start, batch, jax.random.key(2))
  again, _ = update(state, batch, jax.random.key(3))
  assert jax.tree.structure(state.model_state) == jax.tree.structure(model_state)
  moved = jax.tree.map(
    lambda start, one, two: (one - start, two - one), model_state, state.model_state,
    again.model_state,
  )  # fmt: skip
  for first, second in jax.tree.leaves(moved, is_leaf=lambda x: isinstance(x, tuple)):
    np.testing.assert_allclose(second, 0.9 * first, rtol=1e-3, atol=1e-6)
    assert np.abs(first).max() > 0


def test_the_loss_is_that_of_the_batch_under_its_own_statistics(batch, network):
  params, model_state, loss_fn, start, update = network
  _, metrics = update(start, batch, jax.random.key(2))
  one = lambda e: loss_fn(params, e, None, model_state)[0]  # noqa: E731
  expected = jax.jit(jax.vmap(one, axis_name="batch"))(batch).mean()
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
