"""Questions that are written down before the run, and their verdicts: paired, against a margin.

A question holds some arms against a reference. Its verdicts come from `metrics.compare`:
differences are paired place by place (the same seed, the same person), a hierarchical bootstrap
over all levels gives their intervals, and Holm's procedure corrects for the number of arms of the
question. The words of a verdict are derived from its row, so that no page claims more than its
table shows.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax import check, metrics
from medjax.study.tables import DISTANCES, ResultRow, tables
from medjax.types import Json

EQUAL = 1.05
"""Costs within this factor of each other count as equal compute."""
Expected = Literal["better", "worse", "equivalent", "open"]


class Question(NamedTuple):
  """A planned comparison of one or more arms with a reference.

  Attributes:
    text: what is asked, for the page.
    reference: the arm that the others are held against.
    arms: these; those that were not trained are left out, and without any the question is not
      asked.
    metric, role: which figures of the rows answer it.
    expects: what the paper says of the arms: "better", "worse", "equivalent"; "open" where it says
      nothing. It changes no verdict; the table of claims reads it.
    spread: level -> standard deviation that the paired differences are assumed to have over its
      members, for the planned power; () where nothing is assumed.
  """

  text: str
  reference: str
  arms: tuple[str, ...]
  metric: str
  role: str = "test"
  expects: Expected = "better"
  spread: tuple[tuple[str, float], ...] = ()


def ask(
  questions: Iterable[Question],
  rows: Sequence[ResultRow],
  *,
  margin: float,
  levels: Sequence[str] = ("seed", "subject"),
  costs: Mapping[str, float] | None = None,
) -> list[dict[str, Json]]:
  """Verdicts as rows for results.json: the question's own fields, then those of `Comparison`.

  Args:
    questions: that were planned.
    rows: rows of cases, see `tables`.
    margin: that a difference has to exceed, fixed before the run.
    levels: axes of the design.
    costs: arm -> operations of its whole training. Each row then has "compute", the arm's cost over
      the reference's, and "is_equal_compute": a gain at more than `EQUAL` times the compute is one
      at equal updates only, and `sentence` says so.
  Returns:
    One row a question and arm, in the order of the questions.
  """
  found = []
  for question in questions:
    asked = _scores(question, rows, levels)
    if not asked:
      continue
    about = {
      "question": question.text,
      "metric": question.metric,
      "role": question.role,
      "expects": question.expects,
    }
    compared = metrics.compare(
      asked,
      reference=question.reference,
      margin=margin,
      levels=levels,
      lower_is_better=question.metric in DISTANCES,
    )
    for arm, row in compared.items():
      found.append({**about, **_compute(costs, arm, question.reference), **row._asdict()})
  return found


def not_asked(questions: Iterable[Question], answered: Iterable[ResultRow]) -> list[str]:
  """Texts of the questions that no row answers, since their arms were not trained."""
  texts = {row["question"] for row in answered}
  return [question.text for question in questions if question.text not in texts]


def ask_each(
  arm: str,
  references: Sequence[str],
  scores: Mapping[str, np.ndarray],
  *,
  margin: float,
  levels: Sequence[str] = ("seed", "subject"),
  **about: Any,
) -> list[dict[str, Json]]:
  """One arm against each of several references, Holm over them: is it better than the best?

  Only where every row is "better" does the arm beat the best of the references.

  Args:
    arm: the arm that is held against the others.
    references: these; those without scores are left out.
    scores: arm -> array with an axis a level, the same places in every arm.
    margin, levels: as for `ask`.
    about: goes in front of each row.
  Returns:
    A row a reference, {**about, fields of Comparison}, without the means, which are those of gains.
  """
  gains = {other: scores[arm] - scores[other] for other in references if other in scores}
  if not gains:
    return []
  compared = metrics.compare(
    {**gains, "nothing": np.zeros_like(scores[arm])},
    reference="nothing",
    margin=margin,
    levels=levels,
  )
  rows = []
  for other, comparison in compared.items():
    row = comparison._asdict() | {"arm": arm, "reference": other}
    del row["mean"], row["reference_mean"]
    rows.append({**about, **row})
  return rows


def against(
  reference: str,
  columns: Mapping[str, Mapping[str, np.ndarray]],
  *,
  margin: float,
  costs: Mapping[str, float] | None = None,
  levels: Sequence[str] = ("seed", "subject"),
  equal: str = "equal updates",
) -> list[dict[str, Json]]:
  """`metrics.comparison_table` of every arm against one, with both columns of a fair comparison.

  Args:
    reference: arm that the others are held against.
    columns: name -> arm -> array. With costs the names end in `equal`; a column of the arms that
      cost what the reference costs, to 5 %, follows as "equal compute".
    margin, levels: as for `ask`.
    costs: arm -> operations of its training, or of an update where all make equal numbers of them.
    equal: what all arms have in common by design.
  Returns:
    Rows; [] for columns without the reference or without another arm.
  """
  shown: dict[str, Mapping[str, np.ndarray]] = {}
  for name, own in columns.items():
    if reference not in own or len(own) < 2:
      continue
    front = f"{name}, " if name else ""
    shown[f"{front}{equal}" if costs else name] = own
    if costs:
      near = {arm: own[arm] for arm in own if is_equal(costs[arm], costs[reference])}
      if len(near) > 1:
        shown[f"{front}equal compute"] = near
  if not shown:
    return []
  return metrics.comparison_table(shown, reference=reference, margin=margin, levels=levels)


def is_equal(cost: float, other: float) -> bool:
  """Whether two costs differ by 5 % or less; unknown costs (NaN) are never equal.

  >>> is_equal(1.05, 1.0), is_equal(1.0, 1.06), is_equal(float("nan"), 1.0)
  (True, False, False)
  """
  return max(cost, other) <= EQUAL * min(cost, other)


def sentence(row: ResultRow, what: str = "") -> str:
  """A verdict in the words that its row allows.

  >>> row = dict(arm="ours", reference="plain", verdict="better", equivalent=False, margin=0.01,
  ...            difference=0.03, adjusted_low=0.02, adjusted_high=0.04, note="", compute=1.66)
  >>> sentence(row, "Dice")
  'ours beats plain by more than 0.01 (Dice +0.030, +0.020 to +0.040; at 1.66 of its compute).'

  Args:
    row: of `ask`, `ask_each` or `against`.
    what: name of the score.
  """
  margin, other = f"{row['margin']:g}", row["reference"]
  undecided = "is not told apart from " + other
  if row["equivalent"]:
    undecided = f"is equivalent to {other} within {margin}"
  said = {
    "better": f"beats {other} by more than {margin}",
    "worse": f"is worse than {other} by more than {margin}",
    "undecided": undecided,
  }[row["verdict"]]
  remarks = [f"{row['adjusted_low']:+.3f} to {row['adjusted_high']:+.3f}"]
  remarks += [row["note"]] if row.get("note") else []
  ratio = row.get("compute")
  if ratio is not None and not is_equal(ratio, 1.0):
    remarks.append(f"at {ratio:.2f} of its compute" if ratio == ratio else "compute unknown")
  what = f"{what} " if what else ""
  return f"{row['arm']} {said} ({what}{row['difference']:+.3f}, {'; '.join(remarks)})."


def _scores(
  question: Question, rows: Sequence[ResultRow], levels: Sequence[str]
) -> dict[str, Json]:
  """Arrays of the question's arms that were trained; {} unless there is something to compare."""
  wanted = (question.reference, *question.arms)
  check.require(
    len(set(wanted)) == len(wanted),
    f"different arms in the question {question.text!r}",
    f"{wanted}",
    "hold an arm against another one",
  )
  kept = [row for row in rows if row["role"] == question.role and row["arm"] in wanted]
  trained = {row["arm"] for row in kept}
  if question.reference not in trained or len(trained) < 2:
    return {}
  found = tables(kept, question.metric, levels=levels)
  return {arm: found[arm] for arm in wanted if arm in found}


def _compute(costs: Mapping[str, float] | None, arm: str, reference: str) -> dict[str, Json]:
  if costs is None:
    return {}
  ratio = costs[arm] / costs[reference]
  return {"compute": ratio, "is_equal_compute": is_equal(ratio, 1.0)}
