"""Accounting against closed forms and the published settings."""

import logging
import math

import pytest
from scipy import optimize, stats

from medjax.check import InputError
from medjax.privacy import accounting

# CIFAR-10 of the paper: L 64, N 50,000, 39,050 steps, delta 1e-6; spec of the filter, section 2d.
CIFAR = dict(num_units=50_000, sample_size=64, num_steps=39_050, delta=1e-6)


def gaussian_delta(epsilon, mu):
  """delta of a Gaussian mechanism of sensitivity mu standard deviations (Balle & Wang 2018)."""
  return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(
    -mu / 2 - epsilon / mu
  )


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (2.0, 9)])
def test_without_sampling_it_is_the_gaussian_mechanism(sigma, steps):
  mu = math.sqrt(steps) / sigma
  want = optimize.brentq(lambda e: gaussian_delta(e, mu) - 1e-5, 0.01, 50)
  setting = dict(num_units=10, sample_size=10, num_steps=steps, delta=1e-5)
  assert accounting.epsilon(sigma, **setting) == pytest.approx(want, rel=2e-3)
  assert accounting.epsilon(sigma, **setting) >= want - 1e-6  # an upper bound
  assert accounting.epsilon(sigma, accountant="rdp", **setting) > want


def test_the_papers_setting():
  # dp-accounting 0.6.0 in the spec: RDP 6.97 and PLD 6.12 at .593, PLD 6.97 at .573.
  assert accounting.epsilon(0.593, accountant="rdp", **CIFAR) == pytest.approx(6.97, abs=0.005)
  assert accounting.epsilon(0.593, **CIFAR) == pytest.approx(6.12, abs=0.02)
  assert accounting.epsilon(0.573, **CIFAR) == pytest.approx(6.97, abs=0.02)


@pytest.mark.parametrize(
  ("multipliers", "want"),
  [((0.593, 3.08), 7.46), ((0.593, 0.78), 17.4), ((0.593, 3.08 / 8), 92.9)],
)
def test_releases_of_one_sample_share_its_amplification(multipliers, want):
  # Spec, section 2d: shared subsample at 2 lambda (two rows) and at 2 lambda sqrt(64).
  sigma = accounting.effective_multiplier(multipliers)
  assert accounting.epsilon(sigma, accountant="rdp", **CIFAR) == pytest.approx(want, rel=4e-3)


def test_effective_multipliers():
  assert accounting.effective_multiplier([2.0]) == 2.0
  assert accounting.effective_multiplier([2.0] * 4) == pytest.approx(1.0)
  assert accounting.effective_multiplier([3.0, 4.0]) == pytest.approx(12 / 5)
  assert accounting.effective_multiplier([1.0, 0.0]) == 0


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
  ("target", "changes"),
  [
    (0.5, {}),
    (4.0, {}),
    (0.03, {"num_steps": 20_000}),  # where rounding losses up costs much
    (1.0, {"sample_size": 4708, "num_steps": 3}),
  ],
)
def test_calibration_never_exceeds_its_target(target, changes, accountant):
  setting = dict(num_units=4708, sample_size=64, num_steps=200, delta=1e-5) | changes
  sigma = accounting.calibrated(target, accountant=accountant, **setting)
  found = accounting.epsilon(sigma, accountant=accountant, **setting)
  assert 0.999 * target <= found <= target


@pytest.mark.parametrize("start", [0.01, 0.9, 1.0, 1.1, 300.0])
def test_the_search_ends_below_its_target_wherever_it_starts(start):
  cost = accounting._least(lambda sigma: sigma**-2, 1.0, start) ** -2
  assert 0.999 <= cost <= 1.0
  assert accounting._least(lambda sigma: 2.0, 1.0, start) == 1e4


def test_targets_that_make_no_sense():
  setting = dict(num_units=40, sample_size=8, num_steps=3, delta=1e-3)
  for target in (0.0, math.inf, math.nan):
    with pytest.raises(InputError, match="target_epsilon > 0, finite"):
      accounting.calibrated(target, **setting)
  with pytest.raises(InputError, match="that noise can meet"):
    accounting.calibrated(1e-3, accountant="rdp", **CIFAR)  # its orders end at 512


def test_replacing_one_counts_twice_the_norm():
  # A sample of everyone: one Gaussian of sensitivity 2 C.
  setting = dict(num_units=50, sample_size=50, num_steps=1, delta=1e-5)
  fixed = accounting.epsilon(4.0, sampling="fixed", accountant="rdp", **setting)
  added = accounting.epsilon(2.0, accountant="rdp", **setting)
  assert fixed == pytest.approx(added, rel=1e-6)
  with pytest.raises(InputError, match="accountant='rdp'"):
    accounting.epsilon(4.0, sampling="fixed", **setting)


def test_limits():
  assert accounting.epsilon(0.0, **CIFAR) == math.inf
  assert accounting.epsilon(1.0, **{**CIFAR, "num_steps": 0}) == 0
  # Hardly any noise: RDP in place of tables that would not fit.
  setting = dict(num_units=10, sample_size=1, num_steps=1, delta=1e-5)
  assert accounting.epsilon(0.01, **setting) == accounting.epsilon(
    0.01, accountant="rdp", **setting
  )


def test_orders_that_rdp_leaves_out_are_not_listed(caplog):
  # At a rate of one half the series of several fractional orders does not converge.
  setting = dict(num_units=1000, sample_size=500, num_steps=11, delta=1e-5, accountant="rdp")
  found = accounting.epsilon(20.0, **setting)
  assert not caplog.records
  assert found >= accounting.epsilon(20.0, **{**setting, "accountant": "pld"})
  logging.getLogger("absl").warning("something failed to converge")  # others' words pass again
  assert len(caplog.records) == 1
