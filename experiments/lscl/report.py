"""The page of a style-curriculum study: the answers, then tables and pictures as in the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lscl.curriculum import Audit
from experiments.lscl.hospitals import Setting
from experiments.lscl.scores import METRICS
from experiments.lscl.training import ARMS, Config
from medjax import study
from medjax.train.report import Report

_NAMES = {"dice": "DSC", "jaccard": "JAC", "hausdorff": "HD, mm", "assd": "ASSD, mm"}
_FIG4 = ("u-net", "random-style", "scl", "lscl-paper", "lscl-paper-tta", "lscl-chain", "augmented")


def page(
  config: Config,
  setting: Setting,
  pretrained: Mapping[str, Sequence[study.Trained]],
  trained: Mapping[str, Sequence[study.Trained]],
  scored: Mapping[str, Sequence[study.Scored]],
  audits: Mapping[str, Audit],
  results: dict[str, Any],
) -> Report:
  """Answers and verdicts, tables 1 to 3, the curriculum, pictures, curves."""
  report = Report(
    f"Style curricula on {setting.title}",
    f"{results['test_cases']} test cases of {results['test_people']} people, {len(setting.sites)}"
    f" sites, {len(setting.turns)} turn(s), {config.num_seeds} seed(s). {answers(results)}",
  )
  _sites(report, config, setting, results)
  _verdicts(report, config, results)
  _phases(report, results)
  _curriculum(report, config, audits, results, trained)
  _overlays(report, setting, scored)
  _times(report, pretrained, trained, scored, results)
  first = {arm: parts[0] for arm, parts in trained.items()}
  labels = {"loss": "loss", "validation/dice": "source validation Dice"}
  study.page.curves(report, first, labels, caption="Second phase, first seed.")
  return report


def answers(results: dict[str, Any]) -> str:
  """A sentence for each planned comparison, in words that its verdict allows."""
  said = [f"On unseen sites {study.sentence(row, 'Dice')}" for row in results["questions"]]
  return " ".join(said) or "No planned comparison among these arms."


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
  unseen = [{"metric": "dice", "role": "unseen", "question": "", **r} for r in results["questions"]]
  if unseen:
    study.page.verdicts(report, unseen)
  else:
    report.section("Verdicts")
  for reference, rows in results["comparison"].items():
    study.page.comparison(report, rows, reference)


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
  trained: Mapping[str, Sequence[study.Trained]],
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


def _overlays(
  report: Report, setting: Setting, scored: Mapping[str, Sequence[study.Scored]]
) -> None:
  """One case a site, arm by arm, as in Fig. 4: first turn, first seed."""
  arms = [arm for arm in _FIG4 if arm in scored] or list(scored)
  shown = {arm: scored[arm][0].pictures for arm in arms}
  study.page.pictures(report, shown, setting.class_names, title="Arms by sites")


def _times(
  report: Report,
  pretrained: Mapping[str, Sequence[study.Trained]],
  trained: Mapping[str, Sequence[study.Trained]],
  scored: Mapping[str, Sequence[study.Scored]],
  results: dict[str, Any],
) -> None:
  fits = {f"first phase, {kind}": parts for kind, parts in pretrained.items()} | dict(trained)
  flops = {arm: own["flops_an_update"] for arm, own in results["arms"].items()}
  study.page.costs(report, fits, flops)
  report.table(
    ["arm", "seconds a volume"],
    [[row, np.mean([part.seconds for part in parts])] for row, parts in scored.items()],
    "Prediction of a test case, four times over with rotations.",
  )


def _meaning(row: str) -> str:
  arm = row.removesuffix("-tta")
  return ARMS[arm].meaning + (", four rotations averaged at test time" if arm != row else "")


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
