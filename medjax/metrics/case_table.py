"""The table behind every mean: one row a case, as CSV that any program reads.

A row is a dict. Keys with a slash, such as "dice/left ventricle", are figures (metric/class);
"fold" and "seed" are whole numbers; all others, such as "arm", "case", "subject" and "domain", are
text.
"""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import check, files, tables
from medjax.types import Json

_WHOLE = ("fold", "seed")
_OVERLAP = ("dice", "jaccard", "surface_dice")  # 0 where a structure is missed


def write_cases(path: str | os.PathLike, rows: Sequence[Mapping[str, Json]]) -> None:
  """Writes rows as UTF-8 CSV, the file whole or not at all; floats read back exactly.

  Raises:
    InputError: no rows, or rows with other columns than the first.
  """
  check.require(rows, "at least one case", "none", "write the table after scoring")
  columns = list(rows[0])
  for row in rows:
    check.require(
      list(row) == columns,
      f"columns {', '.join(columns)} in every row",
      f"{', '.join(row)}",
      "give every case the same figures, NaN where one does not exist",
    )
  text = io.StringIO()
  table = csv.writer(text, lineterminator="\n")
  table.writerow(columns)
  table.writerows([_text(name, row[name]) for name in columns] for row in rows)
  files.write_text(path, text.getvalue())


def read_cases(path: str | os.PathLike) -> list[dict[str, Json]]:
  """What `write_cases` wrote; raises InputError naming the file and the line."""
  rows = []
  for row in tables.read_table(path):
    try:
      rows.append({column: _value(column, text) for column, text in row.cells.items()})
    except ValueError as error:
      raise check.InputError(
        f"a case in {row.where}", f"an error ({error})", "write it again"
      ) from error
  return rows


def summary(
  rows: Iterable[Mapping[str, Json]], *, by: Sequence[str] = (), over: str | None = None
) -> list[dict[str, Json]]:
  """Mean and spread of every figure, a row each, in the order of the cases.

  Args:
    rows: cases.
    by: columns that part the cases, e.g. ("arm",) or ("arm", "domain").
    over: column whose members are averaged first, e.g. "fold"; mean and std are then of its means.
  Returns:
    Dicts with the columns of `by` and
      metric: the figure's column;
      mean, std: over cases (or over `over`), std with n - 1; NaN where there are too few;
      used: finite values in the mean; absent: NaN, the structure is in neither map;
      missed: cases where that class has an overlap of 0, or, without an overlap column, inf.
  """
  groups: dict[tuple, list[Mapping[str, Json]]] = {}
  for row in rows:
    groups.setdefault(tuple(row[name] for name in by), []).append(row)
  found = []
  for group, members in groups.items():
    for metric in (name for name in members[0] if "/" in name):
      values = np.array([row[metric] for row in members], np.float64)
      finite = np.isfinite(values)
      means = values[finite]
      if over is not None:
        units = np.array([row[over] for row in members])[finite]
        means = [means[units == unit].mean() for unit in np.unique(units)]
      found.append(
        dict(zip(by, group, strict=True))
        | {
          "metric": metric,
          "mean": float(np.mean(means)) if len(means) else math.nan,
          "std": float(np.std(means, ddof=1)) if len(means) > 1 else math.nan,
          "used": int(finite.sum()),
          "absent": int(np.isnan(values).sum()),
          "missed": _missed(members, metric),
        }
      )
  return found


def score_array(
  rows: Iterable[Mapping[str, Json]], metric: str, *, levels: Sequence[str] = ("seed", "subject")
) -> np.ndarray:
  """One arm's figures as an array for `compare`, one axis a level, members in sorted order.

  Several cases in one place (of one person and seed) are averaged; the fold does not matter.

  Raises:
    InputError: a place without a case, since arms are compared on the same cases.
  """
  rows = list(rows)
  members = [sorted({row[level] for row in rows}) for level in levels]
  total, count = np.zeros([len(m) for m in members]), np.zeros([len(m) for m in members])
  for row in rows:
    place = tuple(m.index(row[level]) for level, m in zip(levels, members, strict=True))
    total[place] += row[metric]
    count[place] += 1
  if not count.all():
    place = zip(levels, members, np.argwhere(count == 0)[0], strict=True)
    named = ", ".join(f"{level} {names[i]}" for level, names, i in place)
    raise check.InputError("a case in every place", f"none for {named}", "score it too")
  return total / count


def _missed(rows: Sequence[Mapping[str, Json]], metric: str) -> int:
  structure = metric.partition("/")[2]
  for name in (f"{overlap}/{structure}" for overlap in _OVERLAP):
    if name in rows[0]:
      return sum(row[name] == 0 for row in rows)
  return sum(row[metric] == math.inf for row in rows)


def _text(name: str, value: Json) -> str:
  return repr(float(value)) if "/" in name else str(value)


def _value(name: str, text: str) -> Any:
  if "/" in name:
    return float(text)
  return int(text) if name in _WHOLE else text
