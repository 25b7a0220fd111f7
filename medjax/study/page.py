"""Sections that the pages of studies share: scores, verdicts, curves, costs, pictures.

`start` opens a page, a `train.Report`; the other functions add a section to it and return nothing.
Their sentences are derived from the rows that they stand beside: a page without a column of equal
compute does not speak of one.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medjax import metrics
from medjax.study.arms import Arm
from medjax.study.jobs import Trained
from medjax.study.questions import EQUAL, is_equal, sentence
from medjax.study.results import mean_of_curves
from medjax.study.scores import ShownPlane
from medjax.study.tables import DISTANCES, ResultRow
from medjax.train.report import Report
from medjax.types import Json

NAMES = {
  "dice": "Dice",
  "slice_dice": "Dice in slices",
  "jaccard": "Jaccard",
  "surface_dice": "surface Dice",
  "surface_dice_voxel": "surface Dice",
  "hausdorff": "HD, mm",
  "assd": "ASSD, mm",
  "accuracy": "accuracy",
  "balanced": "balanced accuracy",
  "auroc": "AUROC",
  "sensitivity": "sensitivity",
  "specificity": "specificity",
  "by_area": "attention in the box by area",
}
"""Metrics as pages write them; a metric that is not here keeps its own name."""


RANGES = {
  **dict.fromkeys((*NAMES, "seen", "focus", "recovered"), (0.0, 1.0)),
  **dict.fromkeys((*DISTANCES, "nearest", "angle", "in_box"), (0.0, np.inf)),
}
"""Least and largest value of each of these metrics."""


def name_of(metric: str) -> str:
  """A metric as pages write it."""
  return NAMES.get(metric, metric)


def start(title: str, found: Mapping[str, Json], lead: str = "") -> Report:
  """A page of the common schema: who was tested, what could be detected, then every answer."""
  cases, people = (
    ", ".join(f"{number:,} ({role})" for role, number in found[key].items())
    for key in ("test_cases", "test_people")
  )
  counts = f"Test cases: {cases}; people: {people}."
  said = " ".join([part for part in (lead, counts) if part] + detectable(found["questions"]))
  return Report(title, said).section("Answers").items(answers(found["questions"]))


def detectable(rows: Sequence[ResultRow]) -> list[str]:
  """One sentence: the smallest differences that the design could have found, over its questions."""
  if not rows:
    return []
  found = [row["smallest_detectable"] for row in rows]
  least, most = f"{min(found):.3f}", f"{max(found):.3f}"
  span = least if least == most else f"{least} to {most}"
  return [f"Smallest detectable differences: {span}, against a margin of {rows[0]['margin']:g}."]


def answers(rows: Sequence[ResultRow]) -> list[str]:
  """A text for each question and role: what was asked, and the sentence of each of its verdicts.

  The role is not said of a question that has it in brackets, nor where it is "test".
  """
  said: dict[tuple[str, str], list[str]] = {}
  for row in rows:
    own = said.setdefault((row["question"], row["role"]), [])
    own.append(sentence(row, name_of(row["metric"])))
  return [
    " ".join(
      [question, *([] if role == "test" or f"({role})" in question else [f"({role})"]), *own]
    )
    for (question, role), own in said.items()
  ] or ["No planned comparison among these arms."]


def scores(
  report: Report,
  found: Mapping[str, Json],
  arms: Mapping[str, Arm],
  *,
  title: str = "Scores",
  text: str = "",
) -> None:
  """A line an arm: its meaning, every role and metric with its interval, operations over the least.

  The interval of a mean of few people may reach beyond what its score can be (a Dice below 0). The
  true mean cannot, so the page shows the part that lies within `RANGES`, which holds the true mean
  as often as the whole, and says that it was cut. An arm that has no figure of a metric has NaN
  there. `found` and results.json keep the whole.

  Args:
    report: the page.
    found: results of the common schema.
    arms: the study's table.
    title: of the section.
    text: in front of the table; empty lines part it.
  """
  own = found["arms"]
  columns = [
    (role, metric)
    for role in found["test_cases"]
    for metric in dict.fromkeys(name for values in own.values() for name in values.get(role, {}))
  ]
  unknown = dict.fromkeys(("mean", "low", "high"), np.nan)
  figures = {
    (arm, role, metric): values.get(role, {}).get(metric, unknown)
    for arm, values in own.items()
    for role, metric in columns
  }
  costs = {arm: values.get("flops_an_update", np.nan) for arm, values in own.items()}
  least = np.nanmin([*costs.values(), np.inf])
  header = ["arm", "what it is"]
  header += [f"{role}: {name_of(metric)}" for role, metric in columns]
  shown = {
    (arm, role, metric): _within(metric, whole) for (arm, role, metric), whole in figures.items()
  }
  is_cut = any(
    cut[k] != whole and np.isfinite(whole)
    for place, cut in shown.items()
    for k, whole in enumerate(_triple(figures[place]))
  )
  report.section(title, text)
  report.table(
    [*header, "flops"],
    [
      [
        arm,
        arms[arm].meaning if arm in arms else "",
        *(_span(shown[arm, role, metric]) for role, metric in columns),
        costs[arm] / least,
      ]
      for arm, values in own.items()
    ],
    f"Means, and in brackets 95 % intervals over {' and '.join(found['levels'])}; the cases of one"
    f" place are averaged first.{_CUT if is_cut else ''} flops: of an update, over the least.",
  )


_CUT = (
  " Intervals are cut where a score ends (no Dice is below 0 or above 1); results.json holds them"
  " whole."
)


def _span(figures: tuple[float, float, float]) -> str:
  """Mean and interval in one cell: a table of many roles stays as narrow as its columns are few."""
  mean, low, high = (f"{x:.3f}" if abs(x) < 100 else f"{x:.4g}" for x in figures)
  return "–" if np.isnan(figures[0]) else f"{mean} ({low} to {high})"


def _triple(figures: Mapping[str, float]) -> tuple[float, float, float]:
  return figures["mean"], figures["low"], figures["high"]


def _within(metric: str, figures: Mapping[str, float]) -> tuple[float, float, float]:
  """Mean, low and high, the last two moved to the nearest value that the score can have."""
  least, most = RANGES.get(metric, (-np.inf, np.inf))
  mean, low, high = _triple(figures)
  return mean, float(np.clip(low, least, most)), float(np.clip(high, least, most))


def verdicts(
  report: Report, rows: Sequence[ResultRow], *, not_asked: Sequence[str] = (), text: str = ""
) -> None:
  """The planned comparisons, a line each, and the questions that were not asked."""
  if not rows and not not_asked:
    return
  levels = " and ".join(rows[0]["members"]) if rows else ""
  said = (
    f"Paired differences by hierarchical bootstrap over {levels}, against a margin of"
    f" {rows[0]['margin']:g}; Holm within each question."
    if rows
    else ""
  )
  report.section("Planned comparisons", text or said)
  if not_asked:
    report.note("Not asked, since their arms were not trained: " + " ".join(not_asked))
  if not rows:
    return
  has_costs = any("compute" in row for row in rows)
  header = ["question", "role", "score", "smallest detectable", "arm", "against", "difference"]
  header += ["interval", "verdict", *(["compute"] if has_costs else [])]
  caption = "Smallest detectable: true difference that this design calls better 4 times in 5."
  if has_costs and not all(is_equal(row.get("compute", 1.0), 1.0) for row in rows):
    caption += (
      " compute: of the arm's training over the reference's; a gain above"
      f" {EQUAL:g} is one at equal updates, not at equal compute."
    )
  elif has_costs:
    caption += " All arms cost what their reference costs: equal updates are equal compute."
  report.table(
    header,
    [
      [
        row["question"],
        row["role"],
        name_of(row["metric"]),
        row["smallest_detectable"],
        row["arm"],
        row["reference"],
        row["difference"],
        f"[{row['adjusted_low']:+.4f}, {row['adjusted_high']:+.4f}]",
        remarks(row),
        *([row.get("compute")] if has_costs else []),
      ]
      for row in rows
    ],
    caption,
  )


def remarks(row: ResultRow) -> str:
  """A verdict and the remarks beside it, for example "undecided, equivalent"."""
  return ", ".join(filter(None, [row["verdict"], "equivalent" * row["equivalent"], row["note"]]))


def comparison(report: Report, rows: Sequence[ResultRow], reference: str) -> None:
  """Rows of `against`, with the sentence that says how they came about."""
  if not rows:
    return
  near = " Equal compute: a training costs the same to 5 %."
  is_told = any("equal compute" in row["column"] for row in rows)
  report.table(
    *metrics.comparison_cells(rows),
    f"Paired differences to {reference} by hierarchical bootstrap over"
    f" {' and '.join(rows[0]['members'])}, against a margin of {rows[0]['margin']:g}; Holm over the"
    f" arms of a column.{near if is_told else ''}",
  )


def curves(
  report: Report,
  trained: Mapping[str, Trained],
  labels: Mapping[str, str],
  *,
  xlabel: str = "step",
  caption: str = "",
) -> None:
  """A figure for each metric of the log rows (name -> label) that some training has."""
  for metric, label in labels.items():
    series = {name: one.curve(metric) for name, one in trained.items()}
    series = {name: curve for name, curve in series.items() if curve[0]}
    if series:
      report.curves(series, xlabel, label, caption=caption)


def conflicts(report: Report, trained: Mapping[str, Sequence[Trained]]) -> None:
  """How far the gradients of tasks disagree: `methods.multitask`'s report, a line an arm.

  Means over all log rows of all trainings of an arm; arms without such a report have no line.
  """
  kept = {arm: own for arm, own in trained.items() if own and own[0].curve("conflicting")[0]}
  if not kept:
    return
  history = [row for own in kept.values() for row in own[0].fit.history]
  pairs = list(dict.fromkeys(name for row in history for name in row if name.startswith("cosine/")))
  report.section(
    "Conflicts of gradients",
    "On the parameters that the tasks share, while training: a step conflicts if the gradients of"
    " two tasks point apart, a cosine below 0.",
  )
  names = ["conflicting", "lowest_cosine", "size_ratio", *pairs]
  report.table(
    [
      "arm",
      "conflicting steps, share",
      "lowest cosine",
      "shortest by longest gradient",
      *(f"cosine of {name.partition('/')[2].replace(' ', ' and ')}" for name in pairs),
    ],
    [[arm, *(mean_of_curves(own, name) for name in names)] for arm, own in kept.items()],
    "Means over the steps of all trainings.",
  )


def pictures(
  report: Report,
  by_arm: Mapping[str, Sequence[ShownPlane]],
  class_names: Sequence[str],
  *,
  title: str = "Arm by arm",
  text: str = "",
) -> None:
  """The same cases under each arm, a row of pictures an arm."""
  flat = [(arm, picture) for arm, own in by_arm.items() for picture in own]
  if not flat:
    return
  report.section(title, text or f"From top to bottom: {', '.join(by_arm)}.").overlay(
    [p.image for _, p in flat],
    [f"{arm}, {p.site or p.name}: {p.score:.3f}" for arm, p in flat],
    class_names=class_names,
    fills=[p.prediction for _, p in flat],
    outlines=[p.truth for _, p in flat],
    columns=max(len(own) for own in by_arm.values()),
    caption="Tint: prediction. Line: truth. Number: mean over structures.",
  )


def trainings(
  report: Report,
  found: Mapping[str, Json],
  trained: Mapping[str, Sequence[Trained]],
  labels: Mapping[str, str],
  *,
  xlabel: str = "step",
  caption: str = "First seed.",
) -> None:
  """Curves of the first training of each arm, then what the trainings of each arm cost."""
  first = {arm: own[0] for arm, own in trained.items() if own}
  curves(report, first, labels, xlabel=xlabel, caption=caption)
  unknown = float("nan")
  flops = {arm: own.get("flops_an_update", unknown) for arm, own in found["arms"].items()}
  costs(report, trained, flops)


def costs(
  report: Report,
  trained: Mapping[str, Sequence[Trained]],
  flops: Mapping[str, float] | None = None,
) -> None:
  """Hours, seconds and operations of the trainings of each kind."""
  report.section(
    "What it costs", "Means over seeds and turns. A resumed run shows the times of its last part."
  )
  report.table(
    ["training", "trainings", "updates", "hours", "seconds an update", "GFLOP an update"],
    [
      [
        name,
        len(parts),
        parts[0].num_updates,
        np.mean([one.hours for one in parts]),
        np.mean([one.seconds_an_update for one in parts]),
        (flops or {}).get(name, np.nan) / 1e9,
      ]
      for name, parts in trained.items()
      if parts
    ],
  )
