"""Scores of the style-curriculum study, on the grid of each case: tables, verdicts, answers.

Dice (DSC), Jaccard index (JAC), Hausdorff distance (HD) and average symmetric surface distance
(ASSD) of every structure of every test case. A structure in one map only has an overlap of 0 and
the image's diagonal as its distance; one in neither map is left out.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.lscl.hospitals import Setting, Turn, restore
from experiments.lscl.training import Config, Segmenter, Trained
from experiments.slice_stacks import Stack
from medjax import inference, metrics
from medjax.inference.components import remove_small_components
from medjax.types import IGNORE

METRICS = ("dice", "jaccard", "hausdorff", "assd")
DISTANCES = ("hausdorff", "assd")
ROTATED = "-tta"
"""Ends the row of an arm scored with rotations at test time."""
QUESTIONS = (
  ("lscl-random", ("lscl-paper", "lscl-chain")),
  ("lscl-paper", ("lscl-chain",)),
  ("augmented", ("augmented-lscl-chain",)),
)
"""Reference and the arms held against it: does the gradient choose better than chance, and in which
direction; does a curriculum add to augmentation."""
_EQUAL = 1.05  # flops of an update within this factor are equal compute


class Picture(NamedTuple):
  """A slice on the case's grid, [height, width] each (colour: [height, width, 3])."""

  name: str
  site: str
  image: np.ndarray
  truth: np.ndarray
  prediction: np.ndarray
  dice: float


class Scored(NamedTuple):
  """One network on the test cases of its turn.

  Attributes:
    rows: of cases.csv.
    seconds: of prediction, a case; the first, which compiles, left out.
    pictures: one a site.
  """

  rows: list[dict[str, Any]]
  seconds: float
  pictures: list[Picture]


def score(
  config: Config,
  setting: Setting,
  turn: Turn,
  row: str,
  trained: Trained,
  segmenter: Segmenter,
  seed: int,
) -> Scored:
  """Predicts and measures every test case of a turn; `row` names the arm in tables."""
  predictions, seconds = [], []
  for stack in turn.test:
    began = time.perf_counter()
    predictions.append(predict(config, segmenter, trained, stack))
    seconds.append(time.perf_counter() - began)
  measured = metrics.segmentation_report(
    predictions,
    [stack.truth for stack in turn.test],
    num_classes=len(setting.class_names),
    spacing=[stack.spacing for stack in turn.test],
    names=[stack.name for stack in turn.test],
    class_names=setting.class_names,
    empty="diagonal",
  )
  rows, pictures = [], {}
  for stack, prediction, figures in zip(turn.test, predictions, measured.rows, strict=True):
    about = {
      "arm": row,
      "case": stack.name,
      "subject": stack.subject if setting.is_simulated else f"{stack.site}/{stack.subject}",
      "domain": stack.site,
      "phase": stack.phase,
      "role": turn.role(stack.site),
      "turn": turn.name,
      "seed": seed,
    }
    rows.append(about | figures)
    if stack.site not in pictures:
      pictures[stack.site] = _picture(config, stack, prediction, mean(figures, "dice"))
  return Scored(rows, float(np.median(seconds[1:] or seconds)), list(pictures.values()))


def segmenters(config: Config, task: Any) -> dict[str, Segmenter]:
  """Plain, and averaged over rotations, by the end of the row's name."""
  shape = config.shape
  turns = inference.rotations(shape)
  if shape[0] != shape[1]:
    turns = (inference.IDENTITY, inference.Symmetry(turns=((0, 1, 2),)))
  return {"": Segmenter(task, shape), ROTATED: Segmenter(task, shape, turns)}


def predict(config: Config, segmenter: Segmenter, trained: Trained, stack: Stack) -> np.ndarray:
  """Class ids on the case's grid, small components removed if so configured."""
  label = _restored(config, segmenter(trained.params, stack.image), stack)
  if config.component_fraction:
    label = remove_small_components(label, fraction=config.component_fraction)
  return label


def _restored(config: Config, planes: np.ndarray, stack: Stack) -> np.ndarray:
  """Class ids [slice, height, width] on the network's grid -> [*space] on the case's."""
  space = stack.truth.shape
  restored = [restore(config, plane, space[:2]) for plane in planes]
  return np.stack(restored, axis=-1).reshape(space)


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
  tables = {
    role: {arm: subject_table(own, "dice", role) for arm, own in by_arm.items()}
    for role in ("unseen", "in-domain")
  }
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
      label = _restored(config, turn.vote, stack)
      known = stack.truth != IGNORE
      for k in range(1, len(setting.class_names)):
        first, second = (label == k) & known, stack.truth == k
        total = first.sum() + second.sum()
        scores.append(2 * (first & second).sum() / total if total else np.nan)
  return float(np.nanmean(scores))


def subject_table(rows: Sequence[Mapping[str, Any]], metric: str, role: str) -> np.ndarray:
  """[seed, person] mean over structures, then over the cases of a person in that role."""
  people: dict[int, dict[str, list[float]]] = {}
  for row in rows:
    if row["role"] == role:
      own = people.setdefault(row["seed"], {}).setdefault(row["subject"], [])
      own.append(mean(row, metric))
  return np.array(
    [[np.mean(found[name]) for name in sorted(found)] for _, found in sorted(people.items())]
  )


def _comparisons(
  config: Config, tables: Mapping[str, Mapping[str, np.ndarray]], flops: Mapping[str, float]
) -> dict[str, list[dict[str, Any]]]:
  """Every arm against the U-Net and against the augmented one, on Dice."""
  found = {}
  for reference in ("u-net", "augmented"):
    if reference not in flops or len(flops) < 2:
      continue
    near = {
      arm
      for arm in flops
      if max(flops[arm], flops[reference]) <= _EQUAL * min(flops[arm], flops[reference])
    }
    unseen = tables["unseen"]
    columns = {"unseen, equal updates": unseen}
    if len(near) > 1:
      columns["unseen, equal compute"] = {a: t for a, t in unseen.items() if a in near}
    columns["in-domain, equal updates"] = tables["in-domain"]
    columns = {name: own for name, own in columns.items() if own[reference].size}
    found[reference] = metrics.comparison_table(columns, reference=reference, margin=config.margin)
  return found


def _questions(config: Config, unseen: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
  """Planned comparisons on unseen sites; Holm within each question."""
  rows = []
  for reference, arms in QUESTIONS:
    asked = {arm: unseen[arm] for arm in (reference, *arms) if arm in unseen}
    if reference in asked and len(asked) > 1:
      rows += metrics.comparison_table({"unseen": asked}, reference=reference, margin=config.margin)
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
            np.mean([mean(r, m) for r in own if _is(r, turn.name, site)])
            for m in ("dice", "hausdorff")
          ]
          for site in sites
        ]
        for own in by_arm.values()
      ]
    )
    means = metrics.vendor_weighted(table, weights=weights)
    ranks = metrics.min_max_score(table, weights=weights) if len(table) > 1 else np.full(1, np.nan)
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
    values = [mean(row, metric) for row in rows]
    average = float(np.mean(values)) if values else np.nan
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    found[metric] = {"mean": average, "std": spread}
  return found


def mean(row: Mapping[str, Any], metric: str) -> float:
  """Over the structures of a case that are in truth or prediction.

  A case with none counts as right: nothing was there and nothing was found.
  """
  found = [value for value in _values(row, metric) if np.isfinite(value)]
  return float(np.mean(found)) if found else float(metric not in DISTANCES)


def _values(row: Mapping[str, Any], metric: str) -> list[float]:
  return [value for name, value in row.items() if name.startswith(f"{metric}/")]


def _picture(config: Config, stack: Stack, prediction: np.ndarray, dice: float) -> Picture:
  """The slice with most foreground."""
  truth, best = stack.truth, 0
  if truth.ndim == 3:
    best = int((truth > 0).sum((0, 1)).argmax())
    truth, prediction = truth[..., best], prediction[..., best]
  image = stack.image[best]
  image = image if image.shape[-1] == 3 else image[..., 0]
  channels = np.moveaxis(np.atleast_3d(image), 2, 0)
  grid = [restore(config, channel, truth.shape) for channel in channels]
  shown = np.stack(grid, -1)
  return Picture(
    stack.name, stack.site, shown if len(grid) == 3 else shown[..., 0], truth, prediction, dice
  )
