"""Which arm is better: paired verdicts against a margin that was written down first.

Arms share seeds and subjects, so each arm is its table of differences to the reference, cell by
cell, and `bootstrap.mean_distribution` says where the true mean difference may lie. With D that
difference (positive: the arm is better), m the margin and a the level that Holm's procedure leaves
the arm, the (1 - a) interval of D decides:

  better     it lies above m           worse      it lies below -m
  undecided  neither                   equivalent it lies inside [-m, m] (a remark on "undecided")

So "better" says that the gain exceeds the margin, not merely zero. The p-value of an arm is the
smallest a at which it would not be undecided; Holm (Scandinavian Journal of Statistics 1979)
compares the smallest of K with alpha / K, the next with alpha / (K - 1), until one fails; that and
all later arms keep the level at which it stopped, so intervals and p-values always agree.

The smallest detectable difference is the true D that such a design calls better 4 times in 5: the
margin, half the arm's adjusted interval, and the 80 % quantile of its draws about their mean.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax import check
from medjax.metrics import bootstrap
from medjax.types import Json

POWER = 0.8
"""Of the smallest detectable difference."""


class Comparison(NamedTuple):
  """One arm beside the reference; `_asdict()` is ready for results.json.

  Attributes:
    arm, reference: their names.
    mean, reference_mean: over all levels, in the score's own direction.
    difference: by how much the arm is better; with `lower_is_better` reference - arm.
    low, high: its interval at 1 - alpha, this arm alone.
    adjusted_low, adjusted_high: at the level that Holm leaves it among the arms; they decide.
    standard_error: standard error of the difference.
    p_value, adjusted_p_value: of the verdict, alone and by Holm over the arms.
    verdict: "better", "worse" or "undecided", see the module.
    equivalent: whether the adjusted interval lies inside [-margin, margin].
    smallest_detectable: true difference that would be called better with probability .8.
    margin, alpha: the settings.
    members: number of members of each level, e.g. {"seed": 3, "subject": 20}.
    covers: levels with at least two members; the verdict knows nothing of the spread of the others.
    level_errors: what each level adds to the standard error, NaN for levels of one member.
    note: "" or what the reader must know beside the verdict.
  """

  arm: str
  reference: str
  mean: float
  reference_mean: float
  difference: float
  low: float
  high: float
  adjusted_low: float
  adjusted_high: float
  standard_error: float
  p_value: float
  adjusted_p_value: float
  verdict: Literal["better", "worse", "undecided"]
  equivalent: bool
  smallest_detectable: float
  margin: float
  alpha: float
  members: dict[str, int]
  covers: tuple[str, ...]
  level_errors: dict[str, float]
  note: str


def compare(
  scores: Mapping[str, Json],
  *,
  reference: str,
  margin: float | int = 0.01,
  lower_is_better: bool = False,
  levels: Sequence[str] = ("seed", "subject"),
  subjects: Sequence[Hashable] | np.ndarray | None = None,
  alpha: float = 0.05,
  resamples: int = 9999,
  seed: int = 0,
) -> dict[str, Comparison]:
  """Paired verdict of every arm but the reference, in the order of `scores`.

  >>> plain = [[0.70, 0.80, 0.75, 0.60], [0.71, 0.79, 0.76, 0.61], [0.70, 0.81, 0.75, 0.60]]
  >>> ours = [[0.80, 0.89, 0.86, 0.69], [0.81, 0.89, 0.86, 0.71], [0.79, 0.91, 0.85, 0.70]]
  >>> compare({"plain": plain, "ours": ours}, reference="plain")["ours"].verdict
  'better'

  Args:
    scores: arm -> array with one axis a level, all of one shape. Entry [s, i] of every arm is the
      same seed and the same subject. Seed s may have its own folds, as long as every subject is
      scored once a seed; if each seed (pair, order) tests other people, the subject axis holds
      places and the interaction carries them. Repeat an arm without seeds along that axis.
    reference: the arm that the others are held against; state claims against the strongest.
    margin: m >= 0 in units of the score, fixed before the run; 0.01 is one Dice point.
    lower_is_better: for distances and errors.
    levels: names of the axes; every level is resampled, e.g. ("order", "seed", "subject").
    subjects: person of each entry of the last axis; the cases of a person are averaged first.
    alpha: probability of any wrong verdict among the arms, in (0, 1).
    resamples: draws; with `seed` they fix the result.
  Raises:
    InputError: unknown reference, no other arm, shapes that differ, scores that are not finite (a
      NaN would compare different cases), settings out of range.
  """
  check.one_of("reference", reference, scores)
  check.require(len(scores) > 1, "an arm beside the reference", "none", "pass two arms or more")
  check.non_negative("margin", margin)
  margin = float(margin)
  tables = {
    arm: bootstrap.score_table(f"arm {arm!r}", table, levels=levels, subjects=subjects)
    for arm, table in scores.items()
  }
  for arm, table in tables.items():
    check.same_shape(f"arm {arm!r}", table.shape, f"arm {reference!r}", tables[reference].shape)
  arms = [arm for arm in tables if arm != reference]
  sign = -1.0 if lower_is_better else 1.0
  differences = np.stack([sign * (tables[arm] - tables[reference]) for arm in arms])
  found = bootstrap.mean_distribution(differences, resamples=resamples, seed=seed)
  above = [bootstrap.p_not_above(draws, margin) for draws in found.draws]
  below = [bootstrap.p_not_above(-draws, margin) for draws in found.draws]
  p_values = [min(1.0, 2 * min(pair)) for pair in zip(above, below, strict=True)]
  adjusted, left = holm(p_values, alpha)

  shape = tables[reference].shape
  members = dict(zip(levels, shape, strict=True))
  comparisons = {}
  for i, arm in enumerate(arms):
    draws = found.draws[i]
    low, high = bootstrap.bounds(draws, alpha)
    adjusted_low, adjusted_high = bootstrap.bounds(draws, left[i])
    spread = np.quantile(draws, POWER) - np.quantile(draws, 1 - POWER)
    comparisons[arm] = Comparison(
      arm=arm,
      reference=reference,
      mean=float(tables[arm].mean()),
      reference_mean=float(tables[reference].mean()),
      difference=float(found.mean[i]),
      low=low,
      high=high,
      adjusted_low=adjusted_low,
      adjusted_high=adjusted_high,
      standard_error=float(found.standard_error[i]),
      p_value=p_values[i],
      adjusted_p_value=adjusted[i],
      verdict=_verdict(adjusted_low, adjusted_high, margin),
      equivalent=-margin <= adjusted_low and adjusted_high <= margin,
      smallest_detectable=float(margin + (adjusted_high - adjusted_low + spread) / 2),
      margin=margin,
      alpha=alpha,
      members=members,
      covers=bootstrap.covered(shape, levels),
      level_errors=dict(zip(levels, found.level_errors[i].tolist(), strict=True)),
      note="; ".join(
        f"one {level}: its spread is unknown" for level, n in members.items() if n < 2
      ),
    )
  return comparisons


def _verdict(low: float, high: float, margin: float) -> Literal["better", "worse", "undecided"]:
  if low > margin:
    return "better"
  return "worse" if high < -margin else "undecided"


def holm(p_values: Sequence[float], alpha: float = 0.05) -> tuple[list[float], list[float]]:
  """Holm's step-down procedure.

  >>> adjusted, levels = holm([0.01, 0.04, 0.02])
  >>> [round(p, 2) for p in adjusted], [round(a, 4) for a in levels]
  ([0.03, 0.04, 0.04], [0.0167, 0.05, 0.025])

  Returns:
    Adjusted p-values, to be compared with alpha, and the level at which each p-value itself was
    tested: alpha / K for the smallest, ...; from the first that fails on, the level it failed at.
    Equal p-values share the stricter level.
  """
  remaining = [sum(q >= p for q in p_values) for p in p_values]
  steps = sorted(zip(p_values, remaining, strict=True))
  adjusted = [min(1.0, max(q * k for q, k in steps if q <= p)) for p in p_values]
  stop = next((k for q, k in steps if q * k > alpha), 0)
  levels = [alpha / max(k, stop) for k in remaining]
  return adjusted, levels


def comparison_table(
  columns: Mapping[str, Mapping[str, Json]], **settings: Any
) -> list[dict[str, Json]]:
  """Rows for results.json: every arm under every column, e.g. "equal updates", "equal compute".

  Args:
    columns: name -> scores as `compare` takes them; an arm that is missing from a column has no row
      there. Holm runs over the arms of a column: state the claim by one column, or by both.
    settings: of `compare`.
  Returns:
    One flat dict a column and arm: "column" and the fields of `Comparison`.
  """
  return [
    {"column": column, **row._asdict()}
    for column, scores in columns.items()
    for row in compare(scores, **settings).values()
  ]


def comparison_cells(rows: Sequence[Mapping[str, Json]]) -> tuple[list[str], list[list[Any]]]:
  """Header and cells of the report's table: a line an arm, five cells a column.

  Args:
    rows: rows of `comparison_table`.
  Returns:
    What `train.Report.table` takes; None where a column lacks the arm.
  """
  columns = list(dict.fromkeys(row["column"] for row in rows))
  found = {(row["arm"], row["column"]): row for row in rows}
  header = ["arm"]
  for column in columns:
    header += [f"{column}: {what}" for what in ("mean", "difference", "interval", "verdict")]
    header.append(f"{column}: smallest detectable")
  cells = []
  for arm in dict.fromkeys(row["arm"] for row in rows):
    line: list[Any] = [arm]
    for column in columns:
      line += _cells(found[arm, column]) if (arm, column) in found else [None] * 5
    cells.append(line)
  return header, cells


def _cells(row: Mapping[str, Json]) -> list[Any]:
  """Mean, difference, adjusted interval, verdict in words, smallest detectable difference."""
  remarks = [row["verdict"]]
  remarks += ["equivalent"] * row["equivalent"] + [row["note"]] * bool(row["note"])
  interval = f"[{row['adjusted_low']:+.4f}, {row['adjusted_high']:+.4f}]"
  return [row["mean"], row["difference"], interval, ", ".join(remarks), row["smallest_detectable"]]
