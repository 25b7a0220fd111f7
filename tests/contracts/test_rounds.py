"""What every federation promises, bit for bit, over the table in `rounds.py`."""

import functools

import jax
import numpy as np
import pytest

from medjax import sweeps, train
from tests.contracts import rounds

KEY = jax.random.key(0)
NUM_ROUNDS = 5


@pytest.fixture(
  params=[
    pytest.param(row, id=row.name, marks=[] if row is rounds.ROWS[1] else [pytest.mark.slow])
    for row in rounds.ROWS
  ]
)
def row(request):
  """The default suite takes the row that has most states."""
  return request.param


@functools.cache
def compiled(row, across="auto"):
  """The pieces of a round; the loop would compile them anew for every run."""
  chunked = row.step(across).chunked
  return jax.jit(chunked.begin), *map(jax.jit, chunked.sweeps[0])


@functools.cache
def start(row):
  return jax.jit(row.step("auto").init)(rounds.params(), KEY)


def run(row, stream, across="auto", place=lambda block: block):
  """State and metrics after some rounds, over the blocks that the stream gives."""
  begin, accumulate, finish = compiled(row, across)
  state, table = start(row), []
  for t in range(NUM_ROUNDS):
    key, acc = jax.random.fold_in(KEY, t), begin(state)
    for block in stream(t):
      acc, _ = accumulate(state, acc, place(block), (), sweeps.sample_key(key))
    state, _, metrics = finish(state, acc, sweeps.finish_key(key, 0))
    table.append(metrics)
  return jax.device_get((state, table))


@functools.cache
def reference(row):
  return run(row, rounds.stream())


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def reversed_clients(blocks):
  """The same round with its clients in other slots."""
  (block,) = blocks
  turned = jax.tree.map(lambda x: x[::-1].copy(), block)
  return [turned.replace(slot=block.slot)]


def without_the_dropped(blocks):
  """The same round where clients that dropped out were never asked."""
  (block,) = blocks
  gone = block.weight == 0
  rubbish = jax.tree.map(
    lambda x: np.where(gone.reshape(-1, *[1] * (x.ndim - 1)), 7, x).astype(x.dtype), block.batches
  )
  client = np.where(gone, rounds.NUM_CLIENTS, block.client).astype(np.int32)
  slot = np.where(gone, rounds.COHORT, block.slot).astype(np.int32)
  return [block.replace(client=client, slot=slot, batches=rubbish)]


@pytest.mark.parametrize("chunk", (1, 2))  # 2 does not divide the cohort of 3: padding
def test_blocks_and_padding_change_no_bit(row, chunk):
  assert_equal(reference(row), run(row, rounds.stream(chunk=chunk)))


@pytest.mark.parametrize("change", (reversed_clients, without_the_dropped))
def test_order_and_dropout_change_no_bit(row, change):
  stream = rounds.stream()
  assert any((block.weight == 0).any() for t in range(NUM_ROUNDS) for block in stream(t))
  assert_equal(reference(row), run(row, lambda t: change(stream(t))))


def test_two_devices_change_no_bit(row):
  mesh = train.data_mesh(jax.devices()[:2])
  stream = rounds.stream(chunk=4)
  one = run(row, stream, "vmap")
  two = run(row, stream, "vmap", lambda block: train.shard_batch(block, mesh))
  assert_equal(one, two)
  if row is rounds.ROWS[0]:  # the others round to few bits, and so amplify a rounding error
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, reference(row)
    )


def test_resumes_bit_for_bit(tmp_path):
  row, stream = rounds.ROWS[1], rounds.stream()

  def fit(stream, **options):
    options = {"num_steps": 4, "log_every": 2, "progress": False, **options}
    return train.fit(row.step("auto"), stream, rounds.params(), KEY, **options)

  class Stop(Exception):
    pass

  def failing(t):
    if t == 3:
      raise Stop
    return stream(t)

  with pytest.raises(Stop):
    fit(failing, workdir=tmp_path, checkpoint_every=2)
  whole, resumed = fit(stream), fit(stream, workdir=tmp_path, checkpoint_every=2)
  assert_equal(whole.state, resumed.state)
  assert whole.history == resumed.history
