"""What every method promises, over the table in `methods.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import train
from medjax.types import Batch
from tests.contracts.methods import ROWS

KEY = jax.random.key(0)


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request):
  return request.param


@pytest.fixture(
  params=[
    pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.like else []) for row in ROWS
  ]
)
def whole(request):
  """A row whose training is run; see `Row.like`."""
  return request.param


def run(row, num_steps, stream=None, **options):
  return train.fit(
    row.step(),
    stream or row.stream,
    row.params(),
    KEY,
    num_steps=num_steps,
    log_every=2,
    progress=False,
    **options,
  )


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def each_batch(change, batch):
  return jax.tree.map(change, batch, is_leaf=lambda x: isinstance(x, Batch))


def test_update_is_traced_once_and_keeps_the_tree(row):
  step, traces = row.step(), []

  @jax.jit
  def update(state, batch, key):
    traces.append(1)
    return step.update(state, batch, key)

  state = jax.jit(step.init)(row.params(), KEY)
  first = jax.tree.map(lambda x: (x.shape, x.dtype), state)
  for t in range(3):
    state, metrics = update(state, row.stream(t), jax.random.fold_in(KEY, t))
  assert len(traces) == 1
  assert first == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert int(state.step) == 3
  assert row.metrics <= set(metrics)
  assert all(value.shape == () and bool(jnp.isfinite(value)) for value in metrics.values())


def test_same_seed_same_bits(whole):
  assert_equal(run(whole, 5).state, run(whole, 5).state)


def test_padding_changes_nothing(row):
  def padded(batch):
    extra = jax.tree.map(lambda x: np.concatenate([x, 7 * np.ones_like(x[:2])]), batch)
    return extra.replace(weight=np.concatenate([batch.weight, np.zeros(2, np.float32)]))

  plain, more = run(row, 5), run(row, 5, lambda t: each_batch(padded, row.stream(t)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain.state, more.state
  )


def test_order_of_examples_changes_nothing(row):
  def reversed_(batch):
    return jax.tree.map(lambda x: x[::-1].copy(), batch)

  plain, other = run(row, 5), run(row, 5, lambda t: each_batch(reversed_, row.stream(t)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain.state, other.state
  )


def test_learns_the_sum_of_the_features(whole):
  # label = sum of features: w = 1, b = 0 is the only minimum.
  params = run(whole, 300).state.params
  np.testing.assert_allclose(params["w"], np.ones(3), atol=0.05)
  np.testing.assert_allclose(params["b"], 0.0, atol=0.05)


def test_resumes_bit_for_bit(whole, tmp_path):
  one_go = run(whole, 7)

  class Stop(Exception):
    pass

  def failing(t):
    if t == 5:
      raise Stop
    return whole.stream(t)

  with pytest.raises(Stop):
    run(whole, 7, failing, workdir=tmp_path, checkpoint_every=3)
  resumed = run(whole, 7, workdir=tmp_path, checkpoint_every=3)
  assert_equal(one_go.state, resumed.state)
  assert one_go.history == resumed.history


def test_two_devices_equal_one(whole):
  one = run(whole, 5, mesh=train.data_mesh(jax.devices()[:1]))
  two = run(whole, 5, mesh=train.data_mesh(jax.devices()[:2]))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.state, two.state
  )
