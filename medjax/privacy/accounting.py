"""What a number of noisy sums of samples costs. Only this file knows dp-accounting.

Several Gaussian releases of one sample are one Gaussian release of multiplier
(sum_j sigma_j^-2)^(-1/2) (adaptive composition of Gaussian mechanisms, Dong, Roth & Su 2022). The
sampling amplifies that one, once: releases that share a sample are not sampled apart.

  Poisson sampling   add or remove one unit    sensitivity C     PLD or RDP (Mironov et al. 2019)
  fixed-size         replace one unit          sensitivity 2 C   RDP alone (Wang et al. 2019)
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
_TOLERANCE = 1e-3  # of a target, on the safe side


def effective_multiplier(multipliers: Sequence[float | int]) -> float:
  """The one multiplier of several Gaussian releases of one sample, 0 if one has no noise."""
  if any(sigma == 0 for sigma in multipliers):
    return 0.0
  return sum(sigma**-2 for sigma in multipliers) ** -0.5


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
) -> float:
  """Upper bound on epsilon at `delta` of `num_steps` samples.

  Args:
    multiplier: noise std over the clipping norm C, of all releases of a sample together.
    num_units: N; public.
    sample_size: expected size of a Poisson sample (rate sample_size / N), size of a fixed one.
    num_steps: samples drawn; 0 costs nothing.
    delta: in (0, 1).
    sampling, accountant: see the module; "fixed" needs "rdp". With hardly any noise (below 0.05)
      RDP, which is larger, stands in for PLD, whose tables would not fit in memory.
  """
  check.one_of("accountant", accountant, ("pld", "rdp"))
  if num_steps == 0:
    return 0.0
  if multiplier == 0:
    return math.inf
  accountant = "rdp" if multiplier < _LEAST_FOR_PLD else accountant
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
  known: dict[str, Any] = {"pld": pld.PLDAccountant, "rdp": rdp.RdpAccountant}
  books = known[accountant](neighboring_relation=relation)
  books.compose(dp_accounting.SelfComposedDpEvent(event, num_steps))
  return float(books.get_epsilon(delta))


@functools.lru_cache(maxsize=256)
def calibrated(target: float | int, *, accountant: Accountant = "pld", **setting: Any) -> float:
  """A multiplier whose epsilon does not exceed the target and is within 0.1 % of it.

  Args:
    target: epsilon > 0.
    accountant, setting: as for `epsilon`.
  Raises:
    InputError: the target cannot be met with a multiplier below 10^4.
  """
  check.positive("target_epsilon", target)

  def cost(sigma: float, by: Accountant) -> float:
    return epsilon(sigma, accountant=by, **setting)

  # RDP costs little and bounds from above: it brackets what the dearer PLD then refines.
  high = 1.0
  while cost(high, "rdp") > target:
    high *= 2
    check.require(high < 1e4, "a target that noise can meet", f"{target}", "plan fewer steps")
  high = _least(lambda sigma: cost(sigma, "rdp"), target, high)
  return high if accountant == "rdp" else _least(lambda sigma: cost(sigma, "pld"), target, high)


def _least(cost: Callable[[float], float], target: float, high: float) -> float:
  """A multiplier whose cost is at most the target and within 0.1 % of it.

  Regula falsi on logarithms (Illinois), from `high`, where the cost is at most the target.
  """
  spent, low = cost(high), high
  while True:
    low /= 1.2
    if (above := cost(low)) > target:
      break
    high, spent = low, above
    if low < 1e-3:
      return high
  weight = {"low": 1.0, "high": 1.0}
  while spent < target * (1 - _TOLERANCE) and high / low > 1 + 1e-6:
    over = weight["low"] * math.log(above / target)
    under = weight["high"] * math.log(target / spent)
    middle = math.exp((math.log(low) * under + math.log(high) * over) / (over + under))
    found = cost(middle)
    if found > target:
      low, above, weight = middle, found, {"low": 1.0, "high": weight["high"] / 2}
    else:
      high, spent, weight = middle, found, {"low": weight["low"] / 2, "high": 1.0}
  return high
