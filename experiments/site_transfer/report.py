"""The page of a transfer study: answers, then tables and pictures as in the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.site_transfer.config import Config, Optimiser
from experiments.site_transfer.drift import GROUPS
from experiments.site_transfer.scores import NO_TRANSFER, ORACLE, ROLES, SOURCE_MODEL
from experiments.site_transfer.setting import Setting
from experiments.site_transfer.training import Trained
from medjax import study
from medjax.train.report import Report

_NAMES = {"dice": "Dice", "surface_dice": "surface Dice", "auroc": "mean AUROC"}
_MEANING = {
  "fine-tune": "all parameters, fresh optimiser",
  "first-layers": "the first convolution and block alone",
  "l2-sp": "all, held near the source's by a penalty",
  "spottune": "a policy chooses blocks for every image",
  "mmtl": "batches go over from source to target; NEEDS SOURCE DATA",
  "octl": "the optimiser goes on with the source's history",
  "octl-first": "OCTL with the first moment alone",
  "octl-second": "OCTL with the second moment alone",
  "octl-none": "OCTL's momentum and step sizes, no history",
  "momentum": "OCTL's momentum alone: no history, no step sizes",
  "equal-rate": "fine-tuning at OCTL's step sizes",
  "octl-rebuilt": "OCTL with moments rebuilt on source data; NEEDS SOURCE DATA",
}


def page(
  config: Config,
  setting: Setting,
  trained: Mapping[tuple[Optimiser, str], Trained],
  pictures: Mapping[tuple[Optimiser, str], study.Scored],
  results: dict[str, Any],
) -> Report:
  """Answers, tables at the target and at the source, verdicts, drift, overlays, curves.

  Args:
    config, setting: of the study.
    trained: first run of each optimiser and arm.
    pictures: target cases of the same runs.
    results: of results.json.
  """
  pairs, seeds = len(setting.pairs), config.num_seeds
  report = Report(
    f"From site to site: {setting.title}",
    f"{pairs} pair(s) of sites, {seeds} seed(s). {answers(config, setting, results)}",
  )
  _pairs(report, config, setting, results)
  for role in ROLES:
    _tables(report, config, setting, results, role)
  _verdicts(report, config, setting, results)
  _drift(report, trained)
  _overlays(report, setting, pictures)
  _curves(report, trained)
  return report


def answers(config: Config, setting: Setting, results: dict[str, Any]) -> str:
  """One sentence a planned question at the smallest target, in words that its verdict allows."""
  few, metric, unit = config.target_sizes[0], setting.metrics[0], setting.pairs[0].unit
  sentences = []
  for row in results["questions"]:
    if row["size"] != few or row["metric"] != metric:
      continue
    where = "at the source" if row["question"] == "source" else "at the target"
    said = study.sentence(row, study.page.name_of(metric))
    sentences.append(f"{row['optimiser']}, {few:g} {unit}, {where}: {said}")
  return " ".join(sentences) or "No pair of sites had a gap to close, or no arm was asked for."


def _pairs(report: Report, config: Config, setting: Setting, results: dict[str, Any]) -> None:
  if any(pair.has_new_head for pair in setting.pairs):
    rule = "The target's findings are others: the source's network has no say there, every pair"
    rule += " counts, and all arms start with a new head."
  else:
    rule = f"Pairs that lose less than {config.threshold:g} stay out of tables and verdicts."
  name = _NAMES[setting.metrics[-1]]
  report.section(
    "What there is to gain",
    f"{name[0].upper()}{name[1:]} of the source's network and of the oracle, trained on all"
    f" training people of the target, at the target. {rule}\n\n{config.known}",
  )
  for site, findings in results.get("findings", {}).items():
    if findings["left_out"]:
      report.note(
        f"Without both outcomes among the people tested at {site}, and so without an area:"
        f" {', '.join(findings['left_out'])}."
      )
  report.table(
    ["optimiser", "pair", NO_TRANSFER, ORACLE, "gap", "in the tables"],
    [
      [name, pair, gap[NO_TRANSFER], gap[ORACLE], gap["gap"], "yes" if gap["in_table"] else "NO"]
      for name, found in results["optimisers"].items()
      for pair, gap in found["pairs"].items()
    ],
  )


def _tables(
  report: Report, config: Config, setting: Setting, results: dict[str, Any], role: str
) -> None:
  report.section(
    f"At the {role}" + (" after adaptation" if role == "source" else ""),
    "Mean over pairs, then mean (deviation) over seeds. What was trained on of the target stands"
    " above.",
  )
  header = ["arm", "what it is"]
  for size in results["sizes"]:
    least, most = size["least_slices"], size["most_slices"]
    slices = f"{least}" if least == most else f"{least}-{most}"
    counted = f"{size['people']:g} people, {slices} slices" if "people" in size else ""
    header.append(counted or f"{slices} images")
  for optimiser, found in results["optimisers"].items():
    for metric in setting.metrics:
      bounds = found["bounds"]
      reference = SOURCE_MODEL if role == "source" else NO_TRANSFER
      cells = [_line(reference, "", [bounds[NO_TRANSFER][role]] * len(header[2:]), metric)]
      for arm in config.arms_of(optimiser):
        figures = [found["sizes"][f"{size:g}"][arm][role] for size in config.target_sizes]
        cells.append(_line(arm, _MEANING[arm], figures, metric))
      if role == "target":
        cells.append(_line(ORACLE, "", [bounds[ORACLE][role]] * len(header[2:]), metric))
      tolerance = f" at {config.tolerance_mm:g} mm" if metric == "surface_dice" else ""
      report.table(header, cells, f"{_NAMES[metric]}{tolerance}, {optimiser}.")
  if role == "target":
    report.table(
      ["arm", *(f"{name}: flops" for name in results["optimisers"])],
      [
        [
          arm,
          *(
            _relative_flops(config, found, arm) if arm in config.arms_of(optimiser) else None
            for optimiser, found in results["optimisers"].items()
          ),
        ]
        for arm in config.arms
      ],
      "Of an update, over the least of all arms; the pass that rebuilds moments is not in them.",
    )


def _relative_flops(config: Config, found: Mapping[str, Any], arm: str) -> float:
  by_arm = found["sizes"][f"{config.target_sizes[0]:g}"]
  return by_arm[arm]["flops_an_update"] / min(one["flops_an_update"] for one in by_arm.values())


def _line(name: str, meaning: str, figures: Sequence[Mapping[str, Any]], metric: str) -> list[Any]:
  return [name, meaning, *(_pair(one[metric]) for one in figures)]


def _pair(figure: Mapping[str, float]) -> str | None:
  if not np.isfinite(figure["mean"]):
    return None
  spread = f" ({100 * figure['std']:.2f})" if np.isfinite(figure["std"]) else ""
  return f"{100 * figure['mean']:.2f}{spread}"


def _verdicts(report: Report, config: Config, setting: Setting, results: dict[str, Any]) -> None:
  report.section(
    "Planned comparisons",
    "Paired differences by hierarchical bootstrap over pairs, seeds and people, against a margin of"
    f" {config.margin:g}, Holm within each question. few: MMTL against each of four baselines; it"
    " beats the best only where it beats all. source: MMTL against the source's network at the"
    " source. history: OCTL against fine-tuning and its controls; history matters where OCTL beats"
    " octl-none and equal-rate.",
  )
  if results["questions"]:
    report.table(
      ["question", "optimiser", setting.pairs[0].unit, "score", "arm", "against", "difference",
       "interval", "verdict", "smallest detectable", "compute"],
      [
        [
          row["question"],
          row["optimiser"],
          row["size"],
          _NAMES[row["metric"]],
          row["arm"],
          row["reference"],
          row["difference"],
          f"[{row['adjusted_low']:+.4f}, {row['adjusted_high']:+.4f}]",
          row["verdict"] + (", equivalent" if row["equivalent"] else ""),
          row["smallest_detectable"],
          row["compute"],
        ]
        for row in results["questions"]
      ],
      "compute: of the arm's update over the other's; updates are equal in number, so that a gain"
      " above 1.05 is one at equal updates and not at equal compute.",
    )  # fmt: skip


def _drift(report: Report, trained: Mapping[tuple[Optimiser, str], Trained]) -> None:
  """Fig. 1 as paths of the three groups' means."""
  shown = {
    f"{optimiser} {arm}": rows
    for (optimiser, arm), one in trained.items()
    if one.job is not None and (rows := [r for r in one.job.fit.history if "drift/distance" in r])
  }
  if not shown:
    return
  report.section(
    "How features move",
    "Mean features of the deepest level, first pair, size and seed, on the two axes along which"
    " the sites differed most before adaptation; units: spread of the source's images.",
  )
  for name, rows in shown.items():
    series = {
      group: ([r[f"drift/{group}/x"] for r in rows], [r[f"drift/{group}/y"] for r in rows])
      for group in GROUPS
    }
    report.curves(series, "first axis", "second axis", caption=f"{name}, from evaluation to next.")
  report.curves(
    {name: ([r["step"] for r in rows], [r["drift/distance"] for r in rows])
     for name, rows in shown.items()},
    "update",
    "distance of source and target test",
  )  # fmt: skip


def _overlays(
  report: Report, setting: Setting, pictures: Mapping[tuple[Optimiser, str], study.Scored]
) -> None:
  """Fig. 2: two target cases, arm by arm."""
  for optimiser in dict.fromkeys(name for name, _ in pictures):
    study.page.pictures(
      report,
      {arm: one.pictures for (name, arm), one in pictures.items() if name == optimiser},
      setting.class_names,
      title=f"Arm by arm, {optimiser}",
      text="First pair and seed, smallest target size.",
    )


def _curves(report: Report, trained: Mapping[tuple[Optimiser, str], Trained]) -> None:
  report.section("Training", "First pair, size and seed.")
  for optimiser in dict.fromkeys(name for name, _ in trained):
    own = {
      arm: one.job
      for (name, arm), one in trained.items()
      if name == optimiser and one.job is not None
    }
    study.page.curves(report, own, {"loss": f"loss, {optimiser}"}, xlabel="update")
