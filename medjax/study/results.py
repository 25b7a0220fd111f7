"""What results.json holds in the common schema of studies, and the files that end every run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import check, train
from medjax.metrics import case_table
from medjax.study.jobs import Trained
from medjax.study.tables import ResultRow, interval, tables
from medjax.train.report import Report
from medjax.types import Json


def results(
  rows: Sequence[ResultRow],
  metrics: Sequence[str],
  *,
  questions: Sequence[ResultRow],
  planned: Sequence[ResultRow] = (),
  not_asked: Sequence[str] = (),
  flops: Mapping[str, float] | None = None,
  levels: Sequence[str] = ("seed", "subject"),
  **more: Any,
) -> dict[str, Json]:
  """The common schema: fixed keys, no times.

  Args:
    rows: rows of cases, of all arms and roles.
    metrics: that are tabled; an arm without any figure of one in a role (all are NaN) has no entry
      of it there.
    questions: verdicts, see `ask`.
    planned: see `power.planned`.
    not_asked: see `questions.not_asked`.
    flops: arm -> operations of an update.
    levels: axes of the design, the seed first where there is one.
    more: further keys of the study.
  Returns:
    test_cases and test_people: role -> number. levels: of the intervals. arms.<arm>:
    flops_an_update and <role>.<metric>.{mean, low, high (95 % interval over all levels), by_<first
    level>}. questions, planned, not_asked and `more` as they came.
  """
  roles = list(dict.fromkeys(row["role"] for row in rows))
  found: dict[str, dict[str, Json]] = {arm: {} for arm in dict.fromkeys(row["arm"] for row in rows)}
  for role in roles:
    for metric in metrics:
      for arm, scores in tables(rows, metric, levels=levels, role=role).items():
        if np.isnan(scores).all():
          continue
        by_first = scores.reshape(len(scores), -1).mean(-1).tolist()
        own = interval(scores, levels=levels) | {f"by_{levels[0]}": by_first}
        found[arm].setdefault(role, {})[metric] = own
  for arm, cost in (flops or {}).items():
    found[arm]["flops_an_update"] = cost
  return {
    "test_cases": {role: len({_case(r) for r in rows if r["role"] == role}) for role in roles},
    "test_people": {role: len({r["subject"] for r in rows if r["role"] == role}) for role in roles},
    "levels": list(levels),
    "arms": found,
    "questions": list(questions),
    "planned": list(planned),
    "not_asked": list(not_asked),
    **more,
  }


def check_arms_differ(rows: Sequence[ResultRow], metric: str, *, but: Iterable[str] = ()) -> None:
  """Refuses two arms with the same score in every case: one of them does nothing.

  A method that silently does nothing looks like a method that does not help; only its scores, equal
  to the last digit, give it away.

  Args:
    rows: rows of cases.
    metric: that is looked at.
    but: arms that may agree with others.
  Raises:
    InputError: naming the first two arms that agree.
  """
  columns = [name for name in ("role", "turn", "domain", "seed", "case") if name in rows[0]]
  own: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {}
  for row in rows:
    if row["arm"] not in but:
      values = tuple(v for name, v in row.items() if name.startswith(f"{metric}/"))
      own.setdefault(row["arm"], {})[tuple(row[name] for name in columns)] = values
  seen: dict[bytes, str] = {}
  for arm, cells in own.items():
    key = repr(sorted(cells.items(), key=repr)).encode()
    check.require(
      key not in seen,
      f"arms that differ in {metric}",
      f"{seen.get(key)} and {arm} equal in all {len(cells)} cases",
      "one of them does nothing: look at its Step",
    )
    seen[key] = arm


def finish(
  directory: train.RunDirectory,
  found: Mapping[str, Json],
  report: Report,
  *,
  trained: Iterable[Trained] | Mapping[str, Sequence[Trained]] = (),
  rows: Sequence[ResultRow] = (),
  times: Mapping[str, Json] | None = None,
) -> None:
  """Writes cases.csv, timing.json and report.html, then results.json, which ends the run.

  Args:
    directory: of the run.
    found: what results.json holds.
    report: the page; what ran is added to it.
    trained: trainings whose times are kept, under their names; those of each arm may stay apart.
    rows: rows of cases.csv; none of a private run, whose rows name people.
    times: what else timing.json holds.
  Raises:
    InputError: rows of a private run.
  """
  check.require(
    directory.private is None or not rows,
    "no rows of cases in a private run",
    f"{len(rows)}",
    "they name people; give figures over all of them",
  )
  if rows:
    case_table.write_cases(directory.path / "cases.csv", rows)
  apart = trained.values() if isinstance(trained, Mapping) else [trained]
  own = {
    one.name: {**one.fit.timing._asdict(), "hours": one.hours} for each in apart for one in each
  }
  directory.write_json("timing", {**own, **(times or {})})
  report.what_ran(directory.config).write(directory.path / "report.html")
  directory.write_json("results", found)


def mean_of_curves(trained: Sequence[Trained], metric: str) -> float:
  """Mean of a metric of the log rows over several trainings; NaN if none has it."""
  values = [value for one in trained for value in one.curve(metric)[1]]
  return float(np.mean(values)) if values else float("nan")


def _case(row: ResultRow) -> tuple[Any, ...]:
  return row.get("turn"), row["domain"], row["case"]
