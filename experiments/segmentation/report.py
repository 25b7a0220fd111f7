"""The page of a segmentation run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.segmentation.scores import FIGURES, calibration_of
from experiments.segmentation.training import Setting, Trained
from medjax import metrics, study
from medjax.train.report import Report


def page(
  setting: Setting,
  trained: Mapping[str, Sequence[Trained]],
  scored: Mapping[str, Sequence[study.Scored]],
  unlabelled: Sequence[study.ShownPlane],
  results: dict[str, Any],
) -> Report:
  """Scores first, then pictures, calibration, curves and times."""
  config = setting.config
  scores = ", ".join(
    "{mean:.3f} ({low:.3f} to {high:.3f}) ".format(**values["dice"]) + arm
    for arm, values in results["arms"].items()
  )
  report = Report(
    f"Segmentation of {setting.source.root.resolve().name}",
    f"Mean Dice {scores}, with 95 % intervals, on {results['test_cases']} held-out cases of"
    f" {results['test_subjects']} subjects, {len(setting.folds)} of {config.num_folds} folds. No"
    " subject whose score is shown was trained on or took part in a choice.",
  )
  _scores(report, setting, results)
  first = config.arms[0]
  _pictures(report, setting, first, scored[first], unlabelled)
  _calibration(report, setting, scored[first], results)
  report.section("Training")
  jobs = {one.job.name: one.job for parts in trained.values() for one in parts}
  study.page.curves(report, jobs, {"loss": "loss", "validation/dice": "validation Dice"})
  _times(report, trained, scored)
  return report


def _scores(report: Report, setting: Setting, results: dict[str, Any]) -> None:
  names = setting.source.class_names[1:]
  report.section("Held-out subjects", setting.config.known)
  report.table(
    ["arm", "mean", "low", "high", *names, "missed"],
    [
      [
        arm,
        *(values["dice"][k] for k in ("mean", "low", "high")),
        *(values["dice_by_class"][n] for n in names),
        values["missed"],
      ]
      for arm, values in results["arms"].items()
    ],
    "Dice on the grid of the files. low, high: 95 % interval over subjects (and seeds, if several);"
    " missed: structures with Dice 0. cases.csv has every case.",
  )
  if len(setting.folds) > 1:
    report.table(
      ["arm", *(f"fold {number}" for number in results["folds"])],
      [[arm, *values["dice_by_fold"]] for arm, values in results["arms"].items()],
      "Mean Dice of each fold's held-out cases.",
    )
  study.page.comparison(report, results["comparison"], "plain training")


def _pictures(
  report: Report,
  setting: Setting,
  arm: str,
  scored: Sequence[study.Scored],
  unlabelled: Sequence[study.ShownPlane],
) -> None:
  shown = sorted((p for part in scored for p in part.pictures), key=lambda p: p.score)
  if len(shown) > 8:  # the worst, the best, and evenly between
    shown = [shown[i] for i in np.linspace(0, len(shown) - 1, 8).round().astype(int)]
  report.section("Predictions", "From the worst held-out case to the best.").overlay(
    [p.image for p in shown],
    [f"{p.name}: Dice {p.score:.3f}" for p in shown],
    class_names=setting.source.class_names,
    fills=[p.prediction for p in shown],
    outlines=[p.truth for p in shown],
    caption="Tint: prediction. Line: truth.",
  )
  if unlabelled:
    by = "the network" if len(scored) == 1 else f"the mean of the {len(scored)} networks"
    report.section("New images", f"imagesTs, by {by} of arm {arm}; label maps in predictions/.")
    report.overlay(
      [p.image for p in unlabelled[:8] for _ in range(2)],
      [caption for p in unlabelled[:8] for caption in (p.name, "prediction")],
      class_names=setting.source.class_names,
      fills=[fill for p in unlabelled[:8] for fill in (None, p.prediction)],
    )


def _calibration(
  report: Report, setting: Setting, scored: Sequence[study.Scored], results: dict[str, Any]
) -> None:
  report.section(
    "Can its probabilities be believed?",
    "Held-out voxels. The temperature of each network was fitted on its validation cases.",
  )
  titles = {"calibration": "as predicted", "calibration_with_temperature": "cooled"}
  report.table(
    ["arm", "probabilities", "class-wise ECE", "top-label ECE", "Brier", "NLL"],
    [
      [arm, title, *(values[key][name] for name in FIGURES)]
      for arm, values in results["arms"].items()
      for key, title in titles.items()
    ],
    "ECE: expected calibration error over 15 bins; NLL in nats a voxel.",
  )
  sums = calibration_of(scored, "before")
  report.curves(
    metrics.reliability_series(sums.classwise, setting.source.class_names),
    "predicted probability",
    "observed frequency",
    caption="Reliability: a line above the diagonal is too modest, one below too sure.",
  )


def _times(
  report: Report,
  trained: Mapping[str, Sequence[Trained]],
  scored: Mapping[str, Sequence[study.Scored]],
) -> None:
  report.section(
    "Where the time went",
    "The first network compiles (cold), the others find their program in the compilation cache."
    " A resumed run shows the times of its last part.",
  )
  report.table(
    [
      "network",
      "first step, s",
      "a step, s",
      "device busy",
      "evaluation, s",
      "a volume, s",
      "GFLOP",
    ],
    [
      [
        one.job.name,
        one.job.fit.timing.seconds_to_first_step,
        one.job.fit.timing.seconds_per_step,
        one.job.fit.timing.busy_fraction,
        one.job.fit.timing.seconds_evaluating,
        part.seconds,
        one.flops / 1e9,
      ]
      for arm in trained
      for one, part in zip(trained[arm], scored[arm], strict=True)
    ],
    "Seconds. device busy: at least this part of the time of training steps; a volume: prediction"
    " with all windows and mirrorings; GFLOP: operations of one update before the compiler.",
  )
