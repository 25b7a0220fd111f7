"""Resampling interpolates in world coordinates."""

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.formats.volume import Volume
from medjax.data.grid.resample import resample

AFFINE = np.array([[1.5, 0.2, 0, 4.0], [-0.1, 2.0, 0, 1.0], [0, 0, 3.0, -2.0], [0, 0, 0, 1.0]])


def world(affine, shape):
  grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
  return grid @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 4.0, 6.0), (0.7, 2.0, 5.0)])
def test_a_linear_ramp_in_world_coordinates_is_exact(spacing):
  slope = np.array([0.3, -0.7, 1.1])
  shape = (12, 10, 9)
  volume = Volume(world(AFFINE, shape) @ slope, AFFINE, (1.5, 2.0, 3.0))
  result = resample(volume, spacing)
  expected = world(result.affine, result.space) @ slope
  place = world(np.linalg.inv(AFFINE) @ result.affine, result.space)  # in old voxels
  inside = ((place >= 0) & (place <= np.array(shape) - 1)).all(axis=-1)
  assert inside.mean() > 0.5
  np.testing.assert_allclose(result.array[inside], expected[inside], atol=1e-12)


def test_shape_spacing_and_centre():
  volume = Volume(np.zeros((12, 10, 9)), AFFINE, (1.5, 2.0, 3.0))
  result = resample(volume, (1, 5, 2))
  assert result.space == (18, 4, 14)  # 12 * 1.5 / 1, 10 * 2 / 5, 9 * 3 / 2 = 13.5
  assert result.spacing == (1.0, 5.0, 2.0)
  old = AFFINE @ [5.5, 4.5, 4.0, 1]  # middle of the old grid: (shape - 1) / 2
  np.testing.assert_allclose(result.affine @ [8.5, 1.5, 6.5, 1], old, atol=1e-12)
  ratio = np.array(result.spacing) / volume.spacing
  np.testing.assert_allclose(result.affine[:3, :3], AFFINE[:3, :3] * ratio)


def test_nearest_keeps_labels_and_their_type():
  label = np.random.default_rng(0).choice([0, 5, 90], size=(7, 6, 5)).astype(np.int32)
  result = resample(Volume(label, AFFINE, (1.5, 2.0, 3.0)), (1, 1, 1), order=0)
  assert result.array.dtype == np.int32
  assert set(np.unique(result.array)) == {0, 5, 90}


def test_halving_the_spacing_and_back_keeps_labels():
  label = np.random.default_rng(0).integers(0, 4, (6, 5)).astype(np.int32)
  fine = resample(Volume(label, None, (2.0, 2.0)), (1, 1), order=0)
  np.testing.assert_array_equal(fine.array, label.repeat(2, 0).repeat(2, 1))
  assert fine.affine is None


def test_channels_are_resampled_alike_and_equal_spacing_changes_nothing():
  image = np.random.default_rng(0).normal(size=(6, 5, 2))
  volume = Volume(image, None, (1.0, 1.0))
  assert resample(volume, (1, 1)) is volume
  both = resample(volume, (2, 2)).array
  single = resample(volume._replace(array=image[..., 1]), (2, 2)).array
  np.testing.assert_array_equal(both[..., 1], single)


def test_bad_spacing_is_refused():
  volume = Volume(np.zeros((4, 4)), None, (1.0, 1.0))
  with pytest.raises(InputError, match="spacing > 0, got spacing=0.0"):
    resample(volume, (1, 0))
  with pytest.raises(InputError, match="spacing with 2 entries"):
    resample(volume, (1, 1, 1))
