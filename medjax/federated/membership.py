"""Was an example in the training? A likelihood ratio of networks that saw it and that did not."""

import numpy as np

from medjax import check


def log_odds(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """[n] log p_y / (1 - p_y) of the right class: nearly normal over networks, which p_y is not.

  >>> log_odds(np.array([[1.0, 0.0], [0.0, 3.0]]), np.array([0, 0])).tolist()
  [1.0, -3.0]

  Args:
    logits: [n, class], 2 classes or more.
    labels: [n] class ids.
  """
  check.same_shape("labels", labels.shape, "logits", logits.shape[:1])
  own = np.take_along_axis(logits, labels[:, None], 1)
  rest = np.where(np.arange(logits.shape[1]) == labels[:, None], -np.inf, logits)
  return own[:, 0] - np.logaddexp.reduce(rest, axis=1)


def membership_ratio(scores: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
  """Log-likelihood ratio of each example: was it in the training? (LiRA, Carlini et al. 2022.)

  log N(s; mean_in, sd_in) - log N(s; mean_out, sd_out), means an example, deviations pooled over
  all examples as one does with few reference networks. Above 0 the network looks trained on it.

  Args:
    scores: [examples] of the network under test, such as `log_odds`.
    inside: [networks, examples] of networks that were trained on the examples, 2 or more.
    outside: the same of networks that were not.
  Raises:
    InputError: shapes that do not fit, or fewer than two networks on a side.
  """
  found = []
  for name, table in {"inside": inside, "outside": outside}.items():
    check.require(
      table.ndim == 2 and len(table) >= 2 and table.shape[1:] == scores.shape,
      f"{name} as [networks, examples], 2 networks or more, for scores {scores.shape}",
      f"{table.shape}",
      "train more reference networks",
    )
    mean = table.mean(0)
    deviation = np.sqrt(((table - mean) ** 2).sum() / ((len(table) - 1) * table.shape[1]))
    deviation = max(float(deviation), 1e-12)
    found.append(-(((scores - mean) / deviation) ** 2) / 2 - np.log(deviation))
  return found[0] - found[1]
