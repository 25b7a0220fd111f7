"""What every method promises, over the table in `methods.py`.

One training of five steps is run for each method and kept; the promises compare others with it.
"""

import functools

import jax
import numpy as np
import pytest

from medjax import train
from medjax.types import Batch
from tests.contracts.methods import ROWS, Row

KEY = jax.random.key(0)
NUM_STEPS = 5


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


def run(row, num_steps=NUM_STEPS, stream=None, **options):
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


@functools.cache
def plain(row: Row) -> train.Fit:
  """The training that the others are compared with."""
  return run(row)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def each_batch(change, batch):
  return jax.tree.map(change, batch, is_leaf=lambda x: isinstance(x, Batch))


def test_update_keeps_the_tree_so_that_it_is_traced_once(row):
  """`jit` traces again for another structure, shape, type or weak type, and for nothing else."""

  def aval(x):
    return x.shape, x.dtype, x.weak_type

  step = row.step()
  state = jax.eval_shape(step.init, row.params(), KEY)
  new, metrics = jax.eval_shape(step.update, state, row.stream(0), KEY)
  assert jax.tree.map(aval, state) == jax.tree.map(aval, new)
  assert row.metrics <= set(metrics)
  assert all(value.shape == () for value in metrics.values())


def test_steps_are_counted_and_metrics_finite(row):
  fit = plain(row)
  assert int(fit.state.step) == NUM_STEPS
  assert all(np.isfinite(list(r.values())[2:]).all() for r in fit.history)


def test_padding_changes_nothing(row):
  def padded(batch):
    extra = jax.tree.map(lambda x: np.concatenate([x, 7 * np.ones_like(x[:2])]), batch)
    return extra.replace(weight=np.concatenate([batch.weight, np.zeros(2, np.float32)]))

  more = run(row, stream=lambda t: each_batch(padded, row.stream(t)))
  assert_close(plain(row).state, more.state)


def test_order_of_examples_changes_nothing(row):
  def reversed_(batch):
    return jax.tree.map(lambda x: x[::-1].copy(), batch)

  other = run(row, stream=lambda t: each_batch(reversed_, row.stream(t)))
  assert_close(plain(row).state, other.state)


def test_learns_the_sum_of_the_features(whole):
  # label = sum of features: w = 1, b = 0 is the only minimum.
  params = run(whole, 300).state.params
  np.testing.assert_allclose(params["w"], np.ones(3), atol=0.05)
  np.testing.assert_allclose(params["b"], 0.0, atol=0.05)


def test_resumes_bit_for_bit(whole, tmp_path):
  """Its first three steps are trained anew too: the same seed gives the same bits."""
  one_go = plain(whole)

  class Stop(Exception):
    pass

  def failing(t):
    if t == 4:
      raise Stop
    return whole.stream(t)

  with pytest.raises(Stop):
    run(whole, stream=failing, workdir=tmp_path, checkpoint_every=3)
  assert (tmp_path / "checkpoints" / "main" / "3").is_dir()  # in the middle of a row's window
  resumed = run(whole, workdir=tmp_path, checkpoint_every=3)
  assert_equal(one_go.state, resumed.state)
  assert one_go.history == resumed.history


def test_two_devices_equal_one(whole):
  two = run(whole, mesh=train.data_mesh(jax.devices()[:2]))
  assert_close(plain(whole).state, two.state)
