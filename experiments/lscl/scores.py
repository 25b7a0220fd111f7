"""Scores of the style-curriculum study, on the grid of each case: tables, verdicts, answers.

Dice (DSC), Jaccard index (JAC), Hausdorff distance (HD) and average symmetric surface distance
(ASSD) of every structure of every test case. A structure in one map only has an overlap of 0 and
the image's diagonal as its distance; one in neither map is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lscl.hospitals import Setting, Turn
from experiments.lscl.training import Config, Task
from experiments.lscl.vendor_scores import min_max_score, vendor_weighted
from medjax import metrics, study
from medjax.inference.components import remove_small_components
from medjax.study import stack_scores
from medjax.study.stacks import Stack

METRICS = ("dice", "jaccard", "hausdorff", "assd")
ROLES = ("unseen", "in-domain")
ROTATED = "-tta"
"""Ends the row of an arm scored with rotations at test time."""
QUESTIONS = (
  ("lscl-random", ("lscl-paper", "lscl-chain")),
  ("lscl-paper", ("lscl-chain",)),
  ("augmented", ("augmented-lscl-chain",)),
)
"""Reference and the arms held against it: does the gradient choose better than chance, and in which
direction; does a curriculum add to augmentation."""


Rows = Sequence[Mapping[str, Any]]


def score(task: Task, turn: Turn, row: str, trained: study.Trained, seed: int) -> study.Scored:
  """Predicts and measures every test case of a turn; `row` names the arm in tables."""
  config, setting = task.config, task.setting

  def about(stack: Stack) -> dict[str, Any]:
    return {
      "arm": row,
      "case": stack.name,
      "subject": stack.subject if setting.is_simulated else f"{stack.site}/{stack.subject}",
      "domain": stack.site,
      "phase": stack.phase,
      "role": turn.role(stack.site),
      "turn": turn.name,
      "seed": seed,
    }

  def cleaned(label: np.ndarray) -> np.ndarray:
    return remove_small_components(label, fraction=config.component_fraction)

  return stack_scores.score(
    lambda images: task.labels(trained.params, images, is_rotated=row.endswith(ROTATED)),
    turn.test,
    config.network_grid,
    about=about,
    class_names=setting.class_names,
    cleaned=cleaned if config.component_fraction else None,
  )


def results(task: Task, rows: Rows, flops: Mapping[str, float], curriculum: Any) -> dict[str, Any]:
  """results.json: fixed keys, no times.

  Args:
    task: of the run.
    rows: of all networks.
    flops: of an update, by row of the tables.
    curriculum: what `curriculum.audit` found.
  """
  config, setting = task.config, task.setting
  weighted = _weighted(setting, rows)
  tables = {role: study.tables(rows, "dice", role=role) for role in ROLES}
  found = {}
  for arm in flops:
    own = {role: [r for r in rows if r["arm"] == arm and r["role"] == role] for role in ROLES}
    phases = sorted({r["phase"] for r in own["unseen"]} - {""})
    found[arm] = {
      "flops_an_update": flops[arm],
      "sites": {role: _by("domain", setting.sites, own[role]) for role in ROLES},
      "phases": _by("phase", phases, own["unseen"]),
      "missed": sum(
        value == 0 for r in own["unseen"] for name, value in r.items() if name.startswith("dice/")
      ),
      **{
        role.replace("-", "_"): {
          "dice": metrics.mean_interval(tables[role][arm])._asdict(),
          **_figures(own[role], METRICS[1:]),
        }
        for role in ROLES
      },
      **weighted[arm],
    }
  return {
    "test_cases": len({(r["turn"], r["domain"], r["case"]) for r in rows}),
    "test_people": len({r["subject"] for r in rows}),
    "label_vote": label_vote(config, setting),
    "turns": [
      {"unseen": turn.unseen, "training_slices": len(turn.train.weight), "styles": len(turn.styles)}
      for turn in setting.turns
    ],
    "arms": found,
    "comparison": _comparisons(config, tables, flops),
    "questions": _questions(config, tables["unseen"]),
    "curriculum": curriculum,
  }


def label_vote(config: Config, setting: Setting) -> float | None:
  """Mean Dice on unseen sites of what anatomy alone says; None where it cannot say it."""
  scores = []
  for turn in setting.turns:
    if turn.vote is None:
      return None
    for stack in (stack for stack in turn.test if stack.site in turn.unseen):
      label = config.network_grid.restored(turn.vote, stack)
      scores.append(stack_scores.dice(label, stack.truth, len(setting.class_names)))
  return float(np.nanmean(scores))


def _comparisons(
  config: Config, tables: Mapping[str, Mapping[str, np.ndarray]], flops: Mapping[str, float]
) -> dict[str, list[dict[str, Any]]]:
  """Every arm against the U-Net and against the augmented one, on Dice."""
  found = {}
  for reference in ("u-net", "augmented"):
    if reference in flops and len(flops) > 1:
      unseen = study.against(
        reference, {"unseen": tables["unseen"]}, margin=config.margin, costs=flops
      )
      known = {"in-domain, equal updates": tables["in-domain"]}
      found[reference] = unseen + study.against(reference, known, margin=config.margin)
  return found


def _questions(config: Config, unseen: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
  """Planned comparisons on unseen sites; Holm within each question."""
  rows = []
  for reference, arms in QUESTIONS:
    asked = {arm: unseen[arm] for arm in (reference, *arms) if arm in unseen}
    rows += study.against(reference, {"unseen": asked}, margin=config.margin)
  return rows


def _weighted(setting: Setting, rows: Rows) -> dict[str, dict[str, float]]:
  """The challenge's scores, unseen sites counting twice; means over turns."""
  arms = list(dict.fromkeys(row["arm"] for row in rows))
  found: dict[str, list[np.ndarray]] = {arm: [] for arm in arms}
  for turn in setting.turns:
    sites = [s for s in setting.sites if any(stack.site == s for stack in turn.test)]
    weights = [2.0 if site in turn.unseen else 1.0 for site in sites]
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
      if row["turn"] == turn.name:
        cells.setdefault((row["arm"], row["domain"]), []).append(row)
    table = [
      [
        [np.mean([study.mean(r, m) for r in cells[arm, site]]) for m in ("dice", "hausdorff")]
        for site in sites
      ]
      for arm in arms
    ]
    means = vendor_weighted(table, weights=weights)
    ranks = min_max_score(table, weights=weights) if len(table) > 1 else np.full(1, np.nan)
    for arm, average, rank in zip(arms, means, ranks, strict=True):
      found[arm].append(np.array([*average, rank]))
  names = ("weighted_dice", "weighted_hausdorff", "min_max")
  return {
    arm: dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))
    for arm, values in found.items()
  }


def _by(column: str, members: Sequence[str], rows: Rows) -> dict[str, dict[str, Any]]:
  own = {name: [row for row in rows if row[column] == name] for name in members}
  return {name: _figures(some) for name, some in own.items() if some}


def _figures(rows: Rows, wanted: Sequence[str] = METRICS) -> dict[str, dict[str, float]]:
  """Mean and standard deviation over cases of the mean over structures."""
  found = {}
  for metric in wanted:
    values = [study.mean(row, metric) for row in rows]
    average = float(np.mean(values)) if values else np.nan
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    found[metric] = {"mean": average, "std": spread}
  return found
