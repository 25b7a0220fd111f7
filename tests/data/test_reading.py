"""Batches read from the disk: those of the store in memory, in shares, and ahead of their time."""

import threading

import jax
import numpy as np
import pytest

from medjax import data
from medjax.check import InputError
from medjax.data.sets.prepared import Prepared, prepare


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  anatomy = data.ProceduralAnatomy(7, (6, 5), num_classes=3, seed=0, with_image=True)
  return Prepared(prepare(anatomy, tmp_path_factory.mktemp("set"), name="anatomy"))


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_batches_are_those_of_a_store_in_memory(source):
  indices = [6, 0, 3, 5, 1]
  held = data.batches(data.stack(source, indices), 4, seed=3, name="train")
  read = data.read_batches(source, indices, 4, seed=3, name="train")
  for step in (0, 1, 7):
    equal(read(step), held(step))


def test_shares_of_processes_make_the_whole_batch(source):
  whole = data.read_batches(source, None, 6, seed=0)
  shares = [data.read_batches(source, None, 6, seed=0, part=(i, 3)) for i in range(3)]
  assert not whole.is_share and shares[0].is_share
  for step in (0, 4):
    parts = [share(step) for share in shares]
    equal(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), whole(step))
  with pytest.raises(InputError, match="3 processes divide"):
    data.read_batches(source, None, 4, seed=0, part=(0, 3))


def test_batches_ahead_are_the_same_in_any_order(source):
  stream = data.read_batches(source, None, 2, seed=0)
  with data.ahead(stream, workers=2, depth=3) as fast:
    for step in (0, 1, 2, 9, 3, 3):
      equal(fast(step), stream(step))


def test_no_more_is_held_than_asked_for_and_errors_come_at_their_step():
  started, go = [], threading.Event()

  def stream(step):
    started.append(step)
    go.wait(60)
    if step == 1:
      raise OSError("gone")
    return step

  with data.ahead(stream, workers=8, depth=2) as fast:
    threading.Timer(0, go.set).start()
    assert fast(0) == 0
    assert max(started) <= 2
    with pytest.raises(OSError, match="gone"):
      fast(1)
    assert fast(2) == 2
