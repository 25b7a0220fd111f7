"""Procedural anatomies are functions of (seed, index), hold their classes and vary."""

import numpy as np
import pytest

from medjax import types
from medjax.check import InputError
from medjax.data.simulated.procedural import ProceduralAnatomy


@pytest.mark.parametrize(
  ("shape", "num_classes"), [((64, 64), 6), ((32, 40), 4), ((16, 16), 2), ((24, 24, 24), 5)]
)
def test_every_class_is_present(shape, num_classes):
  source = ProceduralAnatomy(20, shape, num_classes, 0)
  assert isinstance(source, types.Source) and len(source.class_names) == num_classes
  for i in range(20):
    label = source[i].label
    assert label.shape == shape and label.dtype == np.int32
    assert set(np.unique(label)) == set(range(num_classes))


def test_a_case_depends_on_seed_and_index_only():
  first = ProceduralAnatomy(3, (32, 32), 5, 7, with_image=True)
  again = ProceduralAnatomy(9, (32, 32), 5, 7, with_image=True, noise=0.0)
  np.testing.assert_array_equal(first[2].label, again[2].label)
  np.testing.assert_array_equal(first[2].image, first[2].image)
  maps = [first[0].label, first[1].label, ProceduralAnatomy(3, (32, 32), 5, 8)[0].label]
  for i in range(3):
    for j in range(i):
      assert (maps[i] != maps[j]).mean() > 0.03
  assert len(set(first.subjects)) == 3


def test_image_intensities_follow_the_class_means():
  source = ProceduralAnatomy(1, (96, 96), 4, 0, with_image=True, noise=0.02)
  example = source[0]
  assert example.image.shape == (96, 96, 1) and example.image.dtype == np.float32
  for c in range(4):
    middle = np.median(example.image[example.label == c])
    assert abs(middle - source.class_means[c]) < 0.05  # partial volume reaches few voxels
  assert sorted(source.class_means.round(6)) == [0, 0.333333, 0.666667, 1]


def test_borders_are_smooth():
  label = ProceduralAnatomy(1, (64, 64), 6, 0)[0].label
  edges = (np.diff(label, axis=0) != 0).sum() + (np.diff(label, axis=1) != 0).sum()
  assert edges < 0.15 * label.size  # white noise has 5/6 * 2 edges a voxel


def test_bad_arguments():
  with pytest.raises(InputError, match="2 or 3 axes"):
    ProceduralAnatomy(1, (64,), 3, 0)
  with pytest.raises(InputError, match="num_classes >= 2"):
    ProceduralAnatomy(1, (64, 64), 1, 0)
