"""Patches are pieces of their cases, foreground slots hold the class drawn, restarts repeat all."""

import jax
import numpy as np
import pytest

from medjax import types
from medjax.check import InputError
from medjax.data.streams.epochs import Cases, batches, zip_streams
from medjax.data.streams.patches import patches
from medjax.types import IGNORE, Example


def case(index, shape, label=None, *, channels=2):
  """Voxel v of channel c holds its flat position plus c million: a patch tells its place."""
  position = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  image = np.stack([position + 1e6 * c for c in range(channels)], axis=-1)
  label = np.zeros(shape, np.int32) if label is None else label
  return Example(f"case{index}", f"p{index}", index, image, label, (1.0,) * len(shape))


def cases(*examples):
  numbers = np.arange(len(examples), dtype=np.int32)
  return Cases(examples, subject=numbers, domain=np.zeros(len(examples), np.int32))


def with_voxels(shape, **voxels):
  label = np.zeros(shape, np.int32)
  for name, place in voxels.items():
    label[place] = int(name.removeprefix("class"))
  return label


def same(a, b):
  return all(
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def corners(batch, shape):
  """First voxel of every patch, from the values of channel 0."""
  first = batch.image[(slice(None), *(0,) * (batch.image.ndim - 2), 0)].astype(int)
  return np.stack(np.unravel_index(first, shape), axis=-1)


def test_a_patch_is_a_piece_of_image_and_label():
  shape = (7, 6, 8)
  label = np.random.default_rng(0).integers(0, 3, shape).astype(np.int32)
  held = cases(case(0, shape, label))
  batch = patches(held, (3, 2, 4), 5, 0)(2)
  assert isinstance(batch, types.Batch) and batch.image.shape == (5, 3, 2, 4, 2)
  assert batch.image.dtype == np.float32 and batch.label.dtype == np.int32
  for b, (x, y, z) in enumerate(corners(batch, shape)):
    where = np.s_[x : x + 3, y : y + 2, z : z + 4]
    np.testing.assert_array_equal(batch.image[b], held.examples[0].image[where])
    np.testing.assert_array_equal(batch.label[b], label[where])


def test_every_corner_and_so_every_voxel_is_reached():
  shape = (5, 4)
  stream = patches(cases(case(0, shape)), (2, 3), 8, 0, foreground_fraction=0)
  found = np.concatenate([corners(stream(step), shape) for step in range(20)])
  counts = np.zeros((4, 2), int)
  np.add.at(counts, tuple(found.T), 1)
  expected = 160 / 8
  assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()  # uniform


@pytest.mark.parametrize(
  ("batch_size", "fraction", "expected"),
  [(2, 1 / 3, 1), (3, 1 / 3, 1), (12, 1 / 3, 4), (4, 0.0, 0), (4, 1.0, 4), (1, 1 / 3, 1)],
)
def test_the_last_of_a_batch_contain_foreground(batch_size, fraction, expected):
  """2 -> round(1.33) = 1 free; 3 -> 2 free; 12 -> 8 free; at least one contains foreground."""
  label = with_voxels((40, 40), class1=(3, 37))
  stream = patches(
    cases(case(0, (40, 40), label)), (4, 4), batch_size, 1, foreground_fraction=fraction
  )
  hits = np.stack([(stream(step).label == 1).any((1, 2)) for step in range(30)])
  free = batch_size - expected
  assert hits[:, free:].all()
  assert free == 0 or hits[:, :free].mean() < 0.2  # 16 of 1369 corners


def test_classes_are_drawn_uniformly_whatever_their_size():
  label = np.zeros((30, 30), np.int32)
  label[:20, :20] = 1  # 400 voxels
  label[28, 28] = 2  # one
  stream = patches(cases(case(0, (30, 30), label)), (3, 3), 50, 0, foreground_fraction=1)
  rare = np.concatenate([(stream(step).label == 2).any((1, 2)) for step in range(8)])
  assert abs(rare.mean() - 0.5) < 5 * 0.5 / np.sqrt(400)


def test_the_drawn_voxel_is_in_the_middle_or_as_near_as_the_case_allows():
  for place, corner in (((10, 12), (8, 9)), ((0, 19), (0, 14)), ((1, 1), (0, 0))):
    label = with_voxels((20, 20), class1=place)
    stream = patches(cases(case(0, (20, 20), label)), (5, 6), 2, 0, foreground_fraction=1)
    assert corners(stream(0), (20, 20)).tolist() == [list(corner)] * 2


def test_many_voxels_are_thinned_but_spread_over_the_class():
  label = np.zeros((128, 128), np.int32)
  label[:, 64:] = 1  # 8192 voxels, twice what is kept
  stream = patches(cases(case(0, (128, 128), label)), (1, 1), 512, 0, foreground_fraction=1)
  batch = stream(0)
  assert (batch.label == 1).all() and max(len(c) for c in stream.places[0]) == 4096
  rows = corners(batch, (128, 128))[:, 0]
  assert abs(rows.mean() - 63.5) < 5 * 37 / np.sqrt(512)


def test_a_case_without_foreground_gives_any_patch():
  stream = patches(cases(case(0, (9, 9))), (2, 2), 40, 0, foreground_fraction=1)
  assert len({tuple(c) for c in corners(stream(0), (9, 9)).tolist()}) > 10


def test_a_small_case_is_padded_on_both_sides_by_0_and_ignore():
  held = cases(case(0, (3, 9), np.ones((3, 9), np.int32)))
  batch = patches(held, (6, 4), 2, 0)(0)
  assert batch.image.shape == (2, 6, 4, 2)
  for rows in ([0], [4, 5]):  # 3 rows to add: one before, two after
    assert (batch.image[:, rows] == 0).all() and (batch.label[:, rows] == IGNORE).all()
  assert (batch.label[:, 1:4] == 1).all()
  assert (batch.image[:, 1:4, :, 1] >= 1e6).all()


@pytest.mark.parametrize(
  ("patch", "is_refused"), [((6, 9), False), ((7, 9), True), ((3, 19), True)]
)
def test_patches_that_are_padding_for_the_larger_part_are_refused(patch, is_refused):
  held = cases(case(0, (2, 9)), case(1, (3, 5)))  # the largest extents: 3 and 9
  if is_refused:
    with pytest.raises(InputError, match="up to 3 x 9 voxels, got .* would be padding"):
      patches(held, patch, 2, 0, foreground_fraction=0)
  else:
    assert patches(held, patch, 2, 0, foreground_fraction=0)(0).image.shape == (2, *patch, 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_volumes(axis):
  shape = (6, 7, 8)
  label = with_voxels(shape, class1=(4, 5, 6))
  held = cases(case(0, shape, label))
  stream = patches(held, (3, 2), 4, 0, axis=axis, foreground_fraction=0.5)
  batch = stream(1)
  assert batch.image.shape == (4, 3, 2, 2) and batch.label.shape == (4, 3, 2)
  assert (batch.label[2:] == 1).any((1, 2)).all()
  size = [3, 2]
  size.insert(axis, 1)
  for b, corner in enumerate(corners(batch, shape)):
    where = tuple(slice(start, start + n) for start, n in zip(corner, size, strict=True))
    np.testing.assert_array_equal(batch.label[b], label[where].squeeze(axis))
  seen = {int(c[axis]) for step in range(40) for c in corners(stream(step), shape)}
  assert seen == set(range(shape[axis]))


def test_an_epoch_takes_every_case_once_and_draws_are_numbered():
  stream = patches(cases(*(case(i, (5 + i, 6)) for i in range(7))), (4, 4), 3, 0)
  found = [stream(step) for step in range(7)]
  subjects = np.concatenate([batch.subject for batch in found]).reshape(3, 7)
  np.testing.assert_array_equal(np.sort(subjects, axis=1), [range(7)] * 3)
  assert np.concatenate([batch.draw for batch in found]).tolist() == list(range(21))
  twice = patches(cases(case(5, (5, 5))), (4, 4), 4, 0)(1)
  assert (twice.index == 5).all() and len(set(twice.draw.tolist())) == 4


def test_a_restart_gives_the_same_batches_and_seed_and_name_choose_them():
  label = np.random.default_rng(0).integers(0, 4, (12, 12, 12)).astype(np.int32)
  held = cases(*(case(i, (12, 12, 12), label) for i in range(3)))

  def stream(seed=5, name="train"):
    return patches(held, (4, 4, 4), 4, seed, name=name)

  assert isinstance(stream(), types.Stream)
  assert same(stream()(7), stream()(7)) and not same(stream()(7), stream()(8))
  assert not same(stream()(7), stream(6)(7)) and not same(stream()(7), stream(name="x")(7))
  key = jax.random.key(5)
  assert same(stream(key)(0), stream(jax.random.key(5))(0))


def test_unknown_voxels_are_no_centre():
  label = np.full((40, 40), IGNORE, np.int32)
  label[30:33, 5:8] = 0  # annotated, all background
  stream = patches(cases(case(0, (40, 40), label)), (5, 5), 8, 0)
  assert (stream(0).label != IGNORE).any((1, 2)).all()


def test_images_alone_and_labels_alone():
  unlabelled = cases(case(0, (6, 6)).replace(label=None))
  batch = patches(unlabelled, (3, 3), 2, 0, foreground_fraction=0)(0)
  assert batch.label is None and batch.image.shape == (2, 3, 3, 2)
  with pytest.raises(InputError, match="label maps for foreground_fraction > 0"):
    patches(unlabelled, (3, 3), 2, 0)
  maps = cases(case(0, (6, 6)).replace(image=None))
  assert patches(maps, (3, 3), 2, 0)(0).image is None
  with pytest.raises(InputError, match="a label in all cases or in none, got 1 of 2"):
    patches(cases(unlabelled.examples[0], case(1, (6, 6))), (3, 3), 2, 0)


def test_two_patch_streams_of_one_name_cannot_be_zipped():
  held = cases(case(0, (6, 6)), case(1, (6, 6)))
  with pytest.raises(InputError, match="differ in seed or name"):
    zip_streams(a=patches(held, (3, 3), 2, 0), b=patches(held, (4, 4), 2, 0))
  other = batches(patches(held, (3, 3), 2, 0)(0), 2, 0, name="b")
  zip_streams(a=patches(held, (3, 3), 2, 0), b=other)(0)


def test_wrong_sizes():
  volume = cases(case(0, (6, 6, 6)))
  for patch, axis in (((3, 3), None), ((3, 3, 0), None), ((3, 3, 3), 1), ((3,), 0)):
    with pytest.raises(InputError, match="cases of . axes for patches"):
      patches(volume, patch, 2, 0, axis=axis)
  with pytest.raises(InputError, match="axis to be one of"):
    patches(volume, (3, 3), 2, 0, axis=3)
  with pytest.raises(InputError, match=r"foreground_fraction in \[0, 1\]"):
    patches(volume, (3, 3, 3), 2, 0, foreground_fraction=1.5)
  with pytest.raises(InputError, match="batch_size >= 1"):
    patches(volume, (3, 3, 3), 0, 0)


@pytest.mark.parametrize("space", [(12, 9), (5, 4)])
def test_a_block_has_the_patch_in_its_middle_and_zeros_beyond_the_case(space):
  """The patch drawn is the same with and without a block, at the border of the case too."""
  one = case(0, space, (np.indices(space).sum(0) % 2).astype(np.int32), channels=1)
  held = cases(one.replace(image=one.image + 1))
  plain = patches(held, (6, 4), 3, seed=0)
  around = patches(held, (6, 4), 3, seed=0, block=(10, 8))
  for step in range(20):
    small, large = plain(step), around(step)
    assert large.image.shape == (3, 10, 8, 1)
    np.testing.assert_array_equal(large.image[:, 2:-2, 2:-2], small.image)
    np.testing.assert_array_equal(large.label[:, 2:-2, 2:-2], small.label)
    np.testing.assert_array_equal(large.label == IGNORE, large.image[..., 0] == 0)
  with pytest.raises(InputError, match="at least the patch"):
    patches(held, (6, 4), 3, seed=0, block=(5, 8))
