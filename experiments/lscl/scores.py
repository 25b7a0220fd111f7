"""Scores of the style-curriculum study, on the grid of each case: tables, verdicts, answers.

Dice (DSC), Jaccard index (JAC), Hausdorff distance (HD) and average symmetric surface distance
(ASSD) of every structure of every test case. A structure in one map only has an overlap of 0 and
the image's diagonal as its distance; one in neither map is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lscl.hospitals import Setting, Turn
from experiments.lscl.training import Config, segmenter
from experiments.lscl.vendor_scores import min_max_score, vendor_weighted
from medjax import inference, metrics, study
from medjax.inference.components import remove_small_components
from medjax.study import stack_scores
from medjax.study.stacks import Stack
from medjax.types import Params

METRICS = ("dice", "jaccard", "hausdorff", "assd")
ROTATED = "-tta"
"""Ends the row of an arm scored with rotations at test time."""
QUESTIONS = (
  ("lscl-random", ("lscl-paper", "lscl-chain")),
  ("lscl-paper", ("lscl-chain",)),
  ("augmented", ("augmented-lscl-chain",)),
)
"""Reference and the arms held against it: does the gradient choose better than chance, and in which
direction; does a curriculum add to augmentation."""


def score(
  config: Config,
  setting: Setting,
  turn: Turn,
  row: str,
  trained: study.Trained,
  segmenter: Callable[[Params, np.ndarray], np.ndarray],
  seed: int,
) -> study.Scored:
  """Predicts and measures every test case of a turn; `row` names the arm in tables."""

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
    if not config.component_fraction:
      return label
    return remove_small_components(label, fraction=config.component_fraction)

  return stack_scores.score(
    lambda images: segmenter(trained.params, images),
    turn.test,
    config.network_grid,
    about=about,
    class_names=setting.class_names,
    cleaned=cleaned,
  )


def segmenters(config: Config, task: Any) -> dict[str, Callable[[Params, np.ndarray], np.ndarray]]:
  """Plain, and averaged over rotations, by the end of the row's name."""
  shape = config.shape
  turns = inference.rotations(shape)
  if shape[0] != shape[1]:
    turns = (inference.IDENTITY, inference.Symmetry(turns=((0, 1, 2),)))
  return {"": segmenter(task), ROTATED: segmenter(task, turns)}


def results(
  config: Config,
  setting: Setting,
  rows: Sequence[Mapping[str, Any]],
  flops: Mapping[str, float],
  curriculum: Any,
) -> dict[str, Any]:
  """results.json: fixed keys, no times.

  Args:
    config, setting: of the run.
    rows: of all networks.
    flops: of an update, by row.
    curriculum: what `curriculum.audit` found.
  """
  arms = list(dict.fromkeys(row["arm"] for row in rows))
  by_arm: dict[str, list[Mapping[str, Any]]] = {arm: [] for arm in arms}
  for row in rows:
    by_arm[row["arm"]].append(row)
  weighted = _weighted(setting, by_arm)
  tables = {role: study.tables(rows, "dice", role=role) for role in ("unseen", "in-domain")}
  found = {}
  for arm, own in by_arm.items():
    found[arm] = {
      "flops_an_update": flops[arm],
      "sites": {
        role: {
          site: _figures([r for r in own if r["role"] == role and r["domain"] == site])
          for site in setting.sites
          if any(r["role"] == role and r["domain"] == site for r in own)
        }
        for role in tables
      },
      "phases": {
        phase: _figures([r for r in own if r["phase"] == phase and r["role"] == "unseen"])
        for phase in sorted({r["phase"] for r in own} - {""})
      },
      "missed": sum(
        value == 0 for r in own if r["role"] == "unseen" for value in _values(r, "dice")
      ),
      **{
        role.replace("-", "_"): {
          "dice": metrics.mean_interval(tables[role][arm])._asdict(),
          **_figures([r for r in own if r["role"] == role], METRICS[1:]),
        }
        for role in tables
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


def _weighted(
  setting: Setting, by_arm: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, float]]:
  """The challenge's scores, unseen sites counting twice; means over turns."""
  found: dict[str, list[np.ndarray]] = {arm: [] for arm in by_arm}
  for turn in setting.turns:
    sites = [s for s in setting.sites if any(stack.site == s for stack in turn.test)]
    weights = [2.0 if site in turn.unseen else 1.0 for site in sites]
    table = np.array(
      [
        [
          [
            np.mean([study.mean(r, m) for r in own if _is(r, turn.name, site)])
            for m in ("dice", "hausdorff")
          ]
          for site in sites
        ]
        for own in by_arm.values()
      ]
    )
    means = vendor_weighted(table, weights=weights)
    ranks = min_max_score(table, weights=weights) if len(table) > 1 else np.full(1, np.nan)
    for arm, average, rank in zip(by_arm, means, ranks, strict=True):
      found[arm].append(np.array([*average, rank]))
  names = ("weighted_dice", "weighted_hausdorff", "min_max")
  return {
    arm: dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))
    for arm, values in found.items()
  }


def _is(row: Mapping[str, Any], turn: str, site: str) -> bool:
  return row["turn"] == turn and row["domain"] == site


def _figures(
  rows: Sequence[Mapping[str, Any]], wanted: Sequence[str] = METRICS
) -> dict[str, dict[str, float]]:
  """Mean and standard deviation over cases of the mean over structures."""
  found = {}
  for metric in wanted:
    values = [study.mean(row, metric) for row in rows]
    average = float(np.mean(values)) if values else np.nan
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    found[metric] = {"mean": average, "std": spread}
  return found


def _values(row: Mapping[str, Any], metric: str) -> list[float]:
  return [value for name, value in row.items() if name.startswith(f"{metric}/")]
