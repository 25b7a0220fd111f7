"""Streams are functions of (seed, step) that visit every example once an epoch."""

import zlib

import jax
import numpy as np
import pytest

from medjax import rng, types
from medjax.check import InputError
from medjax.data.sets.combine import concat, subset
from medjax.data.simulated.procedural import ProceduralAnatomy
from medjax.data.streams.epochs import batches, load_cases, sequential, stack, zip_streams

SOURCE = ProceduralAnatomy(7, (12, 10), 3, 0, with_image=True)
STORE = stack(SOURCE)


def same(a, b):
  return all(
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_stack_holds_the_examples():
  assert STORE.image.shape == (7, 12, 10, 1) and STORE.label.shape == (7, 12, 10)
  assert STORE.image.dtype == np.float32 and STORE.label.dtype == np.int32
  np.testing.assert_array_equal(STORE.label[4], SOURCE[4].label)
  np.testing.assert_array_equal(STORE.index, range(7))
  assert (STORE.weight == 1).all() and len(set(STORE.subject.tolist())) == 7
  small = stack(SOURCE, [5, 2], (8, 16))
  assert small.image.shape == (2, 8, 16, 1) and small.index.tolist() == [5, 2]
  assert small.subject.tolist() == STORE.subject[[5, 2]].tolist()


def test_codes_of_domains_and_subjects_agree_between_stacks():
  both = concat({"B": SOURCE, "A": SOURCE})
  assert stack(both).domain.tolist() == [1] * 7 + [0] * 7
  assert stack(both, [0]).domain.tolist() == [1]
  part = stack(subset(both, [12, 3]))
  assert part.domain.tolist() == [0, 1] and part.index.tolist() == [12, 3]


def test_loaded_cases_keep_their_shapes_and_agree_with_stacks():
  mixed = concat({"b": ProceduralAnatomy(2, (8, 8), 3, 0), "a": ProceduralAnatomy(1, (8, 9), 3, 0)})
  cases = load_cases(mixed)
  assert [example.label.shape for example in cases.examples] == [(8, 8), (8, 8), (8, 9)]
  assert cases.domain.tolist() == [1, 1, 0] and cases.subject.tolist() == [1, 2, 0]
  part = load_cases(mixed, [2, 1])
  assert part.subject.tolist() == [0, 2] == stack(mixed, [2, 1], (8, 8)).subject.tolist()
  with pytest.raises(InputError, match="at least one case"):
    load_cases(mixed, [])


def test_label_maps_alone_and_shapes_that_differ():
  store = stack(ProceduralAnatomy(2, (8, 8), 3, 0))
  assert store.image is None and store.label.shape == (2, 8, 8)
  assert batches(store, 3, 0)(1).image is None
  mixed = concat({"a": ProceduralAnatomy(1, (8, 8), 3, 0), "b": ProceduralAnatomy(1, (8, 9), 3, 0)})
  with pytest.raises(InputError, match=r"one shape, got a/.* \(8, 8\) and b/.* \(8, 9\)"):
    stack(mixed)
  assert stack(mixed, shape=(8, 8)).label.shape == (2, 8, 8)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_every_epoch_visits_each_example_once(batch_size):
  stream = batches(STORE, batch_size, 0)
  seen = np.concatenate([stream(step).index for step in range(7 * 3)])
  epochs = seen[: len(seen) // 7 * 7].reshape(-1, 7)
  np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(7)] * len(epochs))
  assert len({tuple(epoch) for epoch in epochs[:3].tolist()}) == 3


def test_the_same_step_gives_the_same_batch_after_a_restart():
  stream = batches(STORE, 4, 11, name="train")
  assert isinstance(stream, types.Stream)
  before = [stream(step) for step in range(6)]
  again = batches(stack(SOURCE), 4, 11, name="train")
  assert same(again(5), before[5]) and same(again(2), before[2])
  assert not same(before[5], before[2])


def orders(seed, name=""):
  return batches(STORE, 28, seed, name=name)(0).index.tolist()


def test_seed_name_and_key_choose_the_permutation():
  assert orders(0) != orders(1)
  assert orders(0, "inner") != orders(0, "outer")
  key = jax.random.key(5)
  assert orders(key) == orders(jax.random.key(5)) != orders(jax.random.key(6))
  assert batches(STORE, 7, 0, shuffle=False)(3).index.tolist() == list(range(7))


def test_sequential_counts_every_example_once():
  stream = sequential(STORE, 4)
  assert len(stream) == 2
  found = list(stream)
  assert all(batch.image.shape == (4, 12, 10, 1) for batch in found)
  weight = np.concatenate([batch.weight for batch in found])
  index = np.concatenate([batch.index for batch in found])
  assert weight.tolist() == [1] * 7 + [0] and index[weight > 0].tolist() == list(range(7))
  with pytest.raises(IndexError, match=r"step in \[0, 2\), got 2"):
    stream(2)


def test_zipped_streams_must_be_independent():
  inner, outer = (batches(STORE, 2, 0, name=name) for name in ("inner", "outer"))
  batch = zip_streams(inner=inner, outer=outer)(3)
  assert set(batch) == {"inner", "outer"} and same(batch["outer"], outer(3))
  with pytest.raises(InputError, match="differ in seed or name"):
    zip_streams(inner=inner, outer=batches(STORE, 2, 0, name="inner"))
  zip_streams(inner=inner, outer=batches(STORE, 2, 1, name="inner"))


def test_bad_arguments():
  with pytest.raises(InputError, match="batch_size >= 1"):
    batches(STORE, 0, 0)
  with pytest.raises(InputError, match="at least one case"):
    stack(SOURCE, [])


def keys_of(batch):
  return jax.random.key_data(rng.example_keys(jax.random.key(0), batch))


def distinct(batch):
  return len({tuple(key) for key in keys_of(batch).tolist()})


@pytest.mark.parametrize("num, size", [(2, 6), (7, 5)])  # few cases, and epochs that end in a batch
def test_a_case_that_comes_twice_in_a_batch_has_two_keys(num, size):
  few = jax.tree.map(lambda x: x[:num], STORE)
  for step in range(7):
    batch = batches(few, size, 0)(step)
    assert distinct(batch) == size
    order = np.random.default_rng(step).permutation(size)
    np.testing.assert_array_equal(
      keys_of(jax.tree.map(lambda x, o=order: x[o], batch)), keys_of(batch)[order]
    )
  # Known by hand: the index first, then the number of the draw, and the index alone without one.
  key = jax.random.fold_in(jax.random.key(0), 3)
  got = rng.example_keys(jax.random.key(0), {"index": np.array([3]), "draw": np.array([8])})
  assert got[0] == jax.random.fold_in(key, 8)
  assert rng.example_keys(jax.random.key(0), {"index": np.array([3])})[0] == key


def test_own_arrays_are_a_store():
  arrays = {"image": np.arange(5.0), "label": np.arange(5) % 2}
  batch = batches(arrays, 3, 0)(4)
  np.testing.assert_array_equal(batch["image"], batch["index"])
  assert batch["draw"].tolist() == [12, 13, 14] and "index" not in arrays
  last = sequential(arrays, 3)(1)
  assert last["image"].tolist() == [3, 4, 4] and last["weight"].tolist() == [1, 1, 0]
  named = batches({**arrays, "index": np.arange(5) + 7}, 5, 0)(0)
  np.testing.assert_array_equal(named["index"], named["image"] + 7)
  with pytest.raises(InputError, match=r"one length.*'image': 5, 'label': 4"):
    batches({"image": np.zeros(5), "label": np.zeros(4)}, 2, 0)


def test_names_whose_checksums_collide_are_refused():
  assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
  for names in (("plumless", "buckeroo"), ("noise", "noise")):
    with pytest.raises(ValueError, match="two would share a key: rename one"):
      rng.streams(jax.random.key(0), *names)
