"""Agreement of graded judgements: Cohen's kappa with quadratic weights, and what each case adds.

  kappa = 1 - O / E,   O = mean_i (p_i - y_i)^2,   E = mean_{i,j} (p_i - y_j)^2

for predicted grades p and true ones y: disagreement seen over disagreement of pairs drawn
independently (Cohen 1968). The part of case i is its first-order influence,

  u_i = kappa - (O_i - O) / E + (O / E^2) (E_i. + E_.i - 2 E),

with E_i. = mean_j (p_i - y_j)^2 and E_.i = mean_j (p_j - y_i)^2. Parts have the mean kappa, so
verdicts can be paired (`metrics.compare`), and their spread is that of kappa for many cases.
"""

import numpy as np
from jaxtyping import Float, Integer

from medjax import check


def quadratic_kappa(
  predicted: Integer[np.ndarray, " n"], labels: Integer[np.ndarray, " n"]
) -> float:
  """Cohen's kappa with quadratic weights; 1 for perfect agreement, 0 for that of chance.

  >>> quadratic_kappa(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 3]))
  1.0
  >>> quadratic_kappa(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
  0.0

  Args:
    predicted, labels: [n] grades, equally far apart.
  Returns:
    NaN where all judgements, predicted and true, are one grade.
  Raises:
    InputError: no cases, or unequal numbers.
  """
  return float(np.mean(kappa_parts(predicted, labels)))


def kappa_parts(
  predicted: Integer[np.ndarray, " n"],
  labels: Integer[np.ndarray, " n"],
  *,
  subjects: np.ndarray | None = None,
) -> Float[np.ndarray, " parts"]:
  """What each case, or person, adds to `quadratic_kappa`; the mean of the parts is the score.

  >>> kappa_parts(np.array([0, 1]), np.array([0, 1])).tolist()
  [1.0, 1.0]

  Args:
    predicted, labels: as for `quadratic_kappa`.
    subjects: [n] person of each case, None: each its own.
  Returns:
    [n], or a part for each of the sorted people, as `auroc_parts` has them.
  """
  check.same_shape("labels", labels.shape, "predicted", predicted.shape)
  check.require(len(labels) > 0, "judgements", "none", "pass some cases")
  p, y = predicted.astype(np.float64), labels.astype(np.float64)
  seen = (p - y) ** 2
  # mean_j (a - b_j)^2 = a^2 - 2 a mean b + mean b^2
  row = p**2 - 2 * p * y.mean() + (y**2).mean()
  column = y**2 - 2 * y * p.mean() + (p**2).mean()
  expected = row.mean()
  if expected == 0:
    return np.full(len(labels if subjects is None else np.unique(subjects)), np.nan)
  kappa = 1 - seen.mean() / expected
  drift = (row + column - 2 * expected) * seen.mean() / expected**2
  parts = kappa - (seen - seen.mean()) / expected + drift
  if subjects is None:
    return parts
  check.same_shape("subjects", subjects.shape, "labels", labels.shape)
  people, owner = np.unique(subjects, return_inverse=True)
  return kappa + len(people) / len(parts) * np.bincount(owner, weights=parts - kappa)
