"""Concordance of risks and survival times, and what each person adds to it.

Two people can be compared if it is known who had the event first: the earlier of two times is an
event, or the times are equal and one is an event and the other is not (who was only seen until then
lived longer). Harrell's C is the share of these pairs in which the first one had the higher risk;
equal risks count half. With N_i and D_i the won and all pairs of person i, and C = N / D over all
pairs,

  u_i = C + (n / D) (N_i - C D_i)

has the mean C, and its spread is that of C to first order (C is a ratio of two U-statistics): the
parts take the place of scores in `metrics.compare`. If all events come before all other times, C is
the area under the ROC curve and the parts are those of `auroc_parts`.
"""

import numpy as np
from jaxtyping import Bool, Float, Integer

from medjax import check


def concordance_parts(
  risk: Float[np.ndarray, " n"],
  time: Float[np.ndarray, " n"] | Integer[np.ndarray, " n"],
  event: Bool[np.ndarray, " n"] | Integer[np.ndarray, " n"],
  *,
  strata: np.ndarray | None = None,
) -> Float[np.ndarray, " n"]:
  """Parts of people whose mean is Harrell's C; on the host, all pairs at once.

  >>> parts = concordance_parts(np.array([2.0, 1.0, 3.0]), np.array([1, 2, 3]), np.array([1, 1, 0]))
  >>> round(float(parts.mean()), 4)  # of the pairs 1-2, 1-3 and 2-3 the first is right
  0.3333

  Args:
    risk: higher for an earlier event.
    time: of the event, or of the last visit without one.
    event: 1 or True if it was seen.
    strata: group of each person, such as the hospital; only pairs within one are compared. None:
      all pairs.
  Raises:
    InputError: arrays of different lengths, a risk or a time that is not finite, or no pair that
      can be compared.
  """
  shape = np.shape(risk)
  for name, values in {"time": time, "event": event, "strata": strata}.items():
    if values is not None:
      check.same_shape(name, np.shape(values), "risk", shape)
  risk, time = np.asarray(risk, np.float64), np.asarray(time, np.float64)
  is_seen = np.asarray(event) > 0
  check.require(
    np.isfinite(risk).all() and np.isfinite(time).all(),
    "finite risks and times",
    "one that is not",
    "leave the person out, or look at the training",
  )
  earlier = time[:, None] < time[None]
  ended = (time[:, None] == time[None]) & ~is_seen[None]
  first = is_seen[:, None] & (earlier | ended)  # [i, j]: i had the event before j
  if strata is not None:
    first &= np.asarray(strata)[:, None] == np.asarray(strata)[None]
  check.require(
    first.any(), "two people of whom one had the event first", "none", "look at more people"
  )
  won = first * (0.5 + 0.5 * np.sign(risk[:, None] - risk[None]))
  index = won.sum() / first.sum()
  own_won, own_pairs = won.sum(0) + won.sum(1), first.sum(0) + first.sum(1)
  return index + len(risk) / first.sum() * (own_won - index * own_pairs)


def concordance(
  risk: Float[np.ndarray, " n"],
  time: Float[np.ndarray, " n"] | Integer[np.ndarray, " n"],
  event: Bool[np.ndarray, " n"] | Integer[np.ndarray, " n"],
  *,
  strata: np.ndarray | None = None,
) -> float:
  """Harrell's C in [0, 1], .5 for risks that say nothing; see `concordance_parts`."""
  return float(concordance_parts(risk, time, event, strata=strata).mean())
