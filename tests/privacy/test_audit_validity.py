"""Audits of sound mechanisms with exact claims: false refutations stay within the confidence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from medjax.privacy import audit
from medjax.privacy.audit import games

FEW_OR_MANY = [25, pytest.param(300, marks=pytest.mark.slow)]
CONFIDENCE = 0.8


def allowed(audits, error=1 - CONFIDENCE):
  """Refutations that a valid audit exceeds in one of ten thousand such tests."""
  return stats.binom.isf(1e-4, audits, error)


def gaussian(x, key):
  return x + jax.random.normal(key, (1,))


def randomised_response(bit, key):
  is_true = jax.random.uniform(key, bit.shape) < 1 / (1 + np.exp(-1.0))
  return jnp.where(is_true, bit, 1 - bit)


@pytest.mark.parametrize("audits", FEW_OR_MANY)
@pytest.mark.parametrize(
  ("release", "claim"), [(gaussian, 1.0), (randomised_response, (1.0, 0.0))], ids=["gdp", "dp"]
)
def test_games_refute_exact_claims_no_more_often_than_they_say(release, claim, audits, monkeypatch):
  # All audits are of one release: one program serves them, which each would else compile anew.
  monkeypatch.setattr(games, "_scored", functools.cache(games._scored))
  game = audit.Game("one more", jnp.zeros(1), jnp.ones(1), score=lambda x: x[0])
  options = {"trials": 400, "held_out": 200, "confidence": CONFIDENCE, "chunk": 200}
  found = [
    audit.audit_step(release, [game], claim=claim, key=jax.random.key(seed), **options).verdict
    for seed in range(audits)
  ]
  assert found.count("refuted") <= allowed(audits)


def guesses(draw, canaries, claim):
  """Coins and scores of canaries that are told by Gaussians, or by randomised response."""
  included = draw.random(canaries) < 0.5
  if isinstance(claim, float):
    return included, included * claim + draw.standard_normal(canaries)
  is_true = draw.random(canaries) < 1 / (1 + np.exp(-claim[0]))
  return included, np.where(is_true, included, ~included) + 1e-6 * draw.random(canaries)


@pytest.mark.parametrize("audits", FEW_OR_MANY)
@pytest.mark.parametrize("claim", [1.0, (1.0, 0.0)], ids=["gdp", "dp"])
@pytest.mark.parametrize(("canaries", "num_in", "num_out"), [(60, 30, 30), (100, 10, 10)])
def test_one_run_refutes_exact_claims_no_more_often_than_it_says(
  canaries, num_in, num_out, claim, audits
):
  draw, options = np.random.default_rng(0), {"num_in": num_in, "num_out": num_out}
  found = []
  for _ in range(audits):
    included, scores = guesses(draw, canaries, claim)
    result = audit.one_run(scores, included, claim=claim, confidence=CONFIDENCE, **options)
    found.append(result.verdict)
  assert found.count("refuted") <= allowed(audits)


@pytest.mark.slow
@pytest.mark.parametrize(("canaries", "delta"), [(100, 0.01), (1000, 0.001)])
def test_a_release_that_shows_all_or_nothing_is_refuted_no_more_often_than_it_says(canaries, delta):
  """(0, delta)-DP: with probability delta every coin is shown."""
  draw, refuted = np.random.default_rng(0), 0
  for _ in range(500):
    included = draw.random(canaries) < 0.5
    scores = 1.0 * included if draw.random() < delta else draw.random(canaries)
    options = {"num_in": canaries // 2, "num_out": canaries // 2, "confidence": 0.95}
    found = audit.one_run(scores, included, claim=(0.0, delta), **options)
    refuted += found.verdict == "refuted"
  assert refuted <= allowed(500, 0.05)
