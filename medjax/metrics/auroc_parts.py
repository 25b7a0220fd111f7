"""What each example or person adds to an area under the ROC curve, so that verdicts can be paired.

The AUROC A of K positives and M negatives is the mean over positives of V = the share of negatives
ranked below, and the mean over negatives of V = the share of positives above; ties count half. The
parts of n examples

  u_i = A + (n / K) (V_i - A)   positives
  u_i = A + (n / M) (V_i - A)   negatives
  u_i = A                       those labelled `types.IGNORE`

have the mean A, and their spread is that of A (DeLong et al., Biometrics 1988): they take the place
of scores in `metrics.compare`. Examples of one person go together; of P people each has

  s_p = A + (P / n) sum_{i of p} (u_i - A),   again with the mean A.
"""

import numpy as np
from jaxtyping import Float, Integer

from medjax import check
from medjax import labels as label_checks
from medjax.metrics.ranking import check_probabilities


def auroc_parts(
  scores: Float[np.ndarray, " n"] | Float[np.ndarray, "n classes"],
  labels: Integer[np.ndarray, "*labels"],
  *,
  subjects: np.ndarray | None = None,
) -> Float[np.ndarray, " parts"]:
  """Parts whose mean is `auroc(scores, labels)`; on the host.

  >>> auroc_parts(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])).tolist()
  [1.125, 0.625, 0.625, 1.125]

  Args:
    scores: [n], larger for label 1; or [n, class] probabilities, see `auroc`.
    labels: [n] of 0, 1 and `types.IGNORE`; class ids for [n, class].
    subjects: [n] person of each example, None: each its own.
  Returns:
    [n], or a part for each of the sorted people.
  Raises:
    InputError: shapes that do not fit, a class without positives or without negatives.
  """
  num_classes = 2 if scores.ndim == 1 else scores.shape[-1]
  labels = label_checks.of_classes(
    "labels", labels, num_classes, shape=scores.shape[:1], other="scores without a class axis"
  ).ids
  if scores.ndim == 1:
    parts = _parts(scores, labels == 1, labels == 0)
  else:
    known = labels >= 0
    check_probabilities(scores, known)
    each = [
      _parts(scores[:, k], labels == k, known & (labels != k)) for k in range(scores.shape[1])
    ]
    parts = np.mean(each, axis=0)
  if subjects is None:
    return parts
  check.same_shape("subjects", subjects.shape, "labels", labels.shape)
  people, owner = np.unique(subjects, return_inverse=True)
  area = parts.mean()
  return area + len(people) / len(parts) * np.bincount(owner, weights=parts - area)


def _parts(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
  check.require(
    positive.any() and negative.any(),
    "a positive and a negative example of each class",
    f"{positive.sum()} and {negative.sum()}",
    "leave out the class",
  )
  won = np.zeros(len(scores))
  for side, rest, sign in ((positive, negative, 1), (negative, positive, -1)):
    own, others = sign * scores[side], np.sort(sign * scores[rest])
    below = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
    won[side] = below / 2 / len(others)
  area = won[positive].mean()
  share = np.where(positive, positive.mean(), negative.mean())
  return area + np.where(positive | negative, won - area, 0.0) / share
