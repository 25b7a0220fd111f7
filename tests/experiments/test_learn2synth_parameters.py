"""Learn2Synth's hidden fields and ranges, and its volumes: the parts that need no training."""

import numpy as np
import pytest

from experiments.learn2synth import field_recovery, volumes
from medjax import check
from medjax.synth import freesurfer
from medjax.types import Example


@pytest.mark.parametrize("place", [0, 3])
def test_natural_parameters_and_theta_are_one_another_s_inverse(place):
  one = field_recovery.hidden(field_recovery.Config())[place]
  for theta in (one.truth, one.start):
    told = one.described(theta)
    again = one.described(one.of(told))
    assert told.keys() == again.keys()
    np.testing.assert_allclose(list(told.values()), list(again.values()), atol=1e-5)


def test_a_preset_passes_by_its_worst_parameter_and_losses_are_beside_the_hidden_one():
  truth = {"exponent_2": 1.0, "exponent_4": 0.0, "exponent_8": 0.0, "sigma": 0.05}
  seeds = [truth | {"exponent_2": 0.8}, truth | {"exponent_2": 1.06, "sigma": 9.0}]
  found = field_recovery.outcome("one", truth, seeds, {}, {"hidden": 0.3, "learnt": 0.35})
  assert found["largest_miss"] == pytest.approx(0.07) and found["passes"]
  assert found["loss_above_hidden"] == {"hidden": 0.0, "learnt": pytest.approx(0.05)}
  ends = {"sigma_low": 0.025, "sigma_high": 0.2}
  wide = [ends | {"sigma_high": 0.215}]
  assert not field_recovery.outcome(field_recovery.RANGE, ends, wide, {}, {"hidden": 0})["passes"]


def test_networks_are_trained_at_the_order_reversed_where_that_is_another_one():
  config = field_recovery.Config()
  first, same, _, ranged = field_recovery.hidden(config)
  fixed = {one.name: field_recovery._fixed(config, one, {}) for one in (first, same, ranged)}
  assert fixed[first.name]["reversed"]["exponent_8"] == pytest.approx(1.0)
  assert fixed[first.name]["reversed"]["sigma"] == pytest.approx(0.05)
  assert "reversed" not in fixed[same.name] and fixed[ranged.name].keys() == {
    "hidden", "learnt", "one level",
  }  # fmt: skip


def test_a_head_is_stripped_and_a_scan_is_cut_from_back_to_front():
  values = np.array([0, 2, 3, 511])
  label = np.array([[[0, 1], [2, 3]]])
  case = Example("a", "a", 0, None, label, (1.0,) * 3)
  assert volumes._stripped(case, values).label.tolist() == [[[0, 2], [3, 0]]]
  grid = np.arange(4 * 6 * 2).reshape(4, 6, 2)
  scan = Example("s", "s", 0, grid[..., None].astype(np.float32), grid % 4, (1.0,) * 3)
  names = freesurfer.by_tissue(is_csf_target=False)
  back, front = volumes._halves(scan, names.target[values])
  together = np.concatenate([back.image, front.image], axis=1)
  np.testing.assert_array_equal(together, scan.image)
  assert back.label.shape == (4, 3, 2)
  # White matter 3, cortex 2, and what is outside of the brain 0: the order of `by_tissue`.
  np.testing.assert_array_equal(front.label, np.array([0, 3, 2, 0])[(grid % 4)[:, 3:]])


def test_volumes_want_maps_and_sides_that_halve():
  with pytest.raises(check.InputError, match="--maps MAPS"):
    volumes.load(volumes.Config(), None)
  with pytest.raises(check.InputError, match="multiples of 4"):
    volumes.Config(shape=(64, 62, 64))
