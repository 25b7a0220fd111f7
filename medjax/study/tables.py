"""Rows of cases become arrays with one axis a level: one place, one person, in every arm.

A row is a dict as `metrics.case_table` writes it. Its figures stand under "metric/structure"; the
score of a case is their mean. Verdicts pair arms place by place, so an array whose axes were in
another order, or that lacks a person, would compare different people without a sign of it. Members
of each level are therefore collected over all arms and sorted, and an arm without a case in some
place is refused.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import check, metrics
from medjax.types import Json

ResultRow = Mapping[str, Json]
DISTANCES = ("hausdorff", "hd95_pooled", "hd95_max_directed", "hd95_surfel", "assd", "rmse", "nmse")
DISTANCES += ("noc80", "noc85", "noc90")  # clicks until an overlap is reached
"""Metrics of which less is better; 0 is right."""
_OVERLAPS = ("dice", "soft_dice", "jaccard", "surface_dice", "surface_dice_voxel")
_OVERLAPS += ("surface_dice_surfel",)


def mean(row: ResultRow, metric: str) -> float:
  """The score of a case: the mean over the structures that are in truth or prediction.

  A case without any structure in either map counts as right, with an overlap of 1 or a distance of
  0: nothing was there and nothing was found. Of other metrics it is NaN, which no verdict takes.

  >>> mean({"dice/liver": 0.5, "dice/spleen": 1.0, "dice/tumour": math.nan}, "dice")
  0.75
  >>> mean({"dice/tumour": math.nan}, "dice"), mean({"assd/tumour": math.nan}, "assd")
  (1.0, 0.0)

  Raises:
    InputError: a row without that metric, or an infinite figure, which a mean over the others would
      hide: a missed structure would make a distance better.
  """
  values = [value for name, value in row.items() if name.startswith(f"{metric}/")]
  check.require(
    values,
    f"figures {metric}/... in every row",
    f"a row with {', '.join(name for name in row if '/' in name) or 'no figure'}",
    "score the cases by that metric, or ask for another",
  )
  check.require(
    not any(map(math.isinf, values)),
    f"finite figures {metric}/...",
    "an infinite one",
    "score missed structures with empty='diagonal'",
  )
  found = [value for value in values if not math.isnan(value)]
  if found:
    return float(np.mean(found))
  if metric in DISTANCES:
    return 0.0
  return 1.0 if metric in _OVERLAPS else math.nan


def tables(
  rows: Iterable[ResultRow],
  metric: str,
  *,
  levels: Sequence[str] = ("seed", "subject"),
  by: str = "arm",
  **where: Any,
) -> dict[str, np.ndarray]:
  """Arrays of scores for `metrics.compare`, one for each arm, of the rows with the entries `where`.

  >>> rows = [{"arm": a, "seed": 0, "subject": s, "role": "unseen", "dice/liver": d}
  ...         for a, s, d in (("u", "p", 0.5), ("u", "q", 1.0), ("v", "q", 0.9), ("v", "p", 0.7))]
  >>> {arm: table.tolist() for arm, table in tables(rows, "dice", role="unseen").items()}
  {'u': [[0.5, 1.0]], 'v': [[0.7, 0.9]]}

  Args:
    rows: rows of all arms, in any order.
    metric: whose figures "metric/structure" are averaged in each case, see `mean`.
    levels: columns, one axis each. Members stand sorted, numbers before words; those of a level are
      the same in every arm. The cases of one place (a person's scans) are averaged.
    by: column that tells the arms.
    where: further columns and the value that the rows must have there.
  Returns:
    Arm -> array; {} if no row is asked for. Arms stand in order of appearance.
  Raises:
    InputError: an arm without a case in some place: arms are compared on the same cases.
  """
  cells: dict[str, dict[tuple[Hashable, ...], list[float]]] = {}
  for row in rows:
    if all(row[name] == value for name, value in where.items()):
      place = tuple(row[level] for level in levels)
      cells.setdefault(row[by], {}).setdefault(place, []).append(mean(row, metric))
  places = {place for own in cells.values() for place in own}
  members = [sorted({place[i] for place in places}, key=_order) for i in range(len(levels))]
  found = {}
  for arm, own in cells.items():
    table = np.full([len(names) for names in members], np.nan)
    is_filled = np.zeros(table.shape, bool)
    for place, values in own.items():
      cell = tuple(names.index(name) for names, name in zip(members, place, strict=True))
      table[cell], is_filled[cell] = np.mean(values), True
    if not is_filled.all():
      first = np.argwhere(~is_filled)[0]
      named = zip(levels, members, first, strict=True)
      raise check.InputError(
        f"a case for every {' and '.join(levels)} in every arm",
        f"none of {arm} for {', '.join(f'{level} {names[i]}' for level, names, i in named)}",
        "score the same cases in every arm and seed",
      )
    found[arm] = table
  return found


def table(
  rows: Iterable[ResultRow], metric: str, *, levels: Sequence[str] = ("seed", "subject")
) -> np.ndarray:
  """One arm's array, see `tables`; all rows are taken to be of that arm."""
  found = tables(({**row, "arm": ""} for row in rows), metric, levels=levels)
  return found[""] if found else np.zeros((0,) * len(levels))


def interval(
  scores: np.ndarray, *, levels: Sequence[str] = ("seed", "subject")
) -> dict[str, float]:
  """{"mean", "low", "high"}: a mean with its 95 % interval over all levels."""
  found = metrics.mean_interval(scores, levels=levels)
  return {"mean": found.mean, "low": found.low, "high": found.high}


def _order(member: Any) -> tuple[bool, Any]:
  return isinstance(member, str), member
