"""The cut of a score at which sensitivity and specificity together are largest.

  J(cut) = sensitivity + specificity - 1,    called positive: scores above the cut

Youden, "Index for rating diagnostic tests" (1950). Half of J + 1 is the balanced accuracy. A cut
that was chosen on the cases it is judged by flatters: choose it on validation cases.
"""

from typing import NamedTuple

import numpy as np

from medjax import check


class YoudenCut(NamedTuple):
  """A cut and its rates.

  Attributes:
    value: scores above it are called positive.
    sensitivity, specificity: on the cases that it was chosen on.
  """

  value: float
  sensitivity: float
  specificity: float


def youden_cut(scores: np.ndarray, labels: np.ndarray) -> YoudenCut:
  """The best cut, in the middle between two neighbouring scores; on the host.

  >>> youden_cut(np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 0, 1, 1]))
  YoudenCut(value=0.5, sensitivity=1.0, specificity=1.0)

  Args:
    scores: [n], larger for label 1.
    labels: [n] of 0 and 1, both present.
  Returns:
    Of several cuts with the same J the highest, which calls fewest positive. A cut that calls
    nobody positive lies at the largest score: J is never below 0.
  Raises:
    InputError: scores that are not finite, or one label alone.
  """
  scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
  check.same_shape("scores", scores.shape, "labels", labels.shape)
  check.require(np.isfinite(scores).all(), "finite scores", "NaN or infinity", "look at the loss")
  check.require(
    set(labels.tolist()) == {0, 1},
    "labels 0 and 1, both present",
    f"{sorted(set(labels.tolist()))}",
    "choose the cut on cases of both",
  )
  values, place = np.unique(scores, return_inverse=True)
  counts = [np.bincount(place[labels == k], minlength=len(values)) for k in (0, 1)]
  # After the i-th value everything up to it is called negative.
  specificity = np.cumsum(counts[0]) / counts[0].sum()
  sensitivity = 1 - np.cumsum(counts[1]) / counts[1].sum()
  gain = np.round(sensitivity + specificity, 12)
  best = len(gain) - 1 - int(np.argmax(gain[::-1]))
  upper = values[min(best + 1, len(values) - 1)]
  return YoudenCut(
    float((values[best] + upper) / 2), float(sensitivity[best]), float(specificity[best])
  )
