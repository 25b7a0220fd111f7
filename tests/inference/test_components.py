"""Removal of small components."""

import numpy as np
import pytest
from scipy import ndimage

from medjax.check import InputError
from medjax.inference.components import remove_small_components


def test_a_component_stays_from_its_fraction_on():
  label = np.zeros((9, 9), np.int32)
  label[0, :7] = 1  # 7 voxels of 10
  label[2, :3] = 1  # 3 of 10: exactly the fraction
  np.testing.assert_array_equal(remove_small_components(label, fraction=0.3), label)
  removed = remove_small_components(label, fraction=0.31)
  assert (removed[0] == label[0]).all() and not removed[1:].any()


def test_classes_do_not_touch_each_other():
  """A class is judged by its own volume, and one that splits another does not join it."""
  label = np.array([[1, 1, 1, 2, 1], [0, 0, 0, 2, 0]], np.int32)
  np.testing.assert_array_equal(remove_small_components(label), [[1, 1, 1, 2, 0], [0, 0, 0, 2, 0]])


def test_corners_connect_if_asked():
  label = np.eye(3, dtype=np.int64)
  assert remove_small_components(label, fraction=1).sum() == 1
  np.testing.assert_array_equal(remove_small_components(label, fraction=1, corners=True), label)


def test_the_largest_of_many_pieces_stays():
  label = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1], np.int32)  # a fifth each, all below 0.3
  assert remove_small_components(label).sum() == 1


def test_agrees_with_the_definition_in_3d():
  random = np.random.default_rng(0)
  label = (ndimage.gaussian_filter(random.normal(size=(12, 12, 6)), 1) > 0.1).astype(np.int32)
  label[ndimage.gaussian_filter(random.normal(size=label.shape), 1) > 0.25] = 2
  want = label.copy()
  for k in (1, 2):
    components, count = ndimage.label(label == k)
    masks = [components == c for c in range(1, count + 1)]
    largest = max(mask.sum() for mask in masks)
    for mask in masks:
      if mask.sum() < 0.2 * (label == k).sum() and mask.sum() < largest:
        want[mask] = 0
  assert (want != label).any()
  np.testing.assert_array_equal(remove_small_components(label, fraction=0.2), want)


def test_what_stays_unchanged():
  label = np.array([[-1, 0], [0, -1]], np.int32)
  np.testing.assert_array_equal(remove_small_components(label), label)
  before = np.array([1, 0, 1, 1, 1, 1], np.int32)
  after = remove_small_components(before)
  assert before[0] == 1 and after[0] == 0  # the argument is not written to


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((np.zeros(3, int), {"fraction": 1.5}), "fraction in"),
    ((np.zeros(3), {}), "integer class ids"),
  ],
)
def test_bad_input(arguments, message):
  with pytest.raises(InputError, match=message):
    remove_small_components(arguments[0], **arguments[1])
