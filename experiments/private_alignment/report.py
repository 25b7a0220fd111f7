"""The page of a gradient-alignment study: released quantities, and what they cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.private_alignment.scores import REFERENCE
from experiments.private_alignment.training import ARMS, Config, Run, Table, Task
from medjax import study
from medjax.train.report import Report

# Table 1: accuracy and AUROC on CIFAR-10, then on the children's radiographs; cosine on CIFAR-10
_PAPER = {
  "dp-sgd": (0.6933, 0.9491, 0.7019, 0.8961, 0.02),
  "cosine": (0.7096, 0.9567, 0.7228, 0.8962, 0.15),
  "magnitude": (0.7041, 0.9558, 0.6939, 0.8929, None),
  "std": (0.7292, 0.9601, 0.7051, 0.8950, None),
  "cov": (0.7353, 0.9613, 0.7340, 0.8924, 0.10),
}
_SCORES = ["accuracy", "low", "high", "AUROC", "low", "high"]


def page(
  task: Task, trained: Mapping[Table, Mapping[str, Sequence[Run]]], results: dict[str, Any]
) -> Report:
  """The findings, what was protected, both tables, what was and was not released."""
  config, counts, tables = task.config, results["data"], results["tables"]
  report = Report(
    f"Gradient alignment in private training: {counts['title']}",
    f"{counts['pictures']['train']:,} pictures to train on, {counts['pictures']['test']:,} to test,"
    f" {len(counts['class_names'])} classes, {config.num_seeds} seeds. {findings(config, tables)}",
  )
  if "private" in trained:
    _private(report, config, trained["private"], tables["private"])
  if "published" in trained:
    _published(report, config, tables["published"])
  _released(report, config, counts["left_out"], is_shown="published" in trained)
  for table, arms in trained.items():
    first = {runs[0].trained.name: runs[0].trained for runs in arms.values()}
    labels = {"cosine": f"{table}: cosine", "release_norm": f"{table}: release norm"}
    study.page.curves(report, first, labels)
  return report


def findings(config: Config, tables: dict[str, Any]) -> str:
  """Sentences that name every verdict at equal updates."""
  titles = {
    "private": f"At epsilon {config.target_epsilon:g}",
    "published": f"Without privacy, at noise {config.noise_multiplier:g}",
  }
  said = {
    title: [
      study.sentence(row, study.page.name_of(row["column"].partition(",")[0]))
      for row in tables.get(table, {}).get("comparison", [])
      if "updates" in row["column"]
    ]
    for table, title in titles.items()
  }
  return " ".join(f"{title}, {' '.join(own)}" for title, own in said.items() if own)


def _private(
  report: Report, config: Config, trained: Mapping[str, Sequence[Run]], values: dict[str, Any]
) -> None:
  first, plan = next(iter(values["arms"].values())), next(iter(trained.values()))[0].plan
  report.section("What is protected", plan.statement().replace("\n", "\n\n"))
  num_runs = sum(len(runs) + len(values["arms"][arm]["trials"]) for arm, runs in trained.items())
  if num_runs > 1:
    report.note(
      f"The statement is about one training. This page compares {num_runs} trainings on the same"
      f" people; if they were private, all of it together would cost up to {num_runs} times as much"
      f" (epsilon {num_runs * first['epsilon']:.3g}, delta {num_runs * config.delta:.3g})."
    )
  least = min(own["flops_an_update"] for own in values["arms"].values())
  report.section(
    "Private filters at equal epsilon",
    "The noise of every arm was calibrated to one epsilon and every arm had the same trials of its"
    " learning rate, judged by AUROC on validation pictures; the last step counts.",
  )
  report.table(
    ["arm", "what counts", "epsilon", "epsilon (RDP)", "noise multipliers", "passes", "flops",
     "rate", *_SCORES],
    [
      [
        arm,
        ARMS[arm].meaning,
        own["epsilon"],
        own["epsilon_rdp"],
        ", ".join(f"{sigma:.3g}" for sigma in own["noise_multipliers"]),
        own["passes_over_a_sample"],
        own["flops_an_update"] / least,
        own["learning_rate"],
        *_cells(own),
      ]
      for arm, own in values["arms"].items()
    ],
    f"Test pictures; 95 % intervals over seeds and pictures; delta {config.delta:g}; epsilon by"
    " privacy loss distributions; passes: times that a sample's gradients are computed; flops: of"
    " an update, over the least.",
  )  # fmt: skip
  _verdicts(report, values)


def _published(report: Report, config: Config, values: dict[str, Any]) -> None:
  report.section(
    "The published filters: epsilon is infinite",
    f"Equal noise ({config.noise_multiplier:g}, inferred from the paper's epsilon) and equal steps."
    " The cosines are not released privately, and diagnostics of the private pictures were shown:"
    " nothing in this table is private, the arms without a filter included.",
  )
  report.table(
    ["arm", "what counts", "epsilon", "cosine", "rate", *_SCORES],
    [
      [
        arm,
        ARMS[arm].meaning,
        own["epsilon"],
        own["cosine"],
        own["learning_rate"],
        *_cells(own),
      ]
      for arm, own in values["arms"].items()
    ],
    "cosine: of the released to the plain mean gradient of the sample, mean over the training.",
  )
  _verdicts(report, values)
  report.table(
    ["arm", "CIFAR-10 accuracy", "AUROC", "pneumonia accuracy", "AUROC", "cosine, CIFAR-10"],
    [[arm, *numbers] for arm, numbers in _PAPER.items()],
    "Table 1 of the paper: one run each, validation scores.",
  )


def _cells(own: dict[str, Any]) -> list[float]:
  return [own[metric][k] for metric in ("accuracy", "auroc") for k in ("mean", "low", "high")]


def _verdicts(report: Report, values: dict[str, Any]) -> None:
  """Against the reference, and the trials that chose the learning rates."""
  study.page.comparison(report, values["comparison"], REFERENCE)
  trials = {arm: own["trials"] for arm, own in values["arms"].items() if own["trials"]}
  if trials:
    report.table(
      ["arm", *(f"rate {rate}" for rate in next(iter(trials.values())))],
      [[arm, *own.values()] for arm, own in trials.items()],
      "Validation AUROC of the trials, one seed each, none of them a run that counts above.",
    )


def _released(
  report: Report, config: Config, left_out: Mapping[str, int], *, is_shown: bool
) -> None:
  """What a private training gives away; `is_shown`: arms that are not private ran beside it."""
  removed = "; ".join(f"{n} {why}" for why, n in left_out.items()) or "none"
  report.section(
    "What is released, and what is not",
    "Released of a private training: parameters and optimiser state at checkpoints, the length of"
    " released gradients, and scores on test pictures. These are functions of gradients with noise,"
    " of public settings and of people outside the training part.\n\n"
    "Not released, and in no row of this page for the private table: losses and accuracies on"
    " training pictures, sizes of samples, shares of pictures kept, cosines, norms of single"
    " gradients. Names, hashes and the split lie in private/, which only its owner may read, with"
    " the keys of sampling and noise"
    + (
      "."
      if config.secrets == "os"
      else "; here, though, keys come from the seed: reproducible, and not private once the seed is"
      " known."
    )
    + "\n\nOutside the guarantee: validation and test people, who are not protected at all; the"
    " choice of learning rates on validation pictures; the number of people, which is taken as"
    " public; removing copies, which looked at all pictures"
    f" (left out: {removed}).",
  )
  if is_shown:
    report.note(
      "This run also trained the arms of infinite epsilon on the same pictures: shared as a whole,"
      " its directory protects no one. Run with --published to leave them out."
    )
