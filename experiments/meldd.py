"""MelDD: does a melanoma show better in the light of the patient's other lesions?

Akash et al., "Evidence-Driven Differential Diagnosis of Malignant Melanoma" (2023): a transformer
over the lesions of a patient, as many as there are, with their sites, the age and the sex. Claims:
the context raises specificity, balanced accuracy and AUC; the site adds specificity; age and sex
keep sensitivity; all together is not additive.

  python -m experiments.meldd demo        simulated patients, 5 folds; about 5 minutes
  python -m experiments.meldd evidence    1,000 simulated patients, 5 seeds of 3 folds; 9 minutes
  python -m experiments.meldd private     context trained with privacy of whole patients; 3 minutes
  python -m experiments.meldd table --data train.csv
                                          the table of SIIM-ISIC 2020, features drawn; 5 minutes
  python -m experiments.meldd pictures --data train.csv --data FOLDER --data WEIGHTS
                                          with what EfficientNet-Lite0 makes of dermoscopy in
                                          FOLDER (nnU-Net, diagnosis.csv); 6 minutes
  python -m experiments.meldd features --data train.csv --data features.npz
                                          with features of your own network; 5 minutes

Times are for 2 CPU cores. In `table` it is real who has how many
lesions, where, of which sex and age, and which of them are melanomas; every feature is drawn, so
what context and site add there is what was put in, and only age, sex and the numbers are the
world's. In `pictures` the features are those of real lesions, each given to a lesion of its kind
(patients.with_pictures): which picture a patient has is drawn, and that a patient's nevi look alike
is put in. features.npz has `name` [n] and `feature` [n, d] of the pictures in train.csv; a network
that has seen the test patients leaks. Published balanced accuracy, sensitivity, specificity, AUC:
lesion .765 .887 .643 .837; with context .784 .868 .700 .856; and site .790 .827 .753 .861; and age
and sex instead .787 .884 .689 .854; all .779 .876 .683 .850.

Every network of a fold has its cut at Youden's J on VALIDATION patients, which the paper leaves
open. Sexes and ages are tokens of the set. "strangers" has other patients' lesions as context: the
control. "private" protects whole patients (Beyond the paper); the page shows its statement and what
that does not cover: a run as a whole, whose other arms protect nobody, is not private.

DEVIATIONS: a patient with more than max_lesions lesions has several sets; two layers of 32 channels
in the place of four of 64. The weights that rank validation lesions best are kept, as in the paper;
"private" keeps the last: a choice by patients' scores would release more.

results.json: the common schema of `study.results`; statement and not_covered: of the private arm,
"" without.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from experiments import lesion_sets, patient_sets, patients
from medjax import check, cli, data, methods, metrics, privacy, rng, study
from medjax.train import Report
from medjax.types import Params

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Lesions judged alone and in the light of their patient's others."""

  arms: tuple[str, ...] = (
    "lesion", "context", "strangers", "context-site", "context-about", "all"
  )  # fmt: skip  # what is compared
  num_seeds: int = 2  # seeds, each with its own folds, weights and draws
  num_patients: int = 300  # simulated
  num_features: int = 8  # of a lesion, where they are drawn or projected
  num_folds: int = 5  # of patients; a fold tests, a fifth of the others chooses the cut
  max_lesions: int = 12  # of a set
  width: int = 32  # channels of a token
  num_layers: int = 2  # of the transformer
  num_heads: int = 4  # of every layer
  num_steps: int = 400  # updates
  batch_size: int = 32  # sets an update
  eval_every: int = 50  # updates between two evaluations on validation patients
  learning_rate: float = 1e-3  # Adam's
  target_epsilon: float = 8.0  # of the private arm
  delta: float = 1e-4  # of the private arm
  max_norm: float = 1.0  # clipping norm of a patient's gradient
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.require(self.num_folds >= 2, "num_folds >= 2", f"{self.num_folds}", "the paper has 5")


# --- data


def load(config: Config, options: cli.RunOptions) -> tuple[str, patients.Lesions]:
  size, seed = config.num_features, options.seed
  if options.preset == "table":
    (path,) = study.paths_of(options.data, 1)
    return "a table of patients", patients.from_table(path, size=size, seed=seed)
  if options.preset == "features":
    path, features = study.paths_of(options.data, 2)
    return "your lesions", patients.from_table(path, features)
  if options.preset == "pictures":
    path, folder, weights = study.paths_of(options.data, 3)
    feature, kinds = lesion_sets.embedded(folder, weights)
    feature = patients.projected(feature, size, seed)
    held = patients.from_table(path, size=1, seed=seed)
    found = patients.with_pictures(held, feature, kinds, config.num_folds, seed)
    return "a table of patients with pictures of others", found
  study.paths_of(options.data, 0)
  return "simulated patients", patients.simulated(config.num_patients, size=size, seed=seed)


# --- arms


def _sees(context: bool = True, site: bool = False, about: bool = False) -> Any:
  """Makes the network of an arm, with what it may look at."""
  sees = {"context": context, "site": site, "about": about}
  return lambda c: patient_sets.Task((c.width, c.num_layers, c.num_heads), **sees)


ARMS = study.arms(
  study.Arm("lesion", "a lesion alone (V0)", _sees(context=False)),
  study.Arm("context", "and the patient's other lesions (V1)", _sees()),
  study.Arm("strangers", "and lesions of other patients: the control", _sees()),
  study.Arm("context-site", "V1 and sites (V2)", _sees(site=True)),
  study.Arm("context-about", "V1 and age and sex (V3)", _sees(about=True)),
  study.Arm("all", "everything (V4)", _sees(site=True, about=True)),
  study.Arm("private", "V1, trained with privacy of whole patients", _sees()),
)

# --- questions, written down before the run


def _ask(text: str, than: str, arm: str, metric: str, expects: Any = "better") -> study.Question:
  spread = (("subject", 1.0), ("seed", 0.02))
  return study.Question(text, than, (arm,), metric, "test", expects, spread)


QUESTIONS = (
  _ask("Does the patient's context help?", "lesion", "context", "balanced"),
  _ask("Does it raise specificity?", "lesion", "context", "specificity"),
  _ask("Does it raise the area?", "lesion", "context", "auroc"),
  _ask("Is it the patient's own lesions?", "strangers", "context", "auroc"),
  _ask("Does the site add specificity?", "context", "context-site", "specificity"),
  _ask("Does the site raise the area?", "context", "context-site", "auroc"),
  _ask("Do age and sex keep sensitivity?", "lesion", "context-about", "sensitivity", "equivalent"),
  _ask("Is all together worse than context and site?", "context-site", "all", "balanced", "worse"),
  _ask("What does privacy of patients cost?", "context", "private", "auroc", "open"),
)

PRESETS = {
  "demo": Config(),
  "evidence": Config(num_patients=1000, num_seeds=5, num_folds=3),
  "private": Config(arms=("lesion", "context", "private"), num_patients=1000, num_seeds=1),
  "table": Config(num_seeds=1, max_lesions=32, num_steps=500),
  "pictures": Config(num_seeds=1, max_lesions=32, num_steps=300, num_features=64),
  "features": Config(num_seeds=1, max_lesions=32, num_steps=500, learning_rate=3e-4),
}

# --- the run and its page

_PLANNED = "Stated before the training, which then made all the samples that are planned here."
_NOT_COVERED = (
  "The statement is on the weights of the private arm and the patients it was trained on. It does"
  " not cover what this study takes from the training patients before: mean and deviation of each"
  " feature, the shares of the classes, the size of sets. Take these from public data, or release"
  " them with noise, before you publish such weights. Validation patients, on whom the cut is"
  " chosen, and test patients, whose scores are shown, are not protected; nor is anybody by the"
  " other arms."
)


def build(config: Config, options: cli.RunOptions) -> None:
  title, lesions = load(config, options)
  seeds = range(options.seed, options.seed + config.num_seeds)
  turns = {seed: patient_sets.turns_of(lesions, config.num_folds, seed) for seed in seeds}
  folds = [turn for own in turns.values() for turn in own]
  design = study.design(
    config, options.seed, QUESTIONS, config.arms, folds, kind="folds of patients"
  )
  with options.directory(config, lesions.manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    tasks = {arm: ARMS[arm].make(config) for arm in config.arms}
    tx = optax.adam(config.learning_rate)
    steps = {arm: methods.supervised(task.loss, tx) for arm, task in tasks.items()}
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in config.arms}
    rows: list[dict[str, Any]] = []
    flops, statement = {}, ""
    for seed, turn in [(seed, turn) for seed, own in turns.items() for turn in own]:
      key = jax.random.key(seed)
      fold, mixed = (
        patient_sets.stores_of(lesions, config.max_lesions, turn, seed, strangers=strangers)
        for strangers in (False, True)
      )
      for arm, task in tasks.items():
        own = mixed if arm == "strangers" else fold
        first = {name: value[0] for name, value in own.train.items()}
        params = jax.jit(task.net.init)(rng.stream(key, "parameters"), *task.given(first))
        name = f"{arm}-{turn.name}"
        if arm == "private":  # nothing is chosen by the score of a patient: the last weights stay
          plan = plan_of(config, own.train, seed)
          statement, step = plan.statement(), methods.private(task.loss, tx, plan)
          stream = plan.stream(own.train, chunk=config.batch_size)
          job = study.Job(name, step, stream, params, key, config.num_steps)
        else:
          stream = data.batches(own.train, config.batch_size, key, name=turn.name)
          check_by = {"validation": task.evaluator(own.validation, lesions.label)}
          job = study.Job(
            name, steps[arm], stream, params, key, config.num_steps, check_by,
            keep_best="validation/auroc",
          )  # fmt: skip
          flops[arm] = flops.get(arm) or study.flops(steps[arm], params, stream(0))
        periods = {"log_every": config.log_every, "eval_every": config.eval_every}
        one = study.train_job(job, directory, **periods)
        trained[arm].append(one)
        about = {"arm": arm, "seed": seed, "turn": turn.name, "role": "test"}
        rows += judged(task, one.params, own, lesions, about)
    found = design.results(
      rows,
      ("balanced", "sensitivity", "specificity", "auroc"),
      flops=flops,
      is_simulated=lesions.is_drawn,
      statement=statement,
      not_covered=_NOT_COVERED if statement else "",
    )
    report = page(config, title, lesions, found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def plan_of(config: Config, store: dict[str, np.ndarray], seed: int) -> privacy.DPPlan:
  """Patients are drawn and protected whole; keys come from the seed: runs can be repeated."""
  return privacy.DPPlan(
    num_examples=len(np.unique(store["subject"])),
    expected_batch_size=config.batch_size,
    num_steps=config.num_steps,
    delta=config.delta,
    max_norm=config.max_norm,
    unit="group",
    example_name="set of lesions",
    target_epsilon=config.target_epsilon,
    vault=privacy.Vault.from_seed(seed),
  )


def judged(
  task: patient_sets.Task,
  params: Params,
  fold: patient_sets.Fold,
  lesions: patients.Lesions,
  about: dict[str, Any],
) -> list[dict[str, Any]]:
  """Rows of test patients, with the cut that is best on the validation patients."""
  known, new = (
    task.scores(params, store, len(lesions.label)) for store in (fold.validation, fold.test)
  )
  chosen, tested = (np.flatnonzero(~np.isnan(scores)) for scores in (known, new))
  cut = metrics.youden_cut(known[chosen], lesions.label[chosen]).value
  logits, label = np.stack([0 * new[tested], new[tested] - cut], 1), lesions.label[tested]
  subjects = [lesions.patients[i] for i in tested]
  rows = study.classes(logits, label, about=about, subjects=subjects, wanted=("balanced", "auroc"))
  people, owner = np.unique(np.array(subjects), return_inverse=True)
  for name, kind in (("specificity", 0), ("sensitivity", 1)):
    # A lesion adds right / (lesions of its kind); times the number of patients the mean over
    # patients is the rate.
    right = (logits.argmax(1) == label) & (label == kind)
    parts = len(people) * np.bincount(owner, right / (label == kind).sum())
    rows = [{**row, f"{name}/all": float(part)} for row, part in zip(rows, parts, strict=True)]
  return rows


def page(
  config: Config,
  title: str,
  lesions: patients.Lesions,
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
) -> Report:
  """The answers, what is real, scores, verdicts, the privacy statement and curves."""
  counts = np.unique(np.array(lesions.patients), return_counts=True)[1]
  drawn, dealt = "The features are drawn.", "Which picture a lesion has is drawn."
  what = drawn if lesions.is_drawn else dealt if lesions.shares_pictures else ""
  text = (
    f"{len(lesions.label):,} lesions of {len(counts):,} patients, {counts.min()} to"
    f" {counts.max()} each; {lesions.label.sum():,} melanomas. {what} {config.known}"
  )
  report = study.page.start(f"Melanomas among the lesions of {title}", found)
  study.page.scores(report, found, ARMS, text=text.strip())
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  if found["statement"]:
    report.section(
      "Privacy of the private arm", f"{_PLANNED}\n\n{found['statement']}\n\n{_NOT_COVERED}"
    )
  first = {arm: own[0] for arm, own in trained.items() if arm != "private"}
  study.page.curves(report, first, {"loss": "loss"}, caption="First fold and seed.")
  flops = {a: own.get("flops_an_update", float("nan")) for a, own in found["arms"].items()}
  study.page.costs(report, trained, flops)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
