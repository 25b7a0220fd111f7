"""The page of a style-curriculum study: the answers, then tables and pictures as in the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lscl.curriculum import Audit
from experiments.lscl.hospitals import Setting
from experiments.lscl.scores import METRICS, Scored
from experiments.lscl.training import Config, Trained
from medjax import metrics
from medjax.train.report import Report

_NAMES = {"dice": "DSC", "jaccard": "JAC", "hausdorff": "HD, mm", "assd": "ASSD, mm"}
_MEANING = {
  "u-net": "nothing",
  "augmented": "nnU-Net-strength augmentation in both phases",
  "mixup": "two images and their labels, blended",
  "randconv": "a random convolution, blended with the image",
  "mixstyle": "feature statistics of two images, blended",
  "random-style": "an image in another image's style (the row WaveCT-AIN)",
  "scl": "style curriculum by the sign of every pixel",
  "lscl-paper": "by the sign of local means of the gradient, as published",
  "lscl-chain": "by the sign of local means of the gradient times (stylised - image)",
  "lscl-random": "by random cells, half of them: the control",
  "augmented-lscl-chain": "lscl-chain on top of augmentation",
}
_FIG4 = ("u-net", "random-style", "scl", "lscl-paper", "lscl-paper-tta", "lscl-chain", "augmented")


def page(
  config: Config,
  setting: Setting,
  pretrained: Mapping[str, Sequence[Trained]],
  trained: Mapping[str, Sequence[Trained]],
  scored: Mapping[str, Sequence[Scored]],
  audits: Mapping[str, Audit],
  results: dict[str, Any],
) -> Report:
  """Answers and verdicts, tables 1 to 3, the curriculum, pictures, curves."""
  report = Report(
    f"Style curricula on {setting.title}",
    f"{results['test_cases']} test cases of {results['test_people']} people, {len(setting.sites)}"
    f" sites, {len(setting.turns)} turn(s), {config.num_seeds} seed(s). {answers(config, results)}",
  )
  _sites(report, config, setting, results)
  _verdicts(report, config, results)
  _phases(report, results)
  _curriculum(report, config, audits, results, trained)
  _overlays(report, setting, scored)
  _times(report, pretrained, trained, scored, results)
  for title, key in (("loss", "loss"), ("source validation Dice", "validation/dice")):
    series = {arm: _curve(parts[0], key) for arm, parts in trained.items()}
    series = {arm: curve for arm, curve in series.items() if len(curve[0])}
    if series:
      report.curves(series, "step", title, caption="Second phase, first seed.")
  return report


def answers(config: Config, results: dict[str, Any]) -> str:
  """A sentence for each planned comparison, in words that its verdict allows."""
  sentences = []
  for row in results["questions"]:
    interval = f"{row['adjusted_low']:+.3f} to {row['adjusted_high']:+.3f}"
    said = {
      "better": f"beats {row['reference']} by more than {config.margin:g}",
      "worse": f"is worse than {row['reference']} by more than {config.margin:g}",
      "undecided": f"is equivalent to {row['reference']} within {config.margin:g}"
      if row["equivalent"]
      else f"is not told apart from {row['reference']}",
    }[row["verdict"]]
    sentences.append(
      f"On unseen sites {row['arm']} {said} (Dice {row['difference']:+.3f}, {interval})."
    )
  remarks = sorted({row["note"] for row in results["questions"] if row["note"]})
  sentences += [f"Beware: {remark}." for remark in remarks]
  return " ".join(sentences) or "No planned comparison among these arms."


def _sites(report: Report, config: Config, setting: Setting, results: dict[str, Any]) -> None:
  same = "The same people were scanned at all sites. " if setting.is_simulated else ""
  vote = results["label_vote"]
  if vote is not None:
    same += f"A vote of the training label maps, without any image, has DSC {vote:.3f}. "
  if any(stack.truth.ndim == 2 for turn in setting.turns for stack in turn.test):
    same += "Pictures have no pixel size: their distances are in pixels, not mm. "
  report.section(
    "In-domain beside unseen sites",
    f"{same}All arms made {config.finetune_updates} updates from common pre-trained weights.\n\n"
    f"{config.known}",
  )
  report.table(
    ["arm", "what it trains on", "in-domain DSC", "unseen DSC", "low", "high", "drop",
     "unseen HD, mm", "missed", "DSC score", "HD score, mm", "min-max", "flops"],
    [
      [
        arm,
        _meaning(arm),
        own["in_domain"]["dice"]["mean"],
        *(own["unseen"]["dice"][k] for k in ("mean", "low", "high")),
        own["in_domain"]["dice"]["mean"] - own["unseen"]["dice"]["mean"],
        own["unseen"]["hausdorff"]["mean"],
        own["missed"],
        own["weighted_dice"],
        own["weighted_hausdorff"],
        own["min_max"],
        own["flops_an_update"] / _least_flops(results),
      ]
      for arm, own in results["arms"].items()
    ],
    "DSC: mean over structures, cases, people and seeds, with a 95 % interval over people and"
    " seeds. missed: structures of unseen sites with DSC 0. Scores: unseen sites count twice (the"
    " challenge's weights, inferred from the paper's Table 1); min-max compares the rows of this"
    " table and no others. flops: of an update, over the least.",
  )  # fmt: skip
  for role in ("in-domain", "unseen"):
    columns = [site for site in setting.sites if any(_at(results, role, site))]
    cells = [
      [arm, *(_pair(own["sites"][role].get(site), m) for site in columns for m in _TABLE1)]
      for arm, own in results["arms"].items()
    ]
    header = ["arm", *(f"{site}: {_NAMES[m]}" for site in columns for m in _TABLE1)]
    if columns:
      report.table(header, cells, f"{role.capitalize()} sites, mean (deviation over cases).")


_TABLE1 = ("dice", "hausdorff")


def _verdicts(report: Report, config: Config, results: dict[str, Any]) -> None:
  report.section(
    "Verdicts",
    "Paired differences of Dice by hierarchical bootstrap over seeds and people, against a margin"
    f" of {config.margin:g}; Holm over the arms of a column. Equal compute lists the arms whose"
    " update costs the same to 5 %.",
  )
  if results["questions"]:
    header = ["arm", "against", "difference", "interval", "verdict", "smallest detectable"]
    cells = [
      [
        row["arm"],
        row["reference"],
        row["difference"],
        f"[{row['adjusted_low']:+.4f}, {row['adjusted_high']:+.4f}]",
        ", ".join(filter(None, [row["verdict"], "equivalent" * row["equivalent"], row["note"]])),
        row["smallest_detectable"],
      ]
      for row in results["questions"]
    ]
    report.table(header, cells, "The planned comparisons, on unseen sites.")
  for reference, rows in results["comparison"].items():
    report.table(*metrics.comparison_cells(rows), f"Against {reference}.")


def _phases(report: Report, results: dict[str, Any]) -> None:
  phases = list(next(iter(results["arms"].values()))["phases"])
  if phases:
    report.section("End of diastole and of systole").table(
      ["arm", *(f"{phase}: {_NAMES[m]}" for phase in phases for m in METRICS)],
      [
        [arm, *(own["phases"][phase][m]["mean"] for phase in phases for m in METRICS)]
        for arm, own in results["arms"].items()
      ],
      "Unseen sites.",
    )


def _curriculum(
  report: Report,
  config: Config,
  audits: Mapping[str, Audit],
  results: dict[str, Any],
  trained: Mapping[str, Sequence[Trained]],
) -> None:
  updates = np.arange(config.num_updates)
  report.section(
    "Does the curriculum get harder?",
    "Samples of each rule for the same training slices and styles, weights held at those of the"
    " first phase.",
  )
  report.curves(
    {rule: (updates, audit.figures["loss"]) for rule, audit in audits.items()},
    "update of a batch",
    "loss of the samples",
    caption="As in the paper's Fig. 3 (a), without training in between.",
  )
  in_training = {}
  for arm in audits:
    names = [f"loss_{i}" for i in updates]
    rows = [r for one in trained.get(arm, ())[:1] for r in one.fit.history if names[0] in r]
    if rows:
      in_training[arm] = (updates, [np.mean([r[name] for r in rows]) for name in names])
  if in_training:
    report.curves(
      in_training,
      "update of a batch",
      "loss of the samples",
      caption="The same during the second phase, its mean: each update trains on its sample.",
    )
  report.table(
    ["rule", *(f"loss {i}" for i in updates), "mean weight at the end", "wrong way"],
    [
      [rule, *audit.figures["loss"], audit.figures["coverage"][-1], audit.figures["wrong_way"]]
      for rule, audit in audits.items()
    ],
    "Wrong way: share of the pixels whose weight the published rule raises where the stylised image"
    " is the darker one, so that the blend descends the loss.",
  )
  differences = {rule: np.abs(np.diff(a.samples, axis=0)) for rule, a in audits.items()}
  darkest = max((float(d.max(initial=0)) for d in differences.values()), default=0.0)
  for rule, audit in audits.items():
    report.images(
      [audit.samples[0], audit.samples[-1]],
      [f"{rule}: z0, the image", f"z{len(audit.samples) - 1}"],
      window=(0.0, 1.0),
    )
    if darkest > 0:
      report.images(
        differences[rule],
        [f"|z{i + 1} - z{i}|" for i in range(len(differences[rule]))],
        window=(0.0, darkest),
        caption="As in Fig. 3 (b); one scale for all rules.",
      )


def _overlays(report: Report, setting: Setting, scored: Mapping[str, Sequence[Scored]]) -> None:
  """One case a site, arm by arm, as in Fig. 4: first turn, first seed."""
  arms = [arm for arm in _FIG4 if arm in scored] or list(scored)
  shown = [picture for arm in arms for picture in scored[arm][0].pictures]
  report.section("Arms by sites", f"From top to bottom: {', '.join(arms)}.").overlay(
    [p.image for p in shown],
    [f"{arm}, {p.site}: {p.dice:.3f}" for arm in arms for p in scored[arm][0].pictures],
    class_names=setting.class_names,
    fills=[p.prediction for p in shown],
    outlines=[p.truth for p in shown],
    columns=len(scored[arms[0]][0].pictures),
    caption="Tint: prediction. Line: truth. Number: mean Dice of the case.",
  )


def _times(
  report: Report,
  pretrained: Mapping[str, Sequence[Trained]],
  trained: Mapping[str, Sequence[Trained]],
  scored: Mapping[str, Sequence[Scored]],
  results: dict[str, Any],
) -> None:
  report.section(
    "What it costs",
    "Means over seeds and turns. A resumed run shows the times of its last part; a curriculum makes"
    " several updates a step.",
  )
  fits = {f"first phase, {kind}": parts for kind, parts in pretrained.items()} | dict(trained)
  report.table(
    ["training", "hours", "seconds an update", "GFLOP an update"],
    [
      [
        name,
        np.mean([one.hours for one in parts]),
        np.mean([one.seconds_an_update for one in parts]),
        results["arms"][name]["flops_an_update"] / 1e9 if name in results["arms"] else None,
      ]
      for name, parts in fits.items()
    ],
  )
  report.table(
    ["arm", "seconds a volume"],
    [[row, np.mean([part.seconds for part in parts])] for row, parts in scored.items()],
    "Prediction of a test case, four times over with rotations.",
  )


def _meaning(row: str) -> str:
  arm = row.removesuffix("-tta")
  return _MEANING[arm] + (", four rotations averaged at test time" if arm != row else "")


def _least_flops(results: dict[str, Any]) -> float:
  return min(own["flops_an_update"] for own in results["arms"].values())


def _at(results: dict[str, Any], role: str, site: str) -> list[bool]:
  return [site in own["sites"][role] for own in results["arms"].values()]


def _pair(figures: Mapping[str, Any] | None, metric: str) -> str | None:
  if figures is None:
    return None
  mean, std = figures[metric]["mean"], figures[metric]["std"]
  digits = 3 if metric == "dice" else 2
  return f"{mean:.{digits}f} ({std:.{digits}f})"


def _curve(one: Trained, key: str) -> tuple[np.ndarray, np.ndarray]:
  rows = [row for row in one.fit.history if key in row]
  return np.array([row["step"] for row in rows]), np.array([row[key] for row in rows])
