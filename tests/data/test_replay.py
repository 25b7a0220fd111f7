"""Replay draws what it says, and patches are cut where they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.streams.replay import Drawn, replayed
from medjax.data.streams.volume_pool import cut_patches, mirrored, volume_pool

CURRENT, MEMORY = (3, 5, 8), (0, 1, 2, 4, 6)


def drawn(stream, num_steps):
  parts = [stream(t) for t in range(num_steps)]
  return Drawn(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def test_without_memory_it_is_fine_tuning():
  for form in ("pooled", "weighted"):
    found = drawn(replayed(CURRENT, (), 4, 0, form=form), 6)
    assert set(found.rows) == set(CURRENT) and not found.remembered.any()
    np.testing.assert_array_equal(found.weight, np.ones(24))


def test_pooled_takes_every_case_once_an_epoch():
  found = drawn(replayed(CURRENT, MEMORY, 4, 0), 10)
  for epoch in found.rows.reshape(5, 8):
    assert sorted(epoch) == sorted(CURRENT + MEMORY)
  np.testing.assert_array_equal(found.remembered, np.isin(found.rows, MEMORY))
  assert found.remembered.mean() == 5 / 8  # |M| / (|D| + |M|), not one half


@pytest.mark.parametrize("size", [2, 5, 8])
def test_weighted_gives_the_memory_half_of_the_loss(size):
  found = replayed(CURRENT, MEMORY, size, 0, form="weighted")
  value = np.random.default_rng(0).normal(size=9)  # the loss of each case
  batch = found(3)
  ours, theirs = batch.rows[~batch.remembered], batch.rows[batch.remembered]
  assert set(ours) <= set(CURRENT) and set(theirs) <= set(MEMORY)
  mean = (batch.weight * value[batch.rows]).sum() / batch.weight.sum()
  np.testing.assert_allclose(mean, (value[ours].mean() + value[theirs].mean()) / 2, rtol=1e-6)
  np.testing.assert_allclose(batch.weight.sum(), size, rtol=1e-6)


def test_a_step_is_a_function_of_its_number():
  for form in ("pooled", "weighted"):
    a, b = (replayed(CURRENT, MEMORY, 4, 7, form=form, name="x") for _ in range(2))
    np.testing.assert_array_equal(a(41).rows, b(41).rows)


def test_bad_pools_are_refused():
  with pytest.raises(InputError, match="remembered cases of other centres"):
    replayed((1, 2), (2, 3), 4, 0)
  with pytest.raises(InputError, match="batch_size >= 2"):
    replayed((1,), (2,), 1, 0, form="weighted")
  with pytest.raises(InputError, match="a case of the current centre"):
    replayed((), (2,), 4, 0)


RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(9, 8, 9, 2)).astype(np.float16).astype(np.float32)
LABEL = np.round(255 * RANDOM.uniform(0.1, 1, size=(9, 8, 9))).astype(np.float32) / 255
LABEL[:, :, 3:] = 0
ROWS = replayed(CURRENT, MEMORY, 4, 0)


def test_patches_are_pieces_of_their_volumes():
  pool = volume_pool(IMAGE, LABEL)
  stream = cut_patches(pool, ROWS, (4, 5), 0, per_volume=2, flip=0.0, turn=0.0)
  batch = stream(2)
  np.testing.assert_array_equal(batch["index"], np.repeat(ROWS(2).rows, 2))
  for image, label, row in zip(batch["image"], batch["label"], batch["index"], strict=True):
    places = [
      (i, j)
      for i in range(5)
      for j in range(5)
      if np.array_equal(image, IMAGE[row, i : i + 4, j : j + 5])
    ]
    assert len(places) == 1  # all values differ
    i, j = places[0]
    np.testing.assert_allclose(label, LABEL[row, i : i + 4, j : j + 5], atol=1e-6)


def test_host_and_device_give_the_same_batch():
  ours, theirs = (
    cut_patches(volume_pool(IMAGE, LABEL, on_device=d), ROWS, (4, 4), 0)(5) for d in (True, False)
  )
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name])


def test_foreground_patches_hold_lesion_and_others_have_none_in_the_middle():
  pool = volume_pool(IMAGE, LABEL)
  always = cut_patches(pool, ROWS, (3, 3), 0, foreground_fraction=1.0)
  assert all((always(t)["label"].max((1, 2)) > 0).all() for t in range(4))
  never = cut_patches(pool, ROWS, (3, 3), 0, foreground_fraction=0.0, flip=0.0, turn=0.0)
  # Middles lie at columns 3..8 where there is no lesion; a patch at the border moves inside.
  assert all((never(t)["label"][:, 1, 1] == 0).all() for t in range(4))


def test_what_is_stored_moves_with_the_label():
  slots = np.zeros(9, int)
  slots[list(CURRENT + MEMORY)] = np.arange(8)
  stored = np.zeros((8, 8, 9), np.float16)
  stored[slots[list(CURRENT + MEMORY)]] = (2 * LABEL[list(CURRENT + MEMORY)]).astype(np.float16)
  batch = cut_patches(
    volume_pool(IMAGE, LABEL), ROWS, (4, 4), 0, turn=0.9, stored=(jnp.asarray(stored), slots)
  )(1)
  np.testing.assert_allclose(batch["teacher"], 2 * batch["label"], atol=2e-3)


def test_standardised_patches_have_mean_0_and_deviation_1():
  image = cut_patches(volume_pool(IMAGE, LABEL), ROWS, (5, 5), 0, standardise=True)(0)["image"]
  np.testing.assert_allclose(image.mean((1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(image.std((1, 2)), 1, atol=1e-5)


def test_turns_and_flips_give_the_eight_ways_to_lay_a_square():
  square = jnp.arange(9.0).reshape(3, 3)
  keys = jax.vmap(jax.random.key)(jnp.arange(4000))
  found = jax.jit(jax.vmap(lambda k: mirrored((square,), k, 2, 0.5, 0.75)[0]))(keys)
  ways, counts = np.unique(np.asarray(found).reshape(4000, -1), axis=0, return_counts=True)
  # A quarter or three quarter turn in half of all cases: all 8 ways alike, 500 +- 21
  assert len(ways) == 8 and np.all(np.abs(counts - 500) < 4 * 21)


def test_bad_volumes_are_refused():
  with pytest.raises(InputError, match="soft labels in"):
    volume_pool(IMAGE, 2 * LABEL)
  with pytest.raises(InputError, match="half precision"):
    volume_pool(1e6 * IMAGE, LABEL)
  with pytest.raises(InputError, match="a patch that fits"):
    cut_patches(volume_pool(IMAGE, LABEL), ROWS, (9, 9), 0)
