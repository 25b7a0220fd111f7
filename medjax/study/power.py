"""Planned power: the smallest difference that a run could find, told before anything is trained.

A question is not worth asking where so few seeds and people could never answer it. The figure rests
on an assumption that a Question states: the spread of the paired differences over the members of
each level, such as seeds and people. A table with differences of exactly that spread is handed to
`metrics.compare`, so that the planned figure and the one found after the run are one quantity.
"""

import statistics
from collections.abc import Iterable, Mapping

import numpy as np

from medjax import check, metrics
from medjax.study.questions import Question
from medjax.types import Json


def smallest_detectable(
  members: Mapping[str, int],
  spread: Mapping[str, float],
  *,
  margin: float,
  num_arms: int = 1,
) -> float:
  """True difference that such a design would call "better" four times in five.

  >>> few = smallest_detectable({"seed": 3, "subject": 20}, {"subject": 0.05}, margin=0.01)
  >>> many = smallest_detectable({"seed": 3, "subject": 80}, {"subject": 0.05}, margin=0.01)
  >>> 0.01 < many < few
  True

  Args:
    members: level -> number of its members, e.g. {"seed": 3, "subject": 20}.
    spread: level -> standard deviation of the paired differences over its members; a level that is
      left out is taken to add nothing.
    margin: that a difference has to exceed.
    num_arms: arms of the question; Holm's procedure tests the first at 5 % / num_arms.
  Raises:
    InputError: a spread of an unknown level, a negative one, or no level with two members.
  """
  for level, value in spread.items():
    check.one_of("level of spread", level, members)
    check.non_negative(f"spread over {level}", value)
  check.positive("num_arms", num_arms)
  check.require(
    any(number > 1 for number in members.values()),
    "a level with two members or more",
    f"{dict(members)}",
    "with one seed and one person no spread can be found",
  )
  table = np.zeros(tuple(members.values()))
  for axis, (level, number) in enumerate(members.items()):
    if number > 1 and spread.get(level):
      # Quantiles of the normal law stand for its draws, moved to exactly the spread assumed.
      quantile = statistics.NormalDist().inv_cdf
      scores = np.array([quantile((i + 0.5) / number) for i in range(number)])
      scores *= spread[level] / scores.std(ddof=1)
      shape = [number if i == axis else 1 for i in range(table.ndim)]
      table = table + scores.reshape(shape)
  arms = {str(i): table for i in range(num_arms)}
  found = metrics.compare(
    {"reference": np.zeros_like(table), **arms},
    reference="reference",
    margin=margin,
    levels=tuple(members),
  )
  return found["0"].smallest_detectable


def planned(
  questions: Iterable[Question],
  members: Mapping[str, Mapping[str, int]],
  arms: Iterable[str],
  *,
  margin: float,
) -> list[dict[str, Json]]:
  """The smallest detectable difference of every question that assumes a spread.

  Args:
    questions: that were planned.
    members: role -> level -> number of members, of the design that is about to run.
    arms: that will be trained; questions without two of theirs are left out.
    margin: of the study.
  Returns:
    Rows with question, metric, role, members and planned_detectable; print them before the run.
  """
  trained, rows = set(arms), []
  for question in questions:
    own = [arm for arm in question.arms if arm in trained]
    if not question.spread or not own or question.reference not in trained:
      continue
    design = members[question.role]
    found = smallest_detectable(design, dict(question.spread), margin=margin, num_arms=len(own))
    about = {"question": question.text, "metric": question.metric, "role": question.role}
    rows.append({**about, "members": dict(design), "planned_detectable": found})
  return rows


def announce(rows: Iterable[Mapping[str, Json]]) -> None:
  """Prints the planned power, a line a question."""
  for row in rows:
    counts = ", ".join(f"{number} {level}s" for level, number in row["members"].items())
    found = f"{row['planned_detectable']:.3f} of {row['metric']} with {counts}"
    print(f"planned: {row['question']} Would find a difference of {found}.", flush=True)
