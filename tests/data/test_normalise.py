"""Normalised channels have the promised range and moments; constants become 0; JSON and back."""

import json

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.normalise import (
  NORMALISERS,
  ForegroundPercentiles,
  filled_zscore,
  foreground_statistics,
  from_spec,
  nonzero_mask,
  normalise,
  to_spec,
)
from medjax.data.sets.combine import subset
from medjax.data.sets.nnunet import NnUNetFolder
from medjax.data.simulated.procedural import ProceduralAnatomy
from tests.data.folders import nnunet

IMAGE = np.random.default_rng(0).normal(100.0, 20.0, (20, 20, 2)) * [1.0, 1000.0]
RELATIVE = sorted(set(NORMALISERS) - {"none", "eight_bit"})  # those that look at one image only


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
  for name in RELATIVE:
    np.testing.assert_allclose(normalise(IMAGE, name), normalise(IMAGE * 8, name), atol=1e-5)
  np.testing.assert_array_equal(normalise(IMAGE, "none"), IMAGE.astype(np.float32))


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -3e-7])
def test_a_constant_image_becomes_0(name, value):
  result = normalise(np.full((7, 3, 1), value), name)
  np.testing.assert_array_equal(result, np.zeros((7, 3, 1)))


@pytest.mark.parametrize("name", ["zscore", "masked_zscore", "filled_zscore", "minmax"])
def test_rounding_of_a_constant_is_not_amplified(name):
  image = np.full((7, 3, 1), 1000.0, np.float32)
  image[2, 1] = np.nextafter(np.float32(1000), np.float32(2000))  # 6e-8 of the value
  np.testing.assert_array_equal(normalise(image, name), np.zeros((7, 3, 1)))


def test_a_function_is_applied_per_channel_and_a_wrong_name_refused():
  np.testing.assert_allclose(normalise(IMAGE, lambda c: c / 2), IMAGE / 2, rtol=1e-6)
  with pytest.raises(InputError, match="normalise to be one of 'zscore'"):
    normalise(IMAGE, "z-score")


def test_filled_zscore_counts_holes_and_shares_one_mask_between_channels():
  random = np.random.default_rng(1)
  image = np.zeros((12, 12, 2))
  image[3:9, 3:9] = random.normal(50.0, 5.0, (6, 6, 2))
  image[5, 5] = 0  # a hole inside
  image[3, 3, 1] = 0  # missing in one channel only
  mask = np.zeros((12, 12), bool)
  mask[3:9, 3:9] = True
  np.testing.assert_array_equal(nonzero_mask(image), mask)
  result = normalise(image, "filled_zscore")
  expected = (image - image[mask].mean(0)) / image[mask].std(0)
  np.testing.assert_allclose(result[mask], expected[mask], rtol=1e-5)
  assert (result[~mask] == 0).all()
  alone = filled_zscore(image[..., 0].astype(np.float32))
  np.testing.assert_array_equal(alone, result[..., 0])


def test_eight_bit_is_a_fixed_scale():
  image = np.array([[[0.0, 51.0, 255.0]]])
  np.testing.assert_allclose(normalise(image, "eight_bit"), [[[0, 0.2, 1]]], rtol=1e-6)
  for wrong in (image * 2, image - 1):
    with pytest.raises(InputError, match="values in 0..255"):
      normalise(wrong, "eight_bit")


def test_channels_may_differ():
  result = normalise(IMAGE, ["zscore", lambda c: c / 2])
  np.testing.assert_array_equal(result[..., 0], normalise(IMAGE, "zscore")[..., 0])
  np.testing.assert_allclose(result[..., 1], IMAGE[..., 1] / 2, rtol=1e-6)
  with pytest.raises(InputError, match="one normaliser or 2, one a channel, got 3"):
    normalise(IMAGE, ["zscore"] * 3)


def test_ct_clips_shifts_and_scales():
  ct = ForegroundPercentiles(-100, 300, 50, 25)
  np.testing.assert_allclose(
    ct(np.array([-1000.0, -100.0, 50.0, 75.0, 2000.0])), [-6, -6, 0, 1, 10], rtol=1e-6
  )
  for wrong in ((1, 0, 0, 1), (0, 1, 0, 0), (0, float("nan"), 0, 1)):
    with pytest.raises(InputError, match="low <= high, mean and std > 0"):
      ForegroundPercentiles(*wrong)


def test_foreground_statistics_are_those_of_the_training_foreground():
  source = ProceduralAnatomy(4, (40, 40), 4, 0, with_image=True)
  drawn = foreground_statistics(source, [2, 0])
  cases = [source[i] for i in (0, 2)]
  inside = [example.image[..., 0][example.label > 0].astype(float) for example in cases]
  mean = np.mean([values.mean() for values in inside])  # cases weigh equally
  second = np.mean([(values**2).mean() for values in inside])
  deviation = np.sqrt(second - mean**2)
  assert abs(drawn.mean - mean) < 5 * deviation / 1000  # one million draws
  assert abs(drawn.std - deviation) < 5 * deviation / 1000
  everything = np.sort(np.concatenate(inside))
  below, above = np.searchsorted(everything, [drawn.low, drawn.high]) / len(everything)
  assert abs(below - 0.005) < 2e-3 and abs(above - 0.995) < 2e-3
  again = foreground_statistics(source, (0, 2))
  np.testing.assert_allclose(
    [again.low, again.high, again.mean, again.std],
    [drawn.low, drawn.high, drawn.mean, drawn.std],
    rtol=1e-12,  # the order of a sum
  )


def test_foreground_statistics_read_training_cases_only_and_refuse_what_has_no_foreground(tmp_path):
  class Guarded(ProceduralAnatomy):
    def __getitem__(self, index):
      assert index in (1, 3)
      return super().__getitem__(index)

  foreground_statistics(Guarded(5, (16, 16), 3, 0, with_image=True), [1, 3], num_voxels=100)
  with pytest.raises(InputError, match="channel to be one of"):
    foreground_statistics(ProceduralAnatomy(2, (16, 16), 3, 0), [0])
  with pytest.raises(InputError, match="expected training cases, got none"):
    foreground_statistics(ProceduralAnatomy(2, (16, 16), 3, 0, with_image=True), [])
  nnunet(tmp_path / "set")
  unlabelled = NnUNetFolder(tmp_path / "set", normalise="none")
  empty = subset(unlabelled, [0])
  empty.source = [unlabelled[0].replace(label=np.zeros((6, 5, 4), np.int32))]
  with pytest.raises(InputError, match="foreground in a training case, got none"):
    foreground_statistics(empty, [0])


@pytest.mark.parametrize("name", sorted(NORMALISERS))
def test_names_survive_json(name):
  assert from_spec(json.loads(json.dumps(to_spec(NORMALISERS[name])))) is NORMALISERS[name]
  assert to_spec(name) == {"name": name}


def test_ct_survives_json_and_nonsense_is_refused():
  ct = ForegroundPercentiles(-99.5, 301.25, 1 / 3, 25.0)
  assert from_spec(json.loads(json.dumps(to_spec(ct)))) == ct
  with pytest.raises(InputError, match="normalise to be one of .*'zscore'"):
    from_spec({"name": "z-score"})
  with pytest.raises(InputError, match="numbers low, high, mean, std beside the name 'ct'"):
    from_spec({"name": "ct", "low": 0})
  with pytest.raises(InputError, match=r"numbers \(none\) beside the name 'zscore'"):
    from_spec({"name": "zscore", "low": 0})
  with pytest.raises(InputError, match="own functions cannot be saved"):
    to_spec(lambda channel: channel)
