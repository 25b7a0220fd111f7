"""The page of the replay study: matrices, transfers, curves, soft outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.ms_replay.bench import Bench
from experiments.ms_replay.config import Config
from experiments.ms_replay.courses import MULTI, SINGLE
from experiments.ms_replay.hospitals import Setting, split
from experiments.ms_replay.scores import FINE_TUNING, Trained, whole_matrix
from medjax import study
from medjax.train.report import Report

_PUBLISHED = (
  "Means of the paper's nine orders, from the matrices in its repository: Dice over all centres"
  " at the end .530 for replay, .418 for fine-tuning, .482 for multi-domain and .440 for"
  " single-domain training; backward transfer +.029 and -.071."
)
_COLOURS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])


def page(bench: Bench, trained: Trained, results: dict[str, Any], times: dict[str, Any]) -> Report:
  """`times` as in timing.json."""
  config, setting = bench.config, bench.setting
  report = Report(
    f"Replay over {len(setting.centres)} centres: {setting.title}",
    f"{config.num_seeds} seeds, {len(trained.orders)} orders. {findings(results)}",
  )
  _transfers(report, config, results)
  _matrices(report, config, setting, trained, results)
  _curves(report, setting, results)
  _claims(report, config, results)
  _cost(report, results, times)
  _privacy(report, results)
  _soft_outputs(report, bench, trained)
  return report


def findings(results: dict[str, Any]) -> str:
  """Sentences that name every verdict of the first design."""
  found = results["claims"].get("fixed_order")
  if found is None:
    return "No centre has enough test people for a claim."
  sentences = []
  for title, rows in found.items():
    if title.startswith("against"):
      said = ", ".join(
        f"{row['arm']} {row['difference']:+.3f} ({row['verdict']}"
        f"{', equivalent' if row['equivalent'] else ''})"
        for row in rows
        if row["column"] != "equal compute"
      )
      sentences.append(f"Dice after the last centre {title}: {said}.")
  said = ", ".join(
    f"{arm} {v['mean']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}]"
    for arm, v in found["bwt"].items()
    if v
  )
  return " ".join([*sentences, f"Backward transfer: {said}."])


def heat(values: np.ndarray, side: int = 24) -> np.ndarray:
  """Picture of a matrix of numbers in [0, 1], dark blue to yellow; NaN is grey."""
  place = np.clip(np.nan_to_num(values), 0, 1) * (len(_COLOURS) - 1)
  low = np.minimum(place.astype(int), len(_COLOURS) - 2)
  part = (place - low)[..., None]
  rgb = (1 - part) * _COLOURS[low] + part * _COLOURS[low + 1]
  rgb = np.where(np.isnan(values)[..., None], 128, rgb)
  return np.repeat(np.repeat(rgb, side, 0), side, 1).astype(np.uint8)


def _transfers(report: Report, config: Config, results: dict[str, Any]) -> None:
  for design, title in (
    ("fixed_order", "seeds in the first order"),
    ("orders", "orders, one seed"),
  ):
    num = next(iter(results["arms"].values()))[design]["acc"]["num"]
    if design == "orders" and num < 2:
      continue
    report.section(
      f"Transfer over {title}",
      "ACC: Dice over all centres after the last. BWT: change of a centre since its own training."
      " FWT: what a centre has before its training, beyond first weights, and beyond a network"
      " trained on it alone. Forgetting: loss since a centre's best. Mean and standard deviation"
      f" over {num} trainings; transfers are sums over {config.divide_by.upper()}.",
    )
    report.table(
      ["arm", "ACC", "±", "BWT", "±", "FWT, first weights", "FWT, alone", "forgetting", "steps"],
      [
        [
          arm,
          *(own[design][k][s] for k in ("acc", "bwt") for s in ("mean", "std")),
          *(own[design][k]["mean"] for k in ("fwt_untrained", "fwt_single", "forgetting")),
          own["steps"],
        ]
        for arm, own in results["arms"].items()
      ]
      + [[MULTI, float(np.mean(results["references"][MULTI])), *[None] * 7]],
    )
  report.note(_PUBLISHED)


def _matrices(
  report: Report, config: Config, setting: Setting, trained: Trained, results: dict[str, Any]
) -> None:
  order = [setting.centres[c] for c in trained.orders[0]]
  report.section(
    "Every centre after every centre",
    "Dice in the first order, mean over seeds; rows: trained through, columns: tested on, in the"
    " order of training.",
  )
  means = {
    arm: np.nanmean(
      whole_matrix(courses, setting, config.num_seeds, trained.orders)[:, 0, :, :, 0], 0
    )
    for arm, courses in trained.courses.items()
  }
  singles = np.array(results["references"][SINGLE], float)
  if not np.isnan(singles).any():
    means[SINGLE] = singles.mean(0)[np.ix_(trained.orders[0], trained.orders[0])]
  report.images([heat(m) for m in means.values()], list(means), 4, caption="0 dark, 1 yellow.")
  for arm, r in means.items():
    report.table(
      [arm, *order], [[name, *map(float, row)] for name, row in zip(order, r, strict=True)]
    )
  report.table(
    ["BWT of", *order[:-1]],
    [[arm, *own["bwt_of_centre"].values()] for arm, own in results["arms"].items()],
    "Change of every centre from its own training to the end, mean over seeds.",
  )
  few = results["data"]["left_out_of_claims"]
  if few:
    report.note(
      f"{', '.join(few)}: fewer than {config.min_test} people to test on, shown and left out of all"
      " claims."
    )


def _curves(report: Report, setting: Setting, results: dict[str, Any]) -> None:
  seen = np.arange(1, len(setting.centres) + 1)
  report.section(
    "Dice as centres arrive",
    "Mean over all centres, seen or not: what the paper plots as zero-shot transfer. Below, over"
    " the centres not seen yet.",
  )
  multi = float(np.mean(results["references"][MULTI]))
  report.curves(
    {arm: (seen, own["mean_all_centres"]) for arm, own in results["arms"].items()},
    "centres trained on",
    "Dice, all centres",
    {MULTI: multi},
  )
  report.curves(
    {arm: (seen[:-1], own["zero_shot"]) for arm, own in results["arms"].items()},
    "centres trained on",
    "Dice, unseen centres",
  )


def _claims(report: Report, config: Config, results: dict[str, Any]) -> None:
  for design, found in results["claims"].items():
    report.section(f"Claims: {design.replace('_', ' ')}")
    for title, rows in found.items():
      if not title.startswith("against"):
        continue
      report.note(f"Dice after the last centre {title}:")
      study.page.comparison(report, rows, title.removeprefix("against "))
    report.table(
      ["arm", "BWT", "low", "high", "below zero", "zero within the bounds"],
      [
        [a, v["mean"], v["low"], v["high"], v["below_zero"], v["equivalent_to_zero"]]
        for a, v in found["bwt"].items()
        if v
      ],
      f"Backward transfer, 95 % intervals; it is called zero where they lie inside"
      f" +-{config.equivalence:g}.",
    )


def _cost(report: Report, results: dict[str, Any], times: dict[str, Any]) -> None:
  report.section("Cost")
  report.table(
    ["arm", "steps", "hours", "TFLOP of a course", "last centre's speed over second's", "highest"],
    [
      [
        arm, own["steps"], own["hours"], results["costs"][arm]["flops"] / 1e12,
        min(own["last_over_second_centre"]), max(own["last_over_second_centre"]),
      ]
      for arm, own in times["arms"].items()
    ],
    "All seeds and orders, from the second centre on: the first centre's training is shared, except"
    " by private replay. Hours are of steps, without tests. A course's operations are those of one"
    " seed and order, its first centre included. The last centre's speed in steps a second: lowest"
    " and highest.",
  )  # fmt: skip


def _privacy(report: Report, results: dict[str, Any]) -> None:
  found = results["privacy"]
  if not found:
    report.note("A memory of patients, or a synthesiser trained on them, protects nobody.")
    return
  report.section("What private replay costs", found["statement"])
  report.table(
    ["centre", "epsilon", "delta"],
    [
      [c, epsilon, found["delta_by_centre"][c]] for c, epsilon in found["epsilon_by_centre"].items()
    ],
    "Of the remembered people of a centre, over all trainings of the run's"
    f" {found['num_courses']} private course(s), by plain composition; the unit is one person.",
  )
  for name, statement in found["statements"].items():
    report.note(f"{name}: {statement}")
  report.note(f"Without any privacy: {', '.join(found['unprotected'])}.")


def _soft_outputs(report: Report, bench: Bench, trained: Trained) -> None:
  """Outputs on a person of the third centre, and what soft values at borders are worth."""
  setting = bench.setting
  arms = [a for a in (FINE_TUNING, "replay") if a in trained.courses] or list(trained.courses)[:2]
  courses = {arm: trained.courses[arm][0] for arm in arms}
  seed = next(iter(courses.values())).seed
  parts = split(setting, seed)
  centre = setting.centres[trained.orders[0][min(2, len(setting.centres) - 1)]]
  row = parts[centre]["test"][0]
  label = setting.label[row]
  cut = () if label.ndim == 2 else (int(label.sum((1, 2)).argmax()),)
  panels, names = [setting.image[row][cut][..., 0], label[cut]], ["image", "soft label"]
  series = {"perfect": (np.array([0.0, 1.0]), np.array([0.0, 1.0]))}
  tested = [i for c in setting.centres for i in parts[c]["test"]]
  for arm, course in courses.items():
    params = course.stages[-1].params
    panels.append(bench.predicted(params, row)[cut])
    names.append(arm)
    found = [(bench.predicted(params, i), setting.label[i]) for i in tested]
    series[arm] = boundary_reliability([p for p, _ in found], [y for _, y in found])
  reliability = (
    "at voxels on lesion borders, the mean soft label where the network says so much: on the"
    " diagonal a soft value means what it says."
  )
  if bench.directory.private is None:
    shown = f"A test person of {centre} after the last centre; below, {reliability}"
    report.section("Soft outputs", shown)
    report.images(panels, names, len(panels))
  else:
    report.section("Soft outputs", f"No pictures in a private run; below, {reliability}")
  report.curves(series, "predicted, border voxels", "mean soft label")


def boundary_reliability(
  predictions: Sequence[np.ndarray], labels: Sequence[np.ndarray], num_bins: int = 10
) -> tuple[np.ndarray, np.ndarray]:
  """Mean prediction and mean soft label in bins of the prediction, over border voxels.

  The border: voxels within one voxel of lesion that are not surrounded by whole lesion.
  """
  from scipy import ndimage

  values, truths = [], []
  for prediction, label in zip(predictions, labels, strict=True):
    border = ndimage.binary_dilation(label > 0) & ~ndimage.binary_erosion(label >= 1)
    values.append(prediction[border])
    truths.append(label[border])
  value, truth = np.concatenate(values), np.concatenate(truths)
  place = np.minimum((value * num_bins).astype(int), num_bins - 1)
  count = np.bincount(place, minlength=num_bins)
  shown = count > 0
  mean_value = np.bincount(place, value, num_bins)[shown] / count[shown]
  return mean_value, np.bincount(place, truth, num_bins)[shown] / count[shown]
