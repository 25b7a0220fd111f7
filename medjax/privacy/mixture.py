"""The privacy loss of one person of whom several examples are in the data: mixtures of Gaussians.

Each of up to k examples of a person is in a Poisson sample with probability q, each by itself. If i
of them are, the sum of clipped gradients moves by at most i C. What a release tells of that person
is hence dominated by what tells, on one number,

  P = sum_i Binomial(i; k, q) N(i C, sigma^2 C^2)      from      Q = N(0, sigma^2 C^2)

(Choquette-Choo, Ganesh, Steinke & Thakurta, "Privacy Amplification for Matrix Mechanisms", ICLR
2024, corollary 4.7: only the norms of the moves count, and larger ones dominate smaller ones, so
that it also covers people with fewer examples). Adding the person compares Q with P, removing it P
with Q; both are accounted for, and epsilon is the larger one.

dp-accounting has this mechanism (`MixtureOfGaussiansDpEvent`), and its distributions, their
rounding up and their composition are used here. Only the search for the place at which the loss has
a given value is ours: Newton's method for all values at once, in a hundredth of the time.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, MixtureGaussianPrivacyLoss
from scipy import special, stats

_MOST_POINTS = 3 * 10**5  # of a table of losses
_COARSER = (1, 10, 100)  # times the grid that was asked for, where the table would have more
_AT_ONCE = 2**15  # values worked on together
_LEAST_MASS = 1e-30  # of the binomial law that keeps a shift of its own


class Samples(NamedTuple):
  """Samples of one kind.

  Attributes:
    multiplier: noise std over C, positive.
    per_subject: k, examples of one person at most.
    rate: q, with which each of them is drawn.
    count: how many samples there are.
  """

  multiplier: float | int
  per_subject: int
  rate: float
  count: int


def losses(spent: Sequence[Samples], grid: float) -> PrivacyLossDistribution | None:
  """The loss of all samples together; None where its tables would not fit in memory.

  Losses are rounded up to multiples of `grid`, or of 10 or 100 times as much where they are large:
  with more than a few examples a person, and little noise.
  """
  for coarser in _COARSER:
    tables = [_of_one(part, grid * coarser) for part in spent]
    found = [table for table in tables if table is not None]
    if len(found) == len(spent):
      each = (one.self_compose(part.count) for one, part in zip(found, spent, strict=True))
      return functools.reduce(PrivacyLossDistribution.compose, each)
  return None


def _of_one(part: Samples, grid: float) -> PrivacyLossDistribution | None:
  """The loss of one sample."""
  shifts, chances = _shifts(part.per_subject, part.rate)
  found = []
  for direction in (AdjacencyType.REMOVE, AdjacencyType.ADD):
    loss = MixtureGaussianPrivacyLoss(part.multiplier, shifts, chances, adjacency_type=direction)
    table = _table(loss, part.multiplier, grid)
    if table is None:
      return None
    found.append(table)
  return PrivacyLossDistribution(*found)


def _shifts(per_subject: int, rate: float) -> tuple[list[float], list[float]]:
  """How far a sample moves, over C, and how probably.

  What the upper tail of the law holds beyond `_LEAST_MASS` is counted as the largest shift, which
  can only make the loss larger.
  """
  counts = np.arange(per_subject)
  kept = int((stats.binom.sf(counts - 1, per_subject, rate) >= _LEAST_MASS).sum())
  chances = stats.binom.pmf(counts[:kept], per_subject, rate)
  shifts = [*counts[:kept].astype(float), float(per_subject)]
  return shifts, [*chances, float(stats.binom.sf(kept - 1, per_subject, rate))]


def _table(
  loss: MixtureGaussianPrivacyLoss, multiplier: float | int, grid: float
) -> pld_pmf.PLDPmf | None:
  """The distribution of the loss on whole multiples of `grid`, rounded up."""
  bounds = loss.connect_dots_bounds()
  assert bounds.epsilon_lower is not None and bounds.epsilon_upper is not None
  low, high = math.floor(bounds.epsilon_lower / grid), math.ceil(bounds.epsilon_upper / grid)
  if high - low > _MOST_POINTS:
    return None
  deltas = []
  for start in range(low, high + 1, _AT_ONCE):
    epsilon = grid * np.arange(start, min(start + _AT_ONCE, high + 1))
    # The set of outcomes whose loss is above epsilon is everything below one place.
    place = _inverse(loss, multiplier, epsilon)
    with np.errstate(divide="ignore"):
      deltas.append(loss.mu_upper_cdf(place) - np.exp(epsilon + loss.mu_lower_log_cdf(place)))
  # Rounding may leave a delta of the tail below that of a larger epsilon, or below 0.
  falling = np.maximum.accumulate(np.clip(np.concatenate(deltas), 0.0, 1.0)[::-1])[::-1]
  return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(grid, low, high, falling)


def _inverse(
  loss: MixtureGaussianPrivacyLoss, multiplier: float | int, losses: np.ndarray
) -> np.ndarray:
  """The place of each loss; +-inf for losses that no place has.

  With y = x for ADD and y = -x for REMOVE, log P / Q at y is log(p_0 + sum_i p_i e^(s_i y - s_i^2 /
  2)) in standard deviations. log of the sum is convex and rises with slopes between the least and
  the largest s_i. Newton's method hence falls to its solution from any place above it, such as
  the first one at which a single term has the value of the sum.
  """
  is_add = loss.adjacency_type == AdjacencyType.ADD
  ratio = -losses if is_add else losses
  shifts, chances = np.asarray(loss.sensitivities), np.asarray(loss.sampling_probs)
  is_moved = shifts > 0
  shift, nobody = shifts[is_moved] / multiplier, chances[~is_moved].sum()
  start = np.log(chances[is_moved]) - shift**2 / 2
  is_met = nobody * np.exp(-ratio) < 1
  target = np.where(is_met, ratio + np.log1p(-np.where(is_met, nobody * np.exp(-ratio), 0)), 0.0)
  y = np.min((target[:, None] - start) / shift, axis=1)
  for _ in range(50):
    terms = start + y[:, None] * shift
    total = special.logsumexp(terms, axis=1)
    step = (total - target) / (np.exp(terms - total[:, None]) @ shift)
    y = y - step
    if np.max(np.abs(step), initial=0.0) < 1e-12 * (1 + np.max(np.abs(y), initial=0.0)):
      break
  y = multiplier * np.where(is_met, y, -np.inf)
  return y if is_add else -y
