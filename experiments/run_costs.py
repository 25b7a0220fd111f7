"""How many trainings of each recorded study fit an hour of the machine that made the record.

`python -m experiments claims` writes the table below its claims. It is read from the records, where
each training left its time: `hours` without compilation and evaluation, `seconds_to_first_step`
with the compilation, `seconds_evaluating`.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from medjax import files
from medjax.train import Report


class RunCost(NamedTuple):
  """What the trainings of a record took.

  Attributes:
    record: file name without its ending.
    preset: of the study.
    trainings: how many left their times.
    minutes: of all of them together, compilation and evaluation included.
    compiling: share of these minutes that passed before the first steps were done.
    an_hour: trainings an hour.
    device: kind of device that made the record.
  """

  record: str
  preset: str
  trainings: int
  minutes: float
  compiling: float
  an_hour: float
  device: str


def costs(folder: pathlib.Path) -> list[RunCost]:
  """One row a record whose trainings left their times, by name of the record."""
  found = [cost_of(path.stem, files.read_json(path)) for path in sorted(folder.glob("*.json"))]
  return [one for one in found if one is not None]


def cost_of(name: str, record: dict[str, Any]) -> RunCost | None:
  """The row of a record; None where no training left its times.

  >>> timing = {"hours": 0.5, "seconds_to_first_step": 60.0, "seconds_evaluating": 540.0}
  >>> one = cost_of("toy", {"preset": "demo", "timing": {"ours-0": timing, "ours-1": timing}})
  >>> one.trainings, one.minutes, one.compiling, one.an_hour
  (2, 80.0, 0.025, 1.5)
  """
  kept = [_seconds(value) for value in record.get("timing", {}).values()]
  parts = [part for part in kept if part is not None]
  seconds = sum(first + rest for first, rest in parts)
  if not seconds:
    return None
  compiling = sum(first for first, _ in parts) / seconds
  preset, device = str(record.get("preset", "")), record.get("devices", {}).get("kind", "")
  an_hour = 3600 * len(parts) / seconds
  return RunCost(name, preset, len(parts), seconds / 60, compiling, an_hour, str(device))


def _seconds(timing: Any) -> tuple[float, float] | None:
  """Seconds until the first step, and of all that follows; None of what is not a whole training."""
  names = ("seconds_to_first_step", "hours", "seconds_evaluating")
  if not isinstance(timing, dict) or not all(name in timing for name in names):
    return None
  first, hours, evaluating = (timing[name] for name in names)
  # A training that was found finished in its directory says None.
  if any(value is None or not math.isfinite(value) for value in (first, hours, evaluating)):
    return None
  return float(first), 3600 * float(hours) + float(evaluating)


_HEADER = ["record", "preset", "trainings", "minutes", "before the first step", "trainings an hour",
           "device"]  # fmt: skip
_EXPLAINED = (
  "Trainings of a record that left their times, compilation and evaluation included; most records"
  " were made beside other work. What a study does besides (data, answers, scores) is not in it."
)


def markdown(found: Sequence[RunCost]) -> str:
  """The table as Markdown."""
  lines = ["# What the trainings of the records took", "", _EXPLAINED, ""]
  lines += [f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
  for one in found:
    numbers = f"{one.trainings} | {one.minutes:.1f} | {one.compiling:.0%} | {one.an_hour:.0f}"
    lines.append(f"| {one.record} | {one.preset} | {numbers} | {one.device} |")
  return "\n".join(lines) + "\n"


def section(report: Report, found: Sequence[RunCost]) -> Report:
  """The table as a section of a page."""
  report.section("What the trainings took", _EXPLAINED)
  return report.table(_HEADER, [list(one) for one in found])
