"""Normalised channels have the promised range and moments; constants become 0."""

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.normalise import NORMALISERS, normalise

IMAGE = np.random.default_rng(0).normal(100.0, 20.0, (20, 20, 2)) * [1.0, 1000.0]


def test_zscore_has_mean_0_and_deviation_1_in_each_channel():
  result = normalise(IMAGE, "zscore")
  np.testing.assert_allclose(result.mean((0, 1)), 0, atol=1e-5)
  np.testing.assert_allclose(result.std((0, 1)), 1, atol=1e-5)
  assert result.dtype == np.float32


def test_masked_zscore_counts_nonzero_voxels_only():
  image = IMAGE.copy()
  image[:10] = 0
  result = normalise(image, "masked_zscore")
  assert (result[:10] == 0).all()
  np.testing.assert_allclose(result[10:].mean((0, 1)), 0, atol=1e-5)
  np.testing.assert_allclose(result[10:].std((0, 1)), 1, atol=1e-5)


def test_ranges():
  for name in ("minmax", "percentile"):
    result = normalise(IMAGE, name)
    assert (result.min((0, 1)) == 0).all() and (result.max((0, 1)) == 1).all()
  clipped = normalise(IMAGE, "percentile")
  assert 4 <= (clipped[..., 0] == 0).sum() <= 5  # 1 % of 400, and perhaps the percentile itself


def test_positive_scaling_changes_nothing_but_none():
  for name in set(NORMALISERS) - {"none"}:
    np.testing.assert_allclose(normalise(IMAGE, name), normalise(IMAGE * 8, name), atol=1e-5)
  np.testing.assert_array_equal(normalise(IMAGE, "none"), IMAGE.astype(np.float32))


@pytest.mark.parametrize("name", sorted(set(NORMALISERS) - {"none"}))
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -3e-7])
def test_a_constant_image_becomes_0(name, value):
  result = normalise(np.full((7, 3, 1), value), name)
  np.testing.assert_array_equal(result, np.zeros((7, 3, 1)))


@pytest.mark.parametrize("name", ["zscore", "masked_zscore", "minmax"])
def test_rounding_of_a_constant_is_not_amplified(name):
  image = np.full((7, 3, 1), 1000.0, np.float32)
  image[2, 1] = np.nextafter(np.float32(1000), np.float32(2000))  # 6e-8 of the value
  np.testing.assert_array_equal(normalise(image, name), np.zeros((7, 3, 1)))


def test_a_function_is_applied_per_channel_and_a_wrong_name_refused():
  np.testing.assert_allclose(normalise(IMAGE, lambda c: c / 2), IMAGE / 2, rtol=1e-6)
  with pytest.raises(InputError, match="normalise to be one of 'zscore'"):
    normalise(IMAGE, "z-score")
