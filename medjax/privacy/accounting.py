"""What a number of noisy sums of samples costs. Only this file knows dp-accounting.

Several Gaussian releases of one sample are one Gaussian release of multiplier
(sum_j sigma_j^-2)^(-1/2) (adaptive composition of Gaussian mechanisms, Dong, Roth & Su 2022). The
sampling amplifies that one, once: releases that share a sample are not sampled apart.

  Poisson sampling   add or remove one unit    sensitivity C     PLD or RDP (Mironov et al. 2019)
  fixed-size         replace one unit          sensitivity 2 C   RDP alone (Wang et al. 2019)

PLD: privacy loss distributions rounded so that epsilon is never too small (Koskela et al. 2020,
Doroshenko et al. 2022).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from medjax import check

Accountant = Literal["pld", "rdp"]
Sampling = Literal["poisson", "fixed"]
RELATION = {"poisson": "add or remove one", "fixed": "replace one"}
_LEAST_FOR_PLD = 0.05
_GRID = 1e-4  # of the privacy losses
_COARSE_GRID = 1e-3  # ten times as fast, and as safe, but looser
_LEAST, _MOST = 1e-3, 1e4  # multipliers tried
_TOLERANCE = 1e-3  # of a target, on the safe side


def effective_multiplier(multipliers: Sequence[float | int]) -> float:
  """The one multiplier of several Gaussian releases of one sample, 0 if one has no noise."""
  if any(sigma == 0 for sigma in multipliers):
    return 0.0
  return sum(sigma**-2 for sigma in multipliers) ** -0.5


def able(accountant: Accountant, multiplier: float | int) -> Accountant:
  """RDP in place of PLD where there is hardly any noise: the tables would not fit in memory."""
  return "rdp" if multiplier < _LEAST_FOR_PLD else accountant


@functools.lru_cache(maxsize=1024)
def epsilon(
  multiplier: float | int,
  *,
  num_units: int,
  sample_size: int,
  num_steps: int,
  delta: float,
  sampling: Sampling = "poisson",
  accountant: Accountant = "pld",
  grid: float = _GRID,
) -> float:
  """Upper bound on epsilon at `delta` of `num_steps` samples.

  Args:
    multiplier: noise std over the clipping norm C, of all releases of a sample together.
    num_units: N; public.
    sample_size: expected size of a Poisson sample (rate sample_size / N), size of a fixed one.
    num_steps: samples drawn; 0 costs nothing.
    delta: in (0, 1).
    sampling, accountant: see the module and `able`; "fixed" needs "rdp".
    grid: on which PLD rounds losses up.
  """
  check.one_of("accountant", accountant, ("pld", "rdp"))
  if num_steps == 0:
    return 0.0
  if multiplier == 0:
    return math.inf
  accountant = able(accountant, multiplier)
  import dp_accounting
  from dp_accounting import pld, rdp

  if sampling == "fixed":
    check.require(
      accountant == "rdp",
      "accountant='rdp' for samples of a fixed size",
      f"{accountant!r}",
      "PLD of sampling without replacement is not known to dp-accounting",
    )
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    # Replacing a unit moves the sum by up to 2 C.
    event = dp_accounting.SampledWithoutReplacementDpEvent(
      num_units, sample_size, dp_accounting.GaussianDpEvent(multiplier / 2)
    )
  else:
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    event = dp_accounting.PoissonSampledDpEvent(
      sample_size / num_units, dp_accounting.GaussianDpEvent(multiplier)
    )
  books: Any = (
    rdp.RdpAccountant(neighboring_relation=relation)
    if accountant == "rdp"
    else pld.PLDAccountant(neighboring_relation=relation, value_discretization_interval=grid)
  )
  books.compose(dp_accounting.SelfComposedDpEvent(event, num_steps))
  return float(books.get_epsilon(delta))


@functools.lru_cache(maxsize=256)
def calibrated(target: float | int, *, accountant: Accountant = "pld", **setting: Any) -> float:
  """A multiplier whose epsilon does not exceed the target and is within 0.1 % of it.

  Args:
    target: epsilon, positive and finite.
    accountant, setting: as for `epsilon`.
  Raises:
    InputError: the target cannot be met with a multiplier below 10^4.
  """
  check.require(0 < target < math.inf, "target_epsilon > 0, finite", f"{target}", "8 is common")
  cost = functools.partial(epsilon, accountant=accountant, **setting)
  coarse = _least(functools.partial(cost, grid=_COARSE_GRID), target, 1.0)
  sigma = _least(cost, target, coarse)
  check.require(cost(sigma) <= target, "a target that noise can meet", f"{target}", "see delta")
  return sigma


def _least(cost: Callable[[float], float], target: float, start: float) -> float:
  """A multiplier whose cost is at most the target and within 0.1 % of it, 10^4 if that costs more.

  The cost falls as the multiplier grows. Brackets with growing strides from `start`, then regula
  falsi on logarithms (Illinois).
  """
  high, spent, stride = start, cost(start), 1.02
  low, above = 0.0, math.inf
  while spent > target:
    low, above = high, spent
    high, stride = high * stride, stride**2
    if high > _MOST:
      return _MOST
    spent = cost(high)
  while low == 0.0 and spent < target * (1 - _TOLERANCE) and high > _LEAST:
    tried = max(high / stride, _LEAST)
    if (found := cost(tried)) > target:
      low, above = tried, found
    else:
      high, spent, stride = tried, found, stride**2
  over, under = 1.0, 1.0  # weights of the ends: halved for the one that stays
  while low > 0.0 and spent < target * (1 - _TOLERANCE) and high / low > 1 + 1e-6:
    # Epsilon is 0 where delta covers all; far from the target this is bisection, roughly.
    a, b = under * math.log(target / max(spent, target / 2)), over * math.log(above / target)
    middle = math.exp((math.log(low) * a + math.log(high) * b) / (a + b))
    found = cost(middle)
    if found > target:
      low, above, over, under = middle, found, 1.0, under / 2
    else:
      high, spent, over, under = middle, found, over / 2, 1.0
  return high
