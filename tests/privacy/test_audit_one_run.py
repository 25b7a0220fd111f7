"""Audits in one run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from medjax import grads
from medjax.check import InputError
from medjax.privacy import audit
from medjax.privacy.audit import single_run
from medjax.privacy.audit.bounds import largest

# canaries, guesses, correct, significance, delta -> epsilon, epsilon of the f-DP bound.
# Recipe (jax-privacy 2.0.0): auditing._epsilon_one_run(0, canaries, ...) and _epsilon_one_run_fdp,
# which CanaryScoreAuditor calls with the counts at its threshold; its own tolerance is 1e-6.
ORACLE = [
  ((1000, 100, 95, 0.001, 1e-5), 1.438881778394435, 2.125558967382113),
  ((1000, 1000, 800, 0.001, 1e-5), 1.1363072205200635, 1.468613602666534),
  ((500, 50, 50, 0.05, 1e-6), 2.7833087629132476, 4.9581843463426765),
  ((2000, 300, 210, 0.001, 1e-3), 0.0, 0.3332023914501671),
  ((100, 40, 38, 0.001, 1e-2), 0.0, 0.7346934695380186),
  ((200, 100, 60, 0.001, 1e-5), 0.0, 0.0),
]


def guessed(canaries, guesses, correct, **options):
  """one_run with just these counts, half of the coins heads."""
  included = np.arange(canaries) < canaries / 2
  scores = np.zeros(canaries)
  scores[:correct] = 2.0  # included, and guessed so
  scores[canaries - (guesses - correct) :] = 1.0  # left out, but guessed as included
  return audit.one_run(scores, included, num_in=guesses, **options)


@pytest.mark.parametrize(("case", "dp", "gdp"), ORACLE)
def test_agrees_with_jax_privacy(case, dp, gdp):
  canaries, guesses, correct, significance, delta = case
  epsilon = largest(
    lambda eps: single_run.chance_dp(canaries, guesses, correct, eps, delta) < significance
  )
  mu = largest(lambda mu: single_run.refutes_gdp(canaries, guesses, correct, mu, significance))
  assert epsilon == pytest.approx(dp, abs=2e-6)
  assert audit.gdp_epsilon(mu, delta) == pytest.approx(gdp, abs=2e-6)


@pytest.mark.parametrize("canaries", [20, 200])
@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0, 4.0])
def test_independent_gaussian_canaries_stay_within_the_bound(canaries, mu):
  """Each guess is then right with probability Phi(mu / 2), on its own."""
  for correct in range(canaries // 2, canaries + 1, canaries // 10):
    chance = float(stats.binom.sf(correct - 1, canaries, stats.norm.cdf(mu / 2)))
    assert not single_run.refutes_gdp(canaries, canaries, correct, mu, 0.999999 * chance)


def test_pure_dp_bound_is_the_binomial_tail():
  is_right = 1 / (1 + np.exp(-1.5))
  expected = stats.binom.sf(39, 50, is_right)
  assert single_run.chance_dp(1000, 50, 40, 1.5, 0.0) == pytest.approx(expected, rel=1e-9)
  assert single_run.chance_dp(1000, 50, 0, 1.5, 0.0) == 1.0


def test_counts_guesses_of_both_sides():
  included = np.array([True, False, True, False, True, False])
  scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
  found = audit.one_run(scores, included, claim=1.0, num_in=2, num_out=2)
  # in: positions 0 (right) and 1 (wrong); out: 5 (right) and 4 (wrong)
  assert (found.trials, found.guesses, found.errors) == (6, 4, 2)


def test_scores_that_are_no_number_look_included():
  scores = np.array([0.0, np.nan, 1.0, 2.0])
  found = audit.one_run(scores, np.array([0, 1, 0, 0], bool), claim=1.0, num_in=1)
  assert found.errors == 0


def test_fewer_errors_say_more():
  found = [guessed(400, 100, correct, claim=1.0).mu_lower for correct in (60, 80, 90, 100)]
  assert found == sorted(found)
  assert found[0] < found[1] < found[3]


def test_claims_of_both_kinds():
  few = guessed(1000, 100, 95, claim=0.5)
  assert few.mu_lower == pytest.approx(0.52963, abs=1e-5)
  assert few.verdict == "refuted"
  assert few._replace(claim=0.6).verdict == "not refuted"
  assert few._replace(claim=(1.4, 1e-5)).verdict == "refuted"  # 1.4389 in the table above
  assert few._replace(claim=(1.5, 1e-5)).verdict == "not refuted"
  assert "95 of 100" in few.report()
  assert "absence of evidence" in few.report()


@pytest.mark.parametrize(("multiplier", "verdict"), [(1.0, "not refuted"), (0.1, "refuted")])
def test_one_release_with_a_thousand_canaries(multiplier, verdict):
  """Canary i has gradient e_i; its score is entry i of the noisy sum. The claim is mu = 1."""
  size = 1000
  coins, noise = jax.random.split(jax.random.key(0))
  included = jax.random.bernoulli(coins, shape=(size,))

  def loss(params, example, key):
    return params @ example

  @jax.jit
  def released(weights, key):
    clipped = grads.clipped_sum(loss, 1.0, method="vmap")
    total = clipped(jnp.zeros(size), jnp.eye(size), key, weights=weights).grads
    return total + multiplier * jax.random.normal(key, (size,))

  release = released(1.0 * included, noise)
  found = audit.one_run(
    np.asarray(release), np.asarray(included), claim=1.0, num_in=500, num_out=500
  )
  assert found.verdict == verdict
  assert found.mu_lower > 0.1


def test_refuses_what_cannot_be_counted():
  coins = np.array([True, False])
  with pytest.raises(InputError, match="one shape"):
    audit.one_run(np.zeros(3), coins, claim=1.0, num_in=1)
  with pytest.raises(InputError, match="guess no canary twice"):
    audit.one_run(np.zeros(2), coins, claim=1.0, num_in=2, num_out=1)
  with pytest.raises(InputError, match="confidence"):
    audit.one_run(np.zeros(2), coins, claim=1.0, num_in=1, confidence=1.0)
