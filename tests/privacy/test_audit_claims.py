"""What claims say, and the smallest leak that an audit can refute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from medjax.privacy import audit
from medjax.privacy.audit.claims import stated


@pytest.mark.parametrize(("claim", "trials"), [(0.5, 300), (1.5, 1000)])
def test_the_smallest_leak_is_refuted_in_about_half_of_all_audits(claim, trials):
  """Exact: all pairs of error counts of N(0, 1) against N(mu, 1), at the best threshold."""
  mu, significance = audit.smallest_refutable(claim, trials, 0.05), 0.05
  counts = np.arange(trials + 1)
  rates = audit.clopper_pearson(counts, trials, significance / 2)
  with np.errstate(invalid="ignore"):
    refutes = audit.gdp_from_errors(rates[:, None], rates[None]) > claim
  power = [
    stats.binom.pmf(counts, trials, stats.norm.sf(t))
    @ refutes
    @ stats.binom.pmf(counts, trials, stats.norm.cdf(t - mu))
    for t in np.linspace(-1, 4, 51)
  ]
  assert 0.35 < max(power) < 0.75


def test_more_trials_refute_smaller_leaks_and_too_few_refute_none():
  found = [audit.smallest_refutable(1.0, trials, 0.001) for trials in (10**3, 10**4, 10**6)]
  assert found == sorted(found, reverse=True)
  assert 1.0 < found[-1] < 1.01
  assert audit.smallest_refutable(8.0, 1000, 0.001) == np.inf


def test_a_leak_of_an_epsilon_is_found_by_its_gaussian():
  """The Gaussian of this epsilon at delta cannot be refuted, a larger one can."""
  mu = audit.smallest_refutable((2.0, 1e-3), 100_000, 0.001)
  assert 2.0 < audit.gdp_epsilon(mu, 1e-3) < 4.0


def randomised_response(bit, key):
  """Tells the truth with probability e^2 / (1 + e^2): 2-DP at any delta."""
  is_true = jax.random.uniform(key) < 1 / (1 + np.exp(-2.0))
  return jnp.where(is_true, bit, 1 - bit)


@pytest.mark.parametrize(
  ("claim", "verdict"),
  [
    (((2.5, 0.0), (2.2, 1e-3)), "not refuted"),
    (((2.5, 0.0), (1.5, 1e-3)), "refuted"),
    ((1.5, 1e-3), "refuted"),
    ((2.2, 1e-3), "not refuted"),
  ],
)
def test_a_claim_at_several_deltas_must_hold_at_each(claim, verdict):
  game = audit.Game("bit", jnp.zeros(()), jnp.ones(()), score=lambda x: x, threshold=0.5)
  found = audit.audit_step(randomised_response, [game], claim=claim, key=jax.random.key(0))
  assert found.verdict == verdict, found.report()


def test_a_report_says_what_it_could_have_refuted():
  game = audit.Game("bit", jnp.zeros(()), jnp.ones(()), score=lambda x: x, threshold=0.5)
  found = audit.audit_step(
    randomised_response, [game], claim=3.0, key=jax.random.key(0), trials=5000, held_out=100
  )
  smallest = audit.smallest_refutable(3.0, 5000, 1e-3)
  assert found.report().count(f"mu = {smallest:.3f}") == 2
  assert stated(((1.0, 0.1), (2.0, 0.01))) == (
    "epsilon = 1 at delta = 0.1 and epsilon = 2 at delta = 0.01"
  )
