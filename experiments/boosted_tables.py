"""Explainable boosting on tables: does a sum of curves do as well as models that nobody can read?

Kang et al., "An Interpretable Machine Learning Model with Deep Learning-Based Imaging Biomarkers
for Diagnosis of Alzheimer's Disease" (2023) takes such a machine for its curves; what it gives on
plain numbers is what imaging has to add to.

  python -m experiments.boosted_tables demo      569 breast masses; 1 minute
  python -m experiments.boosted_tables oasis --data oasis_longitudinal.csv
                                                 OASIS-2: dementia; 1 minute
  python -m experiments.boosted_tables prostate --data marksheet.csv
                                                 PI-CAI: cancer before the images are read; 1 minute

Times are estimates for 2 CPU cores; extras `classical` and `boosted`. Five folds of people, so that
everybody is tested once a seed; a person's rows stand in one fold. Empty cells are a bin of the
machine's own and the mean of the training rows elsewhere. The machine stops boosting by people of
its bag's other side; "rows" draws the bags as the library does, which splits a person's visits.

The paper prints no figure of tables, so that every question is open but one: "labels" is the
machine trained on answers in a random order, people's numbers kept, which has to know nothing.

results.json: the common schema of `study.results`; importance.<arm>: mean size of each term in
log-odds, over folds and seeds, of the terms that a machine has.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments import boosted, classical, clinical_tables
from medjax import check, cli, data, study
from medjax.data.seeds import generator
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Models of a table."""

  # what is compared
  arms: tuple[str, ...] = ("machine", "no-pairs", "rows", "logistic", "forest", "labels")
  num_seeds: int = 3  # seeds, each with its own folds and bags
  num_folds: int = 5  # of people
  num_bags: int = 8  # of the boosting machine
  num_pairs: int = 2  # of features in it
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.require(self.num_folds >= 2, "num_folds >= 2", f"{self.num_folds}", "take 5")


# --- data


def load(options: cli.RunOptions) -> clinical_tables.Table:
  read = {"oasis": clinical_tables.oasis, "prostate": clinical_tables.prostate}
  if options.preset in read:
    (path,) = study.paths_of(options.data, 1)
    return read[options.preset](path)
  study.paths_of(options.data, 0)
  return clinical_tables.masses()


# --- arms


class Fold(NamedTuple):
  """Known rows with their answers and people, and new rows."""

  known: np.ndarray
  label: np.ndarray
  new: np.ndarray
  names: tuple[str, ...]
  people: tuple[str, ...]


Answer = tuple[np.ndarray, dict[str, float]]
"""[new row, class] logits, and the mean size of terms."""


def _machine(
  has_pairs: bool = True, by_people: bool = True, is_shuffled: bool = False
) -> Callable[..., Answer]:
  def answer(fold: Fold, config: Config, seed: int) -> Answer:
    label = generator(seed, "labels").permutation(fold.label) if is_shuffled else fold.label
    found = boosted.boosted(
      fold.known, label, fold.new, seed,
      names=fold.names, people=fold.people if by_people else None,
      num_pairs=config.num_pairs if has_pairs else 0, num_bags=config.num_bags,
    )  # fmt: skip
    sizes = dict(zip(found.terms, found.importance.tolist(), strict=True))
    return np.stack([0 * found.log_odds, found.log_odds], 1), sizes

  return answer


def _library(classify: classical.Classifier) -> Callable[..., Answer]:
  def answer(fold: Fold, config: Config, seed: int) -> Answer:
    known, new = clinical_tables.filled(fold.known, fold.new)
    shares = np.clip(classify(known, fold.label, new, 2, seed), 1e-6, 1)
    return np.log(shares), {}

  return answer


ARMS = study.arms(
  study.Arm("machine", "curves of features and of two pairs", _machine),
  study.Arm("no-pairs", "curves of features alone", lambda: _machine(has_pairs=False)),
  study.Arm("rows", "bags of rows, as in the library", lambda: _machine(by_people=False)),
  study.Arm("logistic", "lines: logistic regression", lambda: _library(classical.logistic)),
  study.Arm("forest", "a random forest", lambda: _library(classical.forest)),
  study.Arm("labels", "curves of shuffled answers: control", lambda: _machine(is_shuffled=True)),
)

# --- questions, written down before the run


def _ask(text: str, reference: str, arm: str, expects: Any = "open") -> study.Question:
  spread = (("subject", 0.2), ("seed", 0.01))
  return study.Question(text, reference, (arm,), "auroc", "test", expects, spread)


QUESTIONS = (
  _ask("Do curves beat lines?", "logistic", "machine"),
  _ask("Do they beat a forest?", "forest", "machine"),
  _ask("Do pairs add?", "no-pairs", "machine"),
  _ask("Must bags be of people?", "rows", "machine"),
  _ask("Do the answers matter?", "labels", "machine", "better"),
)

PRESETS = {"demo": Config(), "oasis": Config(), "prostate": Config()}

# --- the run and its page


def turns_of(table: clinical_tables.Table, num_folds: int, seed: int) -> list[study.Turn]:
  """A turn a fold, each with its share of the people who are ill in some row."""
  ill = {name for name, own in zip(table.subjects, table.label, strict=True) if own}
  kinds = ["ill" if name in ill else "other" for name in table.subjects]
  drawn = data.folds(table.subjects, num_folds, seed=seed, domains=kinds)
  return [
    study.Turn(f"{seed}-{k}", None, None, {}, {"train": own["train"], "test": own["validation"]})
    for k, own in enumerate(fold.parts for fold in drawn)
  ]


def build(config: Config, options: cli.RunOptions) -> None:
  table = load(options)
  seeds = range(options.seed, options.seed + config.num_seeds)
  turns = {seed: turns_of(table, config.num_folds, seed) for seed in seeds}
  folds = [turn for own in turns.values() for turn in own]
  design = study.design(config, options.seed, QUESTIONS, config.arms, folds, kind="folds of people")
  with options.directory(config, table.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    subjects = np.array(table.subjects)
    rows: list[dict[str, Any]] = []
    terms: dict[str, list[dict[str, float]]] = {}
    for seed, turn in [(seed, turn) for seed, own in turns.items() for turn in own]:
      train, test = (np.isin(subjects, list(turn.people[part])) for part in ("train", "test"))
      fold = Fold(
        table.feature[train],
        table.label[train],
        table.feature[test],
        table.names,
        tuple(subjects[train].tolist()),
      )
      about = {"seed": seed, "turn": turn.name, "role": "test"}
      for arm in config.arms:
        logits, sizes = ARMS[arm].make()(fold, config, seed)
        if sizes:
          terms.setdefault(arm, []).append(sizes)
        own = {"arm": arm, **about}
        rows += study.classes(
          logits, table.label[test], about=own, subjects=subjects[test].tolist()
        )
    found = design.results(
      rows,
      ("auroc", "accuracy"),
      is_simulated=False,
      importance={arm: mean_of(own) for arm, own in terms.items()},
    )
    study.finish(directory, found, page(config, table, found), rows=rows)


def mean_of(sizes: list[dict[str, float]]) -> dict[str, float]:
  """Mean size of each term over folds; a pair counts as 0 where it was not chosen."""
  names = dict.fromkeys(name for own in sizes for name in own)
  return {name: float(np.mean([own.get(name, 0.0) for own in sizes])) for name in names}


def page(config: Config, table: clinical_tables.Table, found: dict[str, Any]) -> Report:
  """The answers, scores, verdicts and what the machine adds up."""
  people, ill = len(set(table.subjects)), int(table.label.sum())
  text = f"{len(table.label):,} rows of {people:,} people, {ill:,} of them ill. {config.known}"
  report = study.page.start(f"Curves of {table.title}", found)
  study.page.scores(report, found, ARMS, text=text.strip())
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  for arm, sizes in found["importance"].items():
    largest = sorted(sizes.items(), key=lambda own: -own[1])[:12]
    report.table(
      ["term", "mean size in log-odds"],
      [list(own) for own in largest],
      f"The largest terms of {arm}, over folds and seeds.",
    )
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
