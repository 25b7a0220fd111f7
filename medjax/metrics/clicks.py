"""How many clicks an interactive segmenter needs: NoC, the protocol of Xu et al. (2016).

NoC@85 is the number of the first click after which the intersection over union is .85 or more; an
object that never gets there counts with all clicks that were allowed, and is a failure (NoF@85).
"""

from typing import NamedTuple

import numpy as np

from medjax import check


class ClicksNeeded(NamedTuple):
  """Of each object.

  Attributes:
    number: [*objects] int, from 1 to the number of clicks that were allowed.
    failed: [*objects] bool, the target was not reached.
  """

  number: np.ndarray
  failed: np.ndarray


def clicks_needed(overlap: np.ndarray, target: float | int) -> ClicksNeeded:
  """The first click whose overlap reaches a target; on the host.

  >>> clicks_needed(np.array([[0.5, 0.9, 0.8], [0.2, 0.4, 0.6]]), 0.85)
  ClicksNeeded(number=array([2, 3]), failed=array([False,  True]))

  Args:
    overlap: [*objects, click] intersection over union after each click.
    target: in [0, 1].
  Raises:
    InputError: no click, an overlap or a target outside [0, 1], NaN included.
  """
  check.in_interval("target", target, 0, 1)
  overlap = np.asarray(overlap)
  check.require(
    overlap.ndim and overlap.shape[-1] and ((overlap >= 0) & (overlap <= 1)).all(),
    "overlaps in [0, 1] after one click or more",
    f"shape {overlap.shape}, or values outside",
    "leave objects without a pixel out",
  )
  reached = overlap >= target
  failed = ~reached.any(-1)
  number = np.where(failed, overlap.shape[-1], reached.argmax(-1) + 1)
  return ClicksNeeded(number, np.asarray(failed))
