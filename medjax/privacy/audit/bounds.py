"""From counted errors to lower bounds on privacy loss, on the host in float64.

A mechanism is mu-GDP if no test between two neighbouring data sets has error rates a (false alarms)
and b (misses) below those of a test between N(0, 1) and N(mu, 1):

  z(1 - a) - z(b) <= mu,         z the normal quantile       (Dong, Roth, Su 2022, Definition 4)
  delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu)            (ibid., Corollary 1)

and it is (eps, delta)-DP only if b >= 1 - delta - e^eps a, also with a and b exchanged. Upper
bounds on both rates hence bound mu and eps from below. We take those of Clopper and Pearson (1934):
exact for independent trials, whatever the mechanism.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def clopper_pearson(errors: Any, trials: int, significance: float) -> Any:
  """Upper bound on an error rate that is too low in at most `significance` of all experiments.

  >>> round(float(clopper_pearson(0, 1000, 0.05)), 6)  # solves (1 - rate)^1000 = .05
  0.002991
  """
  from scipy import special  # a fifth of a second, for audits alone

  errors = np.asarray(errors, np.float64)
  inside = np.minimum(errors, np.nextafter(trials, 0))
  bound = special.betainccinv(inside + 1, trials - inside, significance)
  return np.where(errors >= trials, 1.0, bound)


def gdp_from_errors(false_alarms: Any, misses: Any) -> Any:
  """mu of the Gaussian mechanism with these error rates; negative for a test worse than chance.

  >>> round(float(gdp_from_errors(0.158655, 0.158655)), 4)
  2.0
  """
  from scipy import special  # a fifth of a second, for audits alone

  return -special.ndtri(false_alarms) - special.ndtri(misses)


def epsilon_from_errors(false_alarms: Any, misses: Any, delta: float) -> Any:
  """Largest eps that (eps, delta)-DP must reach for these error rates; at least 0.

  >>> round(float(epsilon_from_errors(0.1, 0.5, 0.0)), 4)  # log(.5 / .1)
  1.6094
  """
  a, b = np.asarray(false_alarms, np.float64), np.asarray(misses, np.float64)
  ratio = np.maximum((1 - delta - b) / a, (1 - delta - a) / b)
  return np.log(np.maximum(ratio, 1.0))


def gdp_delta(mu: float | int, epsilon: float | int) -> float:
  """delta(epsilon) of a mu-GDP mechanism.

  >>> round(gdp_delta(1.0, 0.0), 6)  # 2 Phi(1/2) - 1
  0.382925
  """
  from scipy import special  # a fifth of a second, for audits alone

  if mu <= 0:
    return 0.0
  near, far = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
  high = float(special.log_ndtr(near))
  return math.exp(high) * -math.expm1(min(epsilon + float(special.log_ndtr(far)) - high, 0.0))


def gdp_epsilon(mu: float | int, delta: float) -> float:
  """epsilon(delta) of a mu-GDP mechanism; 0 where even epsilon 0 needs no more than delta."""
  return largest(lambda epsilon: gdp_delta(mu, epsilon) > delta)


def largest(is_exceeded: Callable[[float], bool]) -> float:
  """Largest x >= 0 at which a monotone `is_exceeded` still holds; 0 if at none.

  Rounded down by 1e-9, so that a lower bound stays one. Stops looking at 1e6.
  """
  from scipy import optimize  # for audits alone

  if not is_exceeded(0.0):
    return 0.0
  high = 1.0
  while is_exceeded(high):
    high *= 2
    if high > 1e6:
      return high / 2
  found = optimize.bisect(lambda x: 0.5 - is_exceeded(x), 0.0, high, xtol=1e-9)
  return max(float(np.asarray(found)) - 1e-9, 0.0)
