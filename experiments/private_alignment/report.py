"""The page of a gradient-alignment study: released quantities, and what they cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.private_alignment.pictures import Pictures
from experiments.private_alignment.scores import REFERENCE
from experiments.private_alignment.training import ARMS, Config, Table, Trained
from medjax import study
from medjax.train.report import Report

_PAPER = {  # Table 1: accuracy and AUROC on CIFAR-10, then on the children's radiographs
  "dp-sgd": (0.6933, 0.9491, 0.7019, 0.8961),
  "cosine": (0.7096, 0.9567, 0.7228, 0.8962),
  "magnitude": (0.7041, 0.9558, 0.6939, 0.8929),
  "std": (0.7292, 0.9601, 0.7051, 0.8950),
  "cov": (0.7353, 0.9613, 0.7340, 0.8924),
}
_PAPER_COSINE = {"dp-sgd": 0.02, "cosine": 0.15, "cov": 0.10}


def page(
  config: Config,
  pictures: Pictures,
  trained: Mapping[Table, Mapping[str, Sequence[Trained]]],
  results: dict[str, Any],
) -> Report:
  """The findings, what was protected, both tables, what was and was not released."""
  counts = results["data"]
  report = Report(
    f"Gradient alignment in private training: {pictures.title}",
    f"{counts['pictures']['train']:,} pictures to train on, {counts['pictures']['test']:,} to test,"
    f" {len(pictures.class_names)} classes, {config.num_seeds} seeds. {findings(config, results)}",
  )
  if "private" in trained:
    _private(report, config, trained["private"], results["tables"]["private"])
  if "published" in trained:
    _published(report, config, trained["published"], results["tables"]["published"])
  _released(report, config, trained, results)
  for table, arms in trained.items():
    first = {one.job.name: one.job for runs in arms.values() for one in runs[:1]}
    labels = {"cosine": f"{table}: cosine", "release_norm": f"{table}: release norm"}
    study.page.curves(report, first, labels)
  return report


def findings(config: Config, results: dict[str, Any]) -> str:
  """Sentences that name every verdict."""
  sentences = []
  for table, title in (
    ("private", f"At epsilon {config.target_epsilon:g}"),
    ("published", f"Without privacy, at noise {config.noise_multiplier:g}"),
  ):
    rows = results["tables"].get(table, {}).get("comparison", [])
    for column in dict.fromkeys(row["column"] for row in rows if "updates" in row["column"]):
      own = [row for row in rows if row["column"] == column]
      said = ", ".join(
        f"{row['arm']} {row['difference']:+.3f} ({row['verdict']}"
        f"{', equivalent' if row['equivalent'] else ''})"
        for row in own
      )
      name = column.replace("auroc", "AUROC")
      sentences.append(f"{title}, {name}, against {REFERENCE}: {said}.")
  return " ".join(sentences)


def _private(
  report: Report, config: Config, trained: Mapping[str, Sequence[Trained]], values: dict[str, Any]
) -> None:
  cost = next(iter(trained.values()))[0].cost
  report.section("What is protected", cost.statement.replace("\n", "\n\n"))
  num_runs = sum(len(runs) + len(values["arms"][arm]["trials"]) for arm, runs in trained.items())
  if num_runs > 1:
    report.note(
      f"The statement is about one training. This page compares {num_runs} trainings on the same"
      f" people; if they were private, all of it together would cost up to {num_runs} times as much"
      f" (epsilon {num_runs * cost.epsilon:.3g}, delta {num_runs * config.delta:.3g})."
    )
  least = min(own["flops_an_update"] for own in values["arms"].values())
  report.section(
    "Private filters at equal epsilon",
    "The noise of every arm was calibrated to one epsilon and every arm had the same trials of its"
    " learning rate, judged by AUROC on validation pictures; the last step counts.",
  )
  report.table(
    [
      "arm", "what counts", "epsilon", "epsilon (RDP)", "noise multipliers", "passes", "flops",
      "rate", "accuracy", "low", "high", "AUROC", "low", "high",
    ],
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
        *(own[metric][k] for metric in ("accuracy", "auroc") for k in ("mean", "low", "high")),
      ]
      for arm, own in values["arms"].items()
    ],
    f"Test pictures; 95 % intervals over seeds and pictures; delta {config.delta:g}; epsilon by"
    " privacy loss distributions; passes: times that a sample's gradients are computed; flops: of"
    " an update, over the least.",
  )  # fmt: skip
  study.page.comparison(report, values["comparison"], REFERENCE)
  _trials(report, values)


def _published(
  report: Report, config: Config, trained: Mapping[str, Sequence[Trained]], values: dict[str, Any]
) -> None:
  report.section(
    "The published filters: epsilon is infinite",
    f"Equal noise ({config.noise_multiplier:g}, inferred from the paper's epsilon) and equal steps."
    " The cosines are not released privately, and diagnostics of the private pictures were shown:"
    " nothing in this table is private, the arms without a filter included.",
  )
  report.table(
    ["arm", "what counts", "epsilon", "cosine", "rate", "accuracy", "low", "high", "AUROC", "low",
     "high"],
    [
      [
        arm,
        ARMS[arm].meaning,
        own["epsilon"],
        own["cosine"],
        own["learning_rate"],
        *(own[metric][k] for metric in ("accuracy", "auroc") for k in ("mean", "low", "high")),
      ]
      for arm, own in values["arms"].items()
    ],
    "cosine: of the released to the plain mean gradient of the sample, mean over the training.",
  )  # fmt: skip
  study.page.comparison(report, values["comparison"], REFERENCE)
  _trials(report, values)
  report.table(
    ["arm", "CIFAR-10 accuracy", "AUROC", "pneumonia accuracy", "AUROC", "cosine, CIFAR-10"],
    [[arm, *numbers, _PAPER_COSINE.get(arm)] for arm, numbers in _PAPER.items()],
    "Table 1 of the paper: one run each, validation scores.",
  )


def _trials(report: Report, values: dict[str, Any]) -> None:
  trials = {arm: own["trials"] for arm, own in values["arms"].items() if own["trials"]}
  if trials:
    rates = list(next(iter(trials.values())))
    report.table(
      ["arm", *(f"rate {rate}" for rate in rates)],
      [[arm, *(own[rate] for rate in rates)] for arm, own in trials.items()],
      "Validation AUROC of the trials, one seed each, none of them a run that counts above.",
    )


def _released(
  report: Report,
  config: Config,
  trained: Mapping[Table, Mapping[str, Sequence[Trained]]],
  results: dict[str, Any],
) -> None:
  counts = results["data"]
  left_out = "; ".join(f"{n} {why}" for why, n in counts["left_out"].items()) or "none"
  shown = (
    "parameters and optimiser state at checkpoints, the length of released gradients, and scores on"
    " test pictures"
  )
  report.section(
    "What is released, and what is not",
    f"Released of a private training: {shown}. These are functions of gradients with noise, of"
    " public settings and of people outside the training part.\n\n"
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
    f" (left out: {left_out}).",
  )
  if "published" in trained:
    report.note(
      "This run also trained the arms of infinite epsilon on the same pictures: shared as a whole,"
      " its directory protects no one. Run with --published to leave them out."
    )
