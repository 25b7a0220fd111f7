"""Scores of answers that get better click by click: rows of cases, and agreement with people.

Not a study: what `experiments.click_sam` makes of the intersection over union (IoU) after each
click. A session is one picture that one person, or a simulated one, has clicked on to the end.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import metrics

METRICS = ("noc80", "noc85", "noc90", "fail85", "fail90", "percent")
"""NoC@p is the number of clicks until an IoU of p percent; fail says that it was never reached."""
_SHOWN = 5  # clicks after which the IoU is told in percent


def rows(
  overlap: np.ndarray, subjects: Sequence[str], about: Mapping[str, Any], *, counts: bool
) -> list[dict[str, Any]]:
  """A row a session.

  >>> (row,) = rows(np.array([[[0.5, 0.82, 0.86]]]), ["ann"], {"arm": "ours"}, counts=True)
  >>> row["noc80/object"], row["noc85/object"], row["fail90/object"], row["percent/object"]
  (2.0, 3.0, 1.0, 86.0)

  Args:
    overlap: IoU [annotator, picture, click] in [0, 1].
    subjects: the person on each picture.
    about: entries of every row.
    counts: whether clicks are counted too; else there is the IoU in percent alone.
  """
  found = []
  for i, subject in enumerate(subjects):
    for annotator, own in enumerate(overlap[:, i]):
      figures = {"percent/object": 100 * float(own[min(_SHOWN, len(own)) - 1])}
      if counts:
        for percent in (80, 85, 90):
          needed = metrics.clicks_needed(own, percent / 100)
          figures[f"noc{percent}/object"] = float(needed.number)
          figures[f"fail{percent}/object"] = float(needed.failed)
      case = f"{i}" if len(overlap) == 1 else f"{i} of annotator {annotator}"
      found.append({**about, "case": case, "subject": subject, "domain": "", **figures})
  return found


def agreement(rows: Iterable[Mapping[str, Any]], one: str, other: str) -> dict[str, float]:
  """Arm -> correlation of the IoU in the roles `one` and `other`, session by session.

  Arms without two sessions in both roles are left out.
  """
  found: dict[str, dict[str, list[float]]] = {}
  for row in rows:
    found.setdefault(row["arm"], {}).setdefault(row["role"], []).append(row["percent/object"])
  both = {arm: (own[one], own[other]) for arm, own in found.items() if one in own}
  return {arm: float(np.corrcoef(*own)[0, 1]) for arm, own in both.items() if len(own[0]) > 1}
