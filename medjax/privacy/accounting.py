"""What a number of noisy sums of samples costs. This file and `mixture` know dp-accounting.

Several Gaussian releases of one sample are one Gaussian release of multiplier
(sum_j sigma_j^-2)^(-1/2) (adaptive composition of Gaussian mechanisms, Dong, Roth & Su 2022). The
sampling amplifies that one, once: releases that share a sample are not sampled apart.

  Poisson sampling   add or remove one unit    sensitivity C     PLD or RDP (Mironov et al. 2019)
  fixed-size         replace one unit          sensitivity 2 C   RDP alone (Wang et al. 2019)
  Poisson sampling   add or remove one person  up to k C         PLD alone (`privacy.mixture`)
  of examples        with up to k examples

Cyclic Poisson sampling of banded correlated noise costs what Poisson sampling at `bands` times the
rate in every `bands`-th step does (Choquette-Choo et al. 2023, theorem 4; `privacy.correlated`).

PLD: privacy loss distributions rounded so that epsilon is never too small (Koskela et al. 2020,
Doroshenko et al. 2022).
"""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

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


def rounds(num_steps: int, bands: int) -> int:
  """In how many of `num_steps` samples one unit may be, where it is drawn in every `bands`-th."""
  return -(-num_steps // bands)


class Spending(NamedTuple):
  """Samples of one kind and how often such a sample was drawn.

  Attributes:
    multiplier: noise std over the clipping norm C, of all releases of a sample together.
    num_units: N; public.
    sample_size: expected size of a Poisson sample (rate sample_size / N), size of a fixed one.
    num_steps: samples drawn; 0 costs nothing.
    sampling: "fixed" needs the accountant "rdp".
    max_sample_size: units beyond so many are left out of a Poisson sample; None: none are.
    per_subject: examples that one protected person may have, each drawn by itself; more than one
      needs the accountant "pld" and Poisson samples of any size.
  """

  multiplier: float | int
  num_units: int
  sample_size: int
  num_steps: int
  sampling: Sampling = "poisson"
  max_sample_size: int | None = None
  per_subject: int = 1


class Cost(NamedTuple):
  """An upper bound on epsilon, and the accountant that proved it."""

  epsilon: float
  accountant: Accountant


def epsilon(
  multiplier: float | int,
  *,
  num_units: int,
  sample_size: int,
  num_steps: int,
  delta: float,
  sampling: Sampling = "poisson",
  max_sample_size: int | None = None,
  per_subject: int = 1,
  accountant: Accountant = "pld",
  grid: float = _GRID,
) -> float:
  """Upper bound on epsilon at `delta` of `num_steps` samples; see `Spending` and `cost`."""
  one = Spending(
    multiplier, num_units, sample_size, num_steps, sampling, max_sample_size, per_subject
  )
  return cost((one,), delta, accountant, grid).epsilon


def cost(
  spent: tuple[Spending, ...],
  delta: float,
  accountant: Accountant = "pld",
  grid: float = _GRID,
) -> Cost:
  """Upper bound on epsilon at `delta` of all samples together, one after the other.

  RDP stands in for PLD where that has no answer: with hardly any noise its tables would not fit in
  memory, and below a delta of about 1e-14 the mass that its tables leave out exceeds delta. Where
  only PLD is known (a largest sample, several examples of a person) epsilon is then infinite.

  Args:
    spent: what was drawn; one relation of neighbours for all.
    delta: in (0, 1).
    accountant: see the module.
    grid: on which PLD rounds losses up.
  """
  check.one_of("accountant", accountant, ("pld", "rdp"))
  spent = tuple(part for part in spent if part.num_steps > 0)
  if not spent:
    return Cost(0.0, accountant)
  if any(part.multiplier == 0 for part in spent):
    return Cost(math.inf, accountant)
  kinds = {part.sampling for part in spent}
  check.require(len(kinds) == 1, "one kind of sampling", f"{sorted(kinds)}", "see DPPlan")
  check.require(
    kinds == {"poisson"} or accountant == "rdp",
    "accountant='rdp' for samples of a fixed size",
    f"{accountant!r}",
    "PLD of sampling without replacement is not known to dp-accounting",
  )
  is_cut = any(part.max_sample_size is not None for part in spent)
  check.require(
    not is_cut or accountant == "pld",
    "accountant='pld' for samples of a largest size",
    f"{accountant!r}",
    "RDP of truncated samples is not known to dp-accounting",
  )
  if any(part.per_subject > 1 for part in spent):
    check.require(
      kinds == {"poisson"} and not is_cut and accountant == "pld",
      "accountant='pld' and Poisson samples of any size for people of several examples",
      f"{accountant!r}",
      "PLD alone knows mixtures of Gaussians; see DPPlan(max_examples_per_subject=...)",
    )
    return Cost(_of_people(spent, delta, grid), "pld")
  found = math.inf
  if accountant == "pld" and min(p.multiplier for p in spent) >= _LEAST_FOR_PLD:
    found = float(_books(spent, "pld", grid).get_epsilon(delta))
    if is_cut:  # the larger one of two neighbours may have one unit more, which others crowd out
      found = max(found, float(_books(spent, "pld", grid, 1).get_epsilon(delta)))
  if is_cut or math.isfinite(found):
    return Cost(found, "pld")
  return Cost(float(_books(spent, "rdp", grid).get_epsilon(delta)), "rdp")


@functools.lru_cache(maxsize=16)
def _books(
  spent: tuple[Spending, ...], accountant: Accountant, grid: float, num_more: int = 0
) -> Any:
  """dp-accounting's accountant of these samples, of `num_more` units more; serves every delta."""
  import dp_accounting
  from dp_accounting import pld, rdp

  relation = (
    dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    if spent[0].sampling == "poisson"
    else dp_accounting.NeighboringRelation.REPLACE_ONE
  )
  books: Any = (
    rdp.RdpAccountant(neighboring_relation=relation)
    if accountant == "rdp"
    else pld.PLDAccountant(neighboring_relation=relation, value_discretization_interval=grid)
  )
  for part in spent:
    rate = part.sample_size / part.num_units
    if part.sampling == "fixed":
      # Replacing a unit moves the sum by up to 2 C.
      event = dp_accounting.SampledWithoutReplacementDpEvent(
        part.num_units, part.sample_size, dp_accounting.GaussianDpEvent(part.multiplier / 2)
      )
    elif part.max_sample_size is not None:
      event = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        part.num_units + num_more, rate, part.max_sample_size, part.multiplier
      )
    else:
      event = dp_accounting.PoissonSampledDpEvent(
        rate, dp_accounting.GaussianDpEvent(part.multiplier)
      )
    with _no_word_of_left_out_orders():
      books.compose(dp_accounting.SelfComposedDpEvent(event, part.num_steps))
  return books


@functools.lru_cache(maxsize=64)
def _of_people(spent: tuple[Spending, ...], delta: float, grid: float) -> float:
  """Epsilon of samples in which one person may have several examples; inf where PLD has no answer.

  Nothing stands in for it: there is no RDP of these mixtures in dp-accounting.
  """
  from medjax.privacy import mixture

  losses = mixture.losses(
    [
      mixture.Samples(p.multiplier, p.per_subject, p.sample_size / p.num_units, p.num_steps)
      for p in spent
    ],
    grid,
  )
  return math.inf if losses is None else float(losses.get_epsilon_for_delta(delta))


@contextlib.contextmanager
def _no_word_of_left_out_orders() -> Iterator[None]:
  """Keeps dp-accounting from a warning for every Renyi order whose series does not converge.

  Such an order is left out, and epsilon is the least over the others: each order alone gives an
  upper bound, so that fewer of them can only make epsilon larger. Other warnings pass.
  """
  logger = logging.getLogger("absl")

  def passes(record: logging.LogRecord) -> bool:
    return "failed to converge" not in str(record.msg)

  logger.addFilter(passes)
  try:
    yield
  finally:
    logger.removeFilter(passes)


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

  def spend(sigma: float | int, grid: float = _GRID) -> float:
    # Where an accountant has no answer, a large number keeps the search going.
    return min(epsilon(sigma, accountant=accountant, grid=grid, **setting), 1e9)

  coarse = _least(functools.partial(spend, grid=_COARSE_GRID), target, 1.0)
  sigma = _least(spend, target, coarse)
  check.require(spend(sigma) <= target, "a target that noise can meet", f"{target}", "see delta")
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
