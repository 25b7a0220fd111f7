"""IFU: going back to a round before a client had moved the model far, and covering the rest.

Fraboni et al., "SIFU: Sequential informed federated unlearning" (AISTATS 2024). Psi(t) is the sum
of the norms of what the client sent before round t. Training restarts from theta^t + N(0, sigma^2
I) with the last t where Psi(t) <= Psi, and goes on without the client.

Two networks that lie Psi apart are hidden from each other by noise sigma as by a Gaussian mechanism
of sensitivity Psi, that is at mu = Psi / sigma. Its epsilon is the exact one (Balle & Wang, ICML
2018, theorem 8),

  delta(epsilon) = Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu).

The paper takes the classical bound mu <= epsilon / sqrt(2 ln(1.25 / delta)) at epsilon from .1 to
10, but it is proven up to 1 only and promises too much above: at mu = 100 and delta = .025 it gives
280 where 5,195 is true. Psi itself bounds what the client changed only if training without it would
have gone the same way otherwise, so none of this is a guarantee of privacy: for one, train with
`privacy.DPPlan`.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from medjax import check
from medjax.types import Key, Params


def restart_round(drift: np.ndarray, limit: float | int) -> int:
  """IFU's t*: the last round before which a client had moved by no more than `limit` in all.

  >>> import numpy as np
  >>> restart_round(np.array([0.0, 2.0, 3.0, 3.5]), 3.2)
  2

  Args:
    drift: [rounds + 1] from `unlearning.recollect`, ascending from 0.
    limit: Psi >= 0.
  """
  check.non_negative("limit", limit)
  return int(np.flatnonzero(drift <= limit)[-1])


def noise_of(limit: float | int, epsilon: float | int, delta: float | int) -> float:
  """Least sigma with which a drift of up to Psi = `limit` costs no more than (epsilon, delta).

  >>> round(noise_of(2.0, 1.0, 0.025), 3), round(noise_of(2.0, 10.0, 0.025), 3)
  (3.146, 0.65)

  Args:
    limit: Psi, above 0.
    epsilon: above 0; any, since the formula is exact.
    delta: in (0, 1).
  """
  from medjax.privacy.audit import bounds  # its SciPy takes a fifth of a second

  for name, value in {"limit": limit, "epsilon": epsilon}.items():
    check.positive(name, value)
  _check_delta(delta)
  return _least(lambda sigma: bounds.gdp_delta(limit / sigma, epsilon) <= delta)


def epsilon_of(limit: float | int, sigma: float | int, delta: float | int) -> float:
  """Least epsilon that noise `sigma` buys for a drift of up to Psi = `limit`.

  >>> round(epsilon_of(100.0, 1.0, 0.025))
  5195

  Args:
    limit: Psi >= 0; 0 costs nothing.
    sigma: standard deviation of the noise on each parameter, above 0.
    delta: in (0, 1).
  """
  from medjax.privacy.audit import bounds

  check.non_negative("limit", limit)
  check.positive("sigma", sigma)
  _check_delta(delta)
  mu = limit / sigma
  if bounds.gdp_delta(mu, 0.0) <= delta:
    return 0.0
  return _least(lambda epsilon: bounds.gdp_delta(mu, epsilon) <= delta)


def perturbed(params: Params, sigma: float | int, key: Key) -> Params:
  """theta + N(0, sigma^2 I)."""
  check.non_negative("sigma", sigma)
  row, unravel = ravel_pytree(params)
  return unravel(row + sigma * jax.random.normal(key, row.shape, row.dtype))


def _least(suffices: Callable[[float], bool]) -> float:
  """Least x > 0 at which a monotone condition holds, rounded up by at most one part in 1e12."""
  high = 1.0
  while not suffices(high):
    high *= 2
  low = 0.0
  while high - low > 1e-12 * high:
    middle = (low + high) / 2
    low, high = (low, middle) if suffices(middle) else (middle, high)
  return high


def _check_delta(delta: float | int) -> None:
  check.require(0 < delta < 1, "delta in (0, 1)", f"{delta=}", "the paper has 0.025")
