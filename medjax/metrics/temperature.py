"""One number that repairs confidence: softmax(logits / T), T fitted by likelihood.

  NLL(b) = mean_i [log sum_k exp(b z_ik) - b z_i,label],   b = 1 / T       (Guo et al., ICML 2017)

is convex in b, with slope mean(E_p z - z_label) and curvature mean(Var_p z) at p = softmax(b z). It
is solved by Newton's method inside a shrinking bracket. T changes no decision: the largest logit
stays the largest.
"""

from typing import Any, NamedTuple

import numpy as np

from medjax import check
from medjax.types import IGNORE


class Temperature(NamedTuple):
  """Result of `fit_temperature`.

  Attributes:
    temperature: T; above 1 the network was overconfident.
    nll_before, nll_after: nats a voxel at T = 1 and at T, on the voxels of the fit.
    at_bound: whether the likelihood still improves beyond `bounds`: every voxel right (T -> 0) or
      logits that carry no information (T -> inf).
  """

  temperature: float
  nll_before: float
  nll_after: float
  at_bound: bool


def fit_temperature(
  logits: Any, labels: Any, *, bounds: tuple[float, float] = (0.05, 20.0)
) -> Temperature:
  """Temperature that minimises the negative log-likelihood. NumPy on the host, in float64.

  Fit it on SOURCE validation only: on target or test data it would use the labels that the
  experiment must not have.

  >>> fit_temperature([[2.0, 0.0]] * 4, [0, 0, 0, 1]).temperature  # 2 / T = log 3
  1.820478453253...

  Args:
    logits: [*space, class] finite; a random part of the voxels does for volumes.
    labels: [*space] class ids, `IGNORE` where unknown.
    bounds: smallest and largest temperature.
  Returns:
    T, exact to 1e-10; 1 if no temperature changes the likelihood (logits equal in every voxel).
  Raises:
    InputError: shapes that differ, no known label, a label that is no class, logits not finite.
  """
  check.positive("bounds[0]", bounds[0])
  check.ordered("bounds", bounds)
  z = _known(logits, labels)
  low, high = 1 / bounds[1], 1 / bounds[0]
  nll_before = _nll(z, 1.0)[0]
  if _nll(z, low)[1] >= 0:
    inverse, at_bound = low, True
  elif _nll(z, high)[1] <= 0:
    inverse, at_bound = high, True
  else:
    inverse, at_bound = _root(z, low, high), False
  if not np.ptp(z, axis=-1).any():
    inverse, at_bound = 1.0, False
  nll_after = _nll(z, inverse)[0]
  return Temperature(float(1 / inverse), float(nll_before), float(nll_after), at_bound)


def _known(logits, labels) -> np.ndarray:
  """Logits [voxel, class] less the one of the label, known voxels only."""
  z, labels = np.asarray(logits, np.float64), np.asarray(labels)
  check.same_shape("logits without the class axis", z.shape[:-1], "labels", labels.shape)
  known = labels != IGNORE
  z, chosen = z[known], labels[known]
  check.require(len(z), "a voxel with a label", "none", "pass labelled voxels")
  check.require(np.isfinite(z).all(), "finite logits", "NaN or infinity", "look at the network")
  check.require(
    0 <= chosen.min() and chosen.max() < z.shape[-1],
    f"labels in 0..{z.shape[-1] - 1} or {IGNORE}",
    f"{chosen.min()}..{chosen.max()}",
    "remap the labels",
  )
  return z - np.take_along_axis(z, chosen[:, None], axis=-1)


def _nll(z, inverse) -> tuple[float, float, float]:
  """Value, slope and curvature in b at `inverse`; z is relative to the label's logit."""
  top = z.max(-1, keepdims=True)
  weight = np.exp(inverse * (z - top))
  total = weight.sum(-1, keepdims=True)
  p = weight / total
  mean = (p * z).sum(-1, keepdims=True)
  value = (np.log(total) + inverse * top).mean()
  return value, mean.mean(), (p * (z - mean) ** 2).sum(-1).mean()


def _root(z, low, high) -> float:
  """Where the slope crosses 0 between `low` and `high`."""
  inverse = min(max(1.0, low), high)
  while high - low > 1e-12 * high:
    _, slope, curvature = _nll(z, inverse)
    low, high = (inverse, high) if slope < 0 else (low, inverse)
    following = inverse - slope / curvature if curvature > 0 else low
    if abs(following - inverse) <= 1e-12 * inverse:
      break
    # Newton leaves the bracket where the curve is far from a parabola: bisect the ratio then.
    inverse = following if low < following < high else (low * high) ** 0.5
  return inverse
