"""What a classifier gets right, class by class: confusion matrix, sensitivity, specificity, F1.

  sensitivity_k = TP_k / (TP_k + FN_k)       specificity_k = TN_k / (TN_k + FP_k)
  precision_k   = TP_k / (TP_k + FP_k)       F1_k = 2 TP_k / (2 TP_k + FP_k + FN_k)

with TP, FN, FP, TN of class k against all others. Precision and F1 depend on how common the class
is among the examples; sensitivity and specificity do not.

Every one of them is a sum over examples divided by another, R = sum_i a_i / sum_i b_i. Its interval
counts people and not images: with A_p and B_p the sums of the m people of whom some B_p > 0,

  v = m / (m - 1) sum_p (A_p - R B_p)^2 / (sum_p B_p)^2      n = R (1 - R) / v, at most sum_p B_p

is its variance by linearisation, n the number of independent trials of that variance, and the
interval is Wilson's for R of n with Student's quantile of m - 1 degrees of freedom (Franco et al.,
J. Survey Statistics and Methodology 2019). Where nobody differs (R = 0 or 1, or v = 0) n = m.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from medjax import check
from medjax import labels as label_checks
from medjax.metrics.bootstrap import Interval


class Rates(NamedTuple):
  """Of each class against the rest, [class]; NaN where nothing is counted.

  Attributes:
    sensitivity: share of the class that is found (recall).
    specificity: share of the rest that is not taken for it.
    precision: share of what is called so that is (positive predictive value).
    f1: harmonic mean of sensitivity and precision.
  """

  sensitivity: jax.Array
  specificity: jax.Array
  precision: jax.Array
  f1: jax.Array


def confusion_matrix(
  predictions: Integer[Array | np.ndarray, "..."],
  labels: Integer[Array | np.ndarray, "..."],
  *,
  num_classes: int,
  weight: ArrayLike | None = None,
) -> Float[Array, "true predicted"]:
  """Weights of the examples of each true class (row) that are taken for each class (column).

  >>> confusion_matrix(np.array([0, 1, 1, 1]), np.array([0, 0, 1, -1]), num_classes=2).tolist()
  [[1.0, 1.0], [0.0, 1.0]]

  Args:
    predictions: class ids of any shape; `logits.argmax(-1)`.
    labels: class ids of the same shape; `types.IGNORE` counts nowhere.
    num_classes: K.
    weight: of the same shape, 0 or more; 0 marks padding. None: 1.
  Returns:
    [K, K] float32, exact for counts below 2^24.
  Raises:
    InputError: another shape, or a number that is no class (NaN under jit).
  """
  truth = label_checks.of_classes("labels", labels, num_classes)
  shape = truth.ids.shape
  found = label_checks.of_classes(
    "predictions", predictions, num_classes, shape=shape, other="the labels", lowest=0
  )
  weight = jnp.ones(shape, jnp.float32) if weight is None else jnp.asarray(weight, jnp.float32)
  check.same_shape("weight", weight.shape, "labels", shape)
  counted = jnp.where(truth.is_known, weight, 0.0).reshape(-1)
  cell = jnp.where(truth.is_known, truth.ids, 0) * num_classes + found.ids
  sums = jnp.zeros(num_classes**2).at[cell.reshape(-1)].add(counted)
  return found.checked(truth.checked(sums.reshape(num_classes, num_classes)))


def rates(matrix: Any) -> Rates:
  """The rates of a confusion matrix, or of a stack [..., true, predicted] of them.

  >>> found = rates(jnp.array([[8.0, 2.0], [1.0, 9.0]]))
  >>> [round(float(x[1]), 3) for x in found]  # 9 / 10, 8 / 10, 9 / 11, 18 / 21
  [0.9, 0.8, 0.818, 0.857]
  """
  matrix = jnp.asarray(matrix, jnp.float32)
  hit = jnp.diagonal(matrix, axis1=-2, axis2=-1)
  missed, invented = matrix.sum(-1) - hit, matrix.sum(-2) - hit
  rest = matrix.sum((-2, -1))[..., None] - hit - missed - invented
  pairs = [
    (hit, hit + missed),
    (rest, rest + invented),
    (hit, hit + invented),
    (2 * hit, 2 * hit + missed + invented),
  ]
  return Rates(*(jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), jnp.nan) for a, b in pairs))


def rate_intervals(
  predictions: Integer[Array | np.ndarray, " n"],
  labels: Integer[Array | np.ndarray, " n"],
  *,
  num_classes: int,
  subjects: Sequence[Hashable] | np.ndarray | None = None,
  alpha: float = 0.05,
) -> dict[str, list[Interval]]:
  """Sensitivity, specificity, precision, F1 of each class, and the accuracy, with intervals.

  >>> found = rate_intervals(np.array([1] * 9 + [0]), np.ones(10, int), num_classes=2)
  >>> sensitivity = found["sensitivity"][1]
  >>> sensitivity.mean, round(sensitivity.low, 2), round(sensitivity.high, 2)
  (0.9, 0.52, 0.99)

  Args:
    predictions, labels: [n] class ids, as for `confusion_matrix`; on the host.
    num_classes: K.
    subjects: [n] person of each example; None: each is its own.
    alpha: 1 - confidence, in (0, 1).
  Returns:
    Intervals of each class by the name of the rate; "accuracy" has one. Where nothing is counted
    mean, low and high are NaN; with one person low and high are.
  Raises:
    InputError: see `confusion_matrix`; subjects of another number.
  """
  truth = label_checks.of_classes("labels", np.asarray(labels), num_classes)
  found = label_checks.of_classes(
    "predictions",
    np.asarray(predictions),
    num_classes,
    shape=truth.ids.shape,
    other="the labels",
    lowest=0,
  )
  people = np.arange(len(truth.ids)) if subjects is None else np.asarray(subjects)
  check.same_shape("subjects", people.shape, "labels", truth.ids.shape)
  is_known = np.asarray(truth.is_known)
  true, called, people = truth.ids[is_known], found.ids[is_known], people[is_known]

  def interval(top: np.ndarray, bottom: np.ndarray) -> Interval:
    return ratio_interval(top, bottom, people, alpha=alpha)

  names: dict[str, list[Interval]] = {name: [] for name in Rates._fields}
  for k in range(num_classes):
    is_class, is_called = true == k, called == k
    hit = is_class & is_called
    names["sensitivity"].append(interval(hit, is_class))
    names["specificity"].append(interval(~is_class & ~is_called, ~is_class))
    names["precision"].append(interval(hit, is_called))
    names["f1"].append(interval(2.0 * hit, is_class + 1.0 * is_called))
  return {**names, "accuracy": [interval(true == called, np.ones(len(true)))]}


def ratio_interval(
  top: np.ndarray, bottom: np.ndarray, people: np.ndarray, *, alpha: float = 0.05
) -> Interval:
  """sum(top) / sum(bottom) in [0, 1] with the interval on top of this file.

  Args:
    top, bottom: [n] of each example, 0 <= top <= bottom.
    people: [n] person of each.
    alpha: 1 - confidence, in (0, 1).
  """
  from scipy import special  # a fifth of a second of import

  check.require(0 < alpha < 1, "alpha in (0, 1)", f"{alpha=}", "use 0.05 for 95 %")
  _, owner = np.unique(people, return_inverse=True)
  a, b = (np.bincount(owner, weights=np.asarray(x, np.float64)) for x in (top, bottom))
  a, b = a[b > 0], b[b > 0]
  m, nan = len(b), float("nan")
  if m == 0:
    return Interval(nan, nan, nan, nan, ())
  mean = float(a.sum() / b.sum())
  if m == 1:
    return Interval(mean, nan, nan, nan, ())
  variance = m / (m - 1) * ((a - mean * b) ** 2).sum() / b.sum() ** 2
  is_spread = 0 < mean < 1 and variance > 0
  trials = min(mean * (1 - mean) / variance, b.sum()) if is_spread else float(m)
  t = float(special.stdtrit(m - 1, 1 - alpha / 2))
  middle = (mean + t**2 / (2 * trials)) / (1 + t**2 / trials)
  half = t * np.sqrt(mean * (1 - mean) / trials + t**2 / (4 * trials**2)) / (1 + t**2 / trials)
  low, high = max(float(middle - half), 0.0), min(float(middle + half), 1.0)
  return Interval(mean, low, high, float(np.sqrt(variance)), ("subject",))
