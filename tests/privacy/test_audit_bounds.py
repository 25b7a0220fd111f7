"""Bounds of error rates and what follows from them."""

import math

import numpy as np
import pytest
from scipy import stats

from medjax.privacy import audit
from medjax.privacy.audit import bounds


@pytest.mark.parametrize(("errors", "trials"), [(0, 10), (3, 10), (40, 1000)])
def test_rate_bound_leaves_the_significance(errors, trials):
  rate = float(audit.clopper_pearson(errors, trials, 0.001))
  assert stats.binom.cdf(errors, trials, rate) == pytest.approx(0.001, rel=1e-9)


def test_rate_bound_of_failures_only_is_one():
  assert audit.clopper_pearson(10, 10, 0.001) == 1.0


@pytest.mark.parametrize("mu", [0.5, 1.7, 3.0])
@pytest.mark.parametrize("threshold", [-0.5, 0.8, 2.5])
def test_mu_bound_is_too_high_no_more_often_than_said(mu, threshold):
  """Exact: all pairs of error counts of the Gaussian mechanism, weighted by their probability."""
  trials, significance = 60, 0.1
  counts = np.arange(trials + 1)
  rates = audit.clopper_pearson(counts, trials, significance / 2)
  with np.errstate(invalid="ignore"):
    found = audit.gdp_from_errors(rates[:, None], rates[None])
  alarms = stats.binom.pmf(counts, trials, stats.norm.sf(threshold))
  misses = stats.binom.pmf(counts, trials, stats.norm.cdf(threshold - mu))
  assert (alarms[:, None] * misses[None])[found > mu].sum() <= significance


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.118, 7.8])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 5.0])
def test_delta_is_the_largest_gap_of_the_two_normals(mu, epsilon):
  """max_t P[N(mu, 1) > t] - e^eps P[N(0, 1) > t], at t = mu / 2 + eps / mu."""
  at = mu / 2 + epsilon / mu
  gap = stats.norm.sf(at - mu) - math.exp(epsilon) * stats.norm.sf(at)
  assert bounds.gdp_delta(mu, epsilon) == pytest.approx(gap, rel=1e-9)


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.118, 7.8])
def test_epsilon_inverts_delta(mu):
  assert bounds.gdp_delta(mu, audit.gdp_epsilon(mu, 1e-6)) == pytest.approx(1e-6, rel=1e-6)


def test_no_budget_no_epsilon():
  assert audit.gdp_epsilon(0.0, 1e-6) == 0.0
  assert audit.gdp_delta(0.0, 0.0) == 0.0


def test_published_claim_in_epsilon():
  """mu = sqrt(.593^-2 + .780^-2) is epsilon 11.8 at 1e-6."""
  assert audit.gdp_epsilon((0.593**-2 + 0.780**-2) ** 0.5, 1e-6) == pytest.approx(11.8, abs=0.05)


def test_epsilon_of_randomised_response():
  """A coin told truly with probability e^2 / (1 + e^2) is 2-DP, and its rates show it."""
  wrong = 1 / (1 + math.exp(2.0))
  assert audit.epsilon_from_errors(wrong, wrong, 0.0) == pytest.approx(2.0)
  assert audit.epsilon_from_errors(wrong, wrong, 0.1) < 2.0


def test_epsilon_does_not_depend_on_which_world_is_which():
  assert audit.epsilon_from_errors(0.01, 0.4, 0.05) == audit.epsilon_from_errors(0.4, 0.01, 0.05)


def test_agrees_with_jax_privacy():
  """Recipe (jax-privacy 2.0.0, 445 false alarms and 436 misses in 2000 trials each):

  CanaryScoreAuditor(inside, without).epsilon_clopper_pearson(
    .001, 1e-3, one_sided=False, threshold_strategy=Explicit(.75))
  """
  rates = [audit.clopper_pearson(errors, 2000, 0.0005) for errors in (445, 436)]
  assert audit.epsilon_from_errors(*rates, 1e-3) == pytest.approx(1.0927449556180837, rel=1e-9)
