"""The page of a style-curriculum study: the answers, then tables and pictures as in the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lscl.curriculum import Audit
from experiments.lscl.scores import METRICS, ROLES, ROTATED
from experiments.lscl.training import ARMS, Task
from medjax import study
from medjax.train.report import Report

_NAMES = {"dice": "DSC", "jaccard": "JAC", "hausdorff": "HD, mm", "assd": "ASSD, mm"}
_FIG4 = ("u-net", "random-style", "scl", "lscl-paper", "lscl-paper-tta", "lscl-chain", "augmented")


def page(
  task: Task,
  pretrained: Mapping[str, Sequence[study.Trained]],
  trained: Mapping[str, Sequence[study.Trained]],
  scored: Mapping[str, Sequence[study.Scored]],
  audits: Mapping[str, Audit],
  results: dict[str, Any],
) -> Report:
  """Answers and verdicts, tables 1 to 3, the curriculum, pictures, curves."""
  config, setting, arms = task.config, task.setting, results["arms"]
  report = Report(
    f"Style curricula on {setting.title}",
    f"{results['test_cases']} test cases of {results['test_people']} people, {len(setting.sites)}"
    f" sites, {len(setting.turns)} turn(s), {config.num_seeds} seed(s). {answers(results)}",
  )
  _sites(report, task, results)
  asked = [
    {"metric": "dice", "role": "unseen", "question": "", **row} for row in results["questions"]
  ]
  if asked:
    study.page.verdicts(report, asked)
  else:
    report.section("Verdicts")
  for reference, rows in results["comparison"].items():
    study.page.comparison(report, rows, reference)
  phases = list(next(iter(arms.values()))["phases"])
  if phases:
    report.section("End of diastole and of systole").table(
      ["arm", *(f"{phase}: {_NAMES[m]}" for phase in phases for m in METRICS)],
      [
        [arm, *(own["phases"][phase][m]["mean"] for phase in phases for m in METRICS)]
        for arm, own in arms.items()
      ],
      "Unseen sites.",
    )
  _curriculum(report, config.num_updates, audits, trained)
  shown = [arm for arm in _FIG4 if arm in scored] or list(scored)
  pictures = {arm: scored[arm][0].pictures for arm in shown}  # as in Fig. 4: first turn and seed
  study.page.pictures(report, pictures, setting.class_names, title="Arms by sites")
  fits = {f"first phase, {kind}": parts for kind, parts in pretrained.items()} | dict(trained)
  study.page.costs(report, fits, {arm: own["flops_an_update"] for arm, own in arms.items()})
  report.table(
    ["arm", "seconds a volume"],
    [[row, np.mean([part.seconds for part in parts])] for row, parts in scored.items()],
    "Prediction of a test case, four times over with rotations.",
  )
  first = {arm: parts[0] for arm, parts in trained.items()}
  labels = {"loss": "loss", "validation/dice": "source validation Dice"}
  study.page.curves(report, first, labels, caption="Second phase, first seed.")
  return report


def answers(results: dict[str, Any]) -> str:
  """A sentence for each planned comparison, in words that its verdict allows."""
  said = [f"On unseen sites {study.sentence(row, 'Dice')}" for row in results["questions"]]
  return " ".join(said) or "No planned comparison among these arms."


def _sites(report: Report, task: Task, results: dict[str, Any]) -> None:
  config, setting, arms = task.config, task.setting, results["arms"]
  same = "The same people were scanned at all sites. " if setting.is_simulated else ""
  if results["label_vote"] is not None:
    vote = f"{results['label_vote']:.3f}"
    same += f"A vote of the training label maps, without any image, has DSC {vote}. "
  if any(stack.truth.ndim == 2 for turn in setting.turns for stack in turn.test):
    same += "Pictures have no pixel size: their distances are in pixels, not mm. "
  report.section(
    "In-domain beside unseen sites",
    f"{same}All arms made {config.finetune_updates} updates from common pre-trained weights.\n\n"
    f"{config.known}",
  )
  least = min(own["flops_an_update"] for own in arms.values())
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
        *(own[key] for key in ("missed", "weighted_dice", "weighted_hausdorff", "min_max")),
        own["flops_an_update"] / least,
      ]
      for arm, own in arms.items()
    ],
    "DSC: mean over structures, cases, people and seeds, with a 95 % interval over people and"
    " seeds. missed: structures of unseen sites with DSC 0. Scores: unseen sites count twice (the"
    " challenge's weights, inferred from the paper's Table 1); min-max compares the rows of this"
    " table and no others. flops: of an update, over the least.",
  )  # fmt: skip
  for role in reversed(ROLES):
    at_site = {arm: own["sites"][role] for arm, own in arms.items()}
    columns = [
      (site, metric)
      for site in setting.sites
      if any(site in own for own in at_site.values())
      for metric in ("dice", "hausdorff")
    ]
    if columns:
      report.table(
        ["arm", *(f"{site}: {_NAMES[metric]}" for site, metric in columns)],
        [[arm, *(_pair(own.get(s), m) for s, m in columns)] for arm, own in at_site.items()],
        f"{role.capitalize()} sites, mean (deviation over cases).",
      )


def _curriculum(
  report: Report,
  num_updates: int,
  audits: Mapping[str, Audit],
  trained: Mapping[str, Sequence[study.Trained]],
) -> None:
  updates, axes = np.arange(num_updates), ("update of a batch", "loss of the samples")
  report.section(
    "Does the curriculum get harder?",
    "Samples of each rule for the same training slices and styles, weights held at those of the"
    " first phase.",
  )
  report.curves(
    {rule: (updates, audit.figures["loss"]) for rule, audit in audits.items()},
    *axes,
    caption="As in the paper's Fig. 3 (a), without training in between.",
  )
  in_training = {}
  for arm in (arm for arm in audits if arm in trained):
    losses = [trained[arm][0].curve(f"loss_{i}")[1] for i in updates]
    if losses[0]:
      in_training[arm] = (updates, [np.mean(values) for values in losses])
  if in_training:
    caption = "The same during the second phase, its mean: each update trains on its sample."
    report.curves(in_training, *axes, caption=caption)
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


def _meaning(row: str) -> str:
  arm = row.removesuffix(ROTATED)
  return ARMS[arm].meaning + (", four rotations averaged at test time" if arm != row else "")


def _pair(figures: Mapping[str, Any] | None, metric: str) -> str | None:
  if figures is None:
    return None
  digits = 3 if metric == "dice" else 2
  return f"{figures[metric]['mean']:.{digits}f} ({figures[metric]['std']:.{digits}f})"
