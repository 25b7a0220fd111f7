"""Claims that an audit can refute, and what it could have refuted.

A claim is mu of mu-GDP, one pair (epsilon, delta), or several pairs, of which each must hold.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from medjax.privacy.audit.bounds import (
  clopper_pearson,
  epsilon_from_errors,
  gdp_from_errors,
)

EpsilonDelta: TypeAlias = tuple[float | int, float]
Claim: TypeAlias = float | int | EpsilonDelta | tuple[EpsilonDelta, ...]

ABSENCE = (
  "An audit bounds privacy loss from below: it can refute a claim and never proves one. A claim "
  "that is not refuted has survived these canaries and this score, no more: a pass is absence of "
  "evidence."
)


def pairs(claim: Claim) -> tuple[EpsilonDelta, ...]:
  """The claimed (epsilon, delta); () of a claim of mu."""
  if not isinstance(claim, tuple):
    return ()
  several = tuple(pair for pair in claim if isinstance(pair, tuple))
  if several:
    return several
  epsilon, delta = claim
  assert not isinstance(epsilon, tuple) and not isinstance(delta, tuple)
  return ((epsilon, delta),)


def refutes(claim: Claim, mu_lower: float, epsilon_any: Callable[[float], float]) -> bool:
  """Whether lower bounds exceed the claim."""
  if isinstance(claim, tuple):
    return any(epsilon_any(delta) > epsilon for epsilon, delta in pairs(claim))
  return mu_lower > claim


def excess(claim: Claim, alarm_rate: np.ndarray, miss_rate: np.ndarray) -> np.ndarray:
  """By how much bounds from these error rates exceed the claim, in mu or in epsilon."""
  if not isinstance(claim, tuple):
    return gdp_from_errors(alarm_rate, miss_rate) - claim
  each = [epsilon_from_errors(alarm_rate, miss_rate, d) - epsilon for epsilon, d in pairs(claim)]
  return np.max(each, axis=0)


def stated(claim: Claim) -> str:
  if not isinstance(claim, tuple):
    return f"mu = {claim:.4g}"
  return " and ".join(f"epsilon = {e:.4g} at delta = {d:.3g}" for e, d in pairs(claim))


def smallest_refutable(claim: Claim, trials: int, significance: float) -> float:
  """mu of the least leaky Gaussian release that a game of so many trials would refute.

  >>> round(smallest_refutable(1.0, 20_000, 0.001), 2)
  1.06

  The errors of the best threshold are taken at their expectation, so that a release of this mu is
  refuted in about half of all audits; inf if no number of errors, not even none, would refute.
  """

  from scipy import optimize, special  # for audits alone

  def largest_excess(mu: float) -> float:
    threshold = np.linspace(-4.0, mu + 6.0, 500)
    # N(0, 1) without the canary, N(mu, 1) with it; alarms above the threshold, misses below.
    alarms = np.ceil(trials * special.ndtr(-threshold))
    misses = np.ceil(trials * special.ndtr(threshold - mu))
    rates = (clopper_pearson(errors, trials, significance / 2) for errors in (alarms, misses))
    return float(np.max(excess(claim, *rates)))

  most = 30.0
  if largest_excess(most) <= 0:
    return np.inf
  if largest_excess(0.0) > 0:
    return 0.0
  # The excess moves by whole errors; what is found is right to the step of one.
  found = optimize.brentq(lambda mu: largest_excess(mu) or -1e-12, 0.0, most, xtol=1e-4)
  return float(np.asarray(found))
