"""Clinics that join: what does a clinic gain, and how much of it does a federation reach?

du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic
Healthcare Settings" (2022) compares a model of each clinic, one of all cases in one place, and
federations, on cases that lie in several clinics by nature. Claims: federated training reaches the
pooled one where clinics are alike, and no strategy wins everywhere.

  python -m experiments.clinics demo             simulated survival in four clinics, 5 seeds, 45
                                                 trainings; 2 minutes beside other work
  python -m experiments.clinics tcga --data DIR  breast cancer of six regions, FLamby's split:
                                                 brca.csv and train_test_split.csv; 3 minutes
  python -m experiments.clinics flamby --data DIR  the same with columns as they are, FLamby's
                                                 rates and rounds: held against its figures
  python -m experiments.clinics heart --data DIR  heart disease of four hospitals:
                                                 processed.HOSPITAL.data.csv
  python -m experiments.clinics scanners --data DIR  SCANNER/CLASS/*.png with patches.csv
  python -m experiments.clinics laboratories --data DIR  nnU-Net folders side by side: blood cells,
                                                 nuclei
  python -m experiments.clinics prostate --data DIR  zones/*.nii.gz and cases.csv: zones of three
                                                 centres, pictures by medjax's generator; 7 minutes

Times are for 2 CPU cores. Published, mean over the clinics' tests and five seeds: concordance in
TCGA-BRCA FedAvg .732, SCAFFOLD .689, FedAdam .819, pooled .680; accuracy in heart disease FedAvg
.698, FedProx .698, SCAFFOLD .697, FedAdam .736, pooled .747.

"local" is a model of each clinic, tested on its own people, with the updates of one client;
"pooled" has all cases in one place and the updates of all clients. Survival is scored by pairs of
people of one clinic, since two models have no common scale, and among all for the others.

DEVIATIONS: FLamby trains its pooled model with Adam, here it has the clients' plain descent. Its
loss breaks ties by the order of a sort, here they are Breslow's. Its split of heart disease cannot
be drawn without its library; the split here is another one. Columns and colours are scaled by the
training people of all clinics, but for "flamby", where an age of 90 stands beside columns of 0 and
1.

results.json: the common schema of `study.results`; roles are tasks; clinics.<arm>.<clinic>: score
by seed.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from experiments import clinic_tasks, federations
from medjax import cli, federated, methods, study
from medjax.train import Report
from medjax.types import LossFn, Step

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Clinics train alone, together in one place, or as a federation."""

  task: str = "simulated"  # simulated, tcga, flamby, heart, scanners, masks or prostate
  arms: tuple[str, ...] = ("local", "pooled", "fedavg", "fedprox", "scaffold", "fedadam")
  num_seeds: int = 5
  num_people: int = 150  # of each simulated clinic
  num_rounds: int = 20
  local_steps: int = 20  # updates of a client in a round
  batch_size: int = 16
  learning_rate: float = 0.1  # of every plain descent but the next
  careful_rate: float = 0.1  # of the clients of SCAFFOLD and FedAdam
  server_rate: float = 0.1  # Adam's, of FedAdam
  pull: float = 0.1  # FedProx's mu
  log_every: int = 5  # rounds between two log rows

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    study.chosen("task", (self.task,), dict.fromkeys(clinic_tasks.TASKS))


# --- arms


class Training(NamedTuple):
  """One training of an arm: its Step, who holds which rows, and updates of a client in a round."""

  name: str
  step: Step
  held: list[np.ndarray]
  local_steps: int


def _sgd(rate: float) -> Any:
  return lambda loss_fn: methods.supervised(loss_fn, optax.sgd(rate))


def _federation(client: federated.Client, number: int, server: Any = None) -> Step:
  return federated.federated(client, num_clients=number, cohort=number, server=server)


def _local(config: Config, loss_fn: LossFn, rate: float) -> federated.Client:
  return federated.local(_sgd(rate)(loss_fn), max_unrolled=1)


def alone(config: Config, task: clinic_tasks.Task, held: list[np.ndarray]) -> list[Training]:
  step = _federation(_local(config, task.loss_fn, config.learning_rate), 1)
  return [Training(f"-{c}", step, [own], config.local_steps) for c, own in enumerate(held)]


def pooled(config: Config, task: clinic_tasks.Task, held: list[np.ndarray]) -> list[Training]:
  step = _federation(_local(config, task.loss_fn, config.learning_rate), 1)
  return [Training("", step, [np.concatenate(held)], config.local_steps * len(held))]


def joined(
  config: Config, task: clinic_tasks.Task, held: list[np.ndarray], *, kind: str
) -> list[Training]:
  server: Any = None
  if kind == "fedprox":
    client = federated.fedprox(
      _sgd(config.learning_rate), task.loss_fn, config.pull, max_unrolled=1
    )
  elif kind == "scaffold":
    rate = config.careful_rate
    client = federated.scaffold(_sgd(rate), task.loss_fn, learning_rate=rate, max_unrolled=1)
  else:
    rate = config.learning_rate if kind == "fedavg" else config.careful_rate
    client = _local(config, task.loss_fn, rate)
    server = optax.adam(config.server_rate) if kind == "fedadam" else None
  return [Training("", _federation(client, len(held), server), held, config.local_steps)]


ARMS = study.arms(
  study.Arm("local", "a model of each clinic", alone),
  study.Arm("pooled", "all cases in one place", pooled),
  study.Arm("fedavg", "means of clients", functools.partial(joined, kind="fedavg")),
  study.Arm("fedprox", "held to the global model", functools.partial(joined, kind="fedprox")),
  study.Arm("scaffold", "drift corrected", functools.partial(joined, kind="scaffold")),
  study.Arm("fedadam", "Adam on the server", functools.partial(joined, kind="fedadam")),
)

# --- questions, written down before the run

_METRICS = {  # task -> metric and the deviation that differences are assumed to have over people
  "simulated": ("concordance", 0.8),
  "tcga": ("concordance", 0.8),
  "flamby": ("concordance", 0.8),
  "heart": ("accuracy", 0.35),
  "scanners": ("accuracy", 0.35),
  "masks": ("dice", 0.08),
  "prostate": ("dice", 0.08),
}
PUBLISHED = {
  "flamby": {"fedavg": 0.732, "scaffold": 0.689, "fedadam": 0.819, "pooled": 0.680},
  "heart": {
    "fedavg": 0.698, "fedprox": 0.698, "scaffold": 0.697, "fedadam": 0.736, "pooled": 0.747,
  },
}  # fmt: skip


def _asked(task: str) -> list[study.Question]:
  metric, spread = _METRICS[task]

  def question(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
    about = (("subject", spread), ("seed", 0.02))
    return study.Question(f"{text} ({task})", reference, arms, metric, task, expects, about)

  return [
    question("Does a clinic gain by joining?", "local", ("fedavg",), "better"),
    question("Does FedAvg reach the pooled model?", "pooled", ("fedavg",), "equivalent"),
    question("Does another strategy help?", "fedavg", ("fedprox", "scaffold", "fedadam"), "open"),
  ]


QUESTIONS = tuple(question for task in clinic_tasks.TASKS for question in _asked(task))
PRESETS = {
  "demo": Config(),
  "tcga": Config(task="tcga"),
  "flamby": Config(
    task="flamby", num_rounds=5, local_steps=100, batch_size=8, careful_rate=0.01, log_every=1
  ),
  "heart": Config(task="heart"),
  "scanners": Config(task="scanners", num_seeds=3, local_steps=10),
  "laboratories": Config(task="masks", num_seeds=3, local_steps=10, batch_size=4),
  "prostate": Config(task="prostate", num_seeds=3, local_steps=10, batch_size=4),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  paths = study.paths_of(options.data, int(config.task != "simulated"), f" with task {config.task}")
  task = clinic_tasks.task_of(config.task, paths, config.num_people, options.seed)
  source, metric = task.clinics.source, _METRICS[config.task][0]
  people = study.people_by_part(source.subjects, task.clinics.parts)
  design = study.design(config, options.seed, QUESTIONS, config.arms, people, tested=[config.task])
  with options.directory(config, source.manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    held = federated.by_domain(task.train.domain)
    predict = study.ChunkedPredictor(task.output, chunk=32)
    trained: dict[str, study.Trained] = {}
    rows: list[dict[str, Any]] = []
    clinics: dict[str, dict[str, list[float]]] = {}
    for arm in config.arms:
      for seed in design.seeds:
        found = [
          study.train_job(
            federations.job(
              f"{arm}{one.name}-{seed}",
              one.step,
              task.model,
              task.train,
              one.held,
              seed=seed,
              num_rounds=config.num_rounds,
              batch_size=config.batch_size,
              local_steps=one.local_steps,
              chunk=1,
            ),
            directory,
            log_every=config.log_every,
            progress=False,
          )
          for one in ARMS[arm].make(config, task, held)
        ]
        trained.setdefault(arm, found[0])
        outputs = outputs_of(task, predict, found)
        about = {"arm": arm, "seed": seed, "role": config.task}
        rows += task.score(outputs, about, len(found) == 1)
        for name, value in task.by_clinic(outputs).items():
          clinics.setdefault(arm, {}).setdefault(name, []).append(value)
    found = design.results(
      rows,
      (metric,),
      is_simulated=config.task == "simulated",
      clinics=clinics,
      published=PUBLISHED.get(config.task, {}),
    )
    study.finish(directory, found, page(found, trained), trained=list(trained.values()), rows=rows)


def outputs_of(
  task: clinic_tasks.Task, predict: study.ChunkedPredictor, found: Sequence[study.Trained]
) -> np.ndarray:
  """Outputs of the test cases: of the one model, or of the model of each case's own clinic."""
  every = [predict(one.params, task.test.image) for one in found]
  if len(every) == 1:
    return every[0]
  return np.stack([every[clinic][i] for i, clinic in enumerate(task.test.domain)])


def page(found: dict[str, Any], trained: dict[str, study.Trained]) -> Report:
  """Scores by clinic beside the published ones, verdicts and curves."""
  report = study.page.start("Clinics that join", found)
  report.section("Score in each clinic", "Means over seeds, of the people of one clinic each time.")
  names = list(next(iter(found["clinics"].values())))
  table = []
  for arm, own in found["clinics"].items():
    by_seed = np.nanmean([own[name] for name in names], axis=0)  # over clinics, as FLamby's figures
    spread = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")
    means = [float(np.nanmean(own[name])) for name in names]
    published = found["published"].get(arm, float("nan"))
    table.append([arm, *means, float(by_seed.mean()), spread, published])
  header = ["arm", *names, "mean of clinics", "deviation over seeds", "published mean"]
  report.table(header, table, "A clinic of a few events has few pairs to compare.")
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  study.page.curves(report, trained, {"loss": "mean loss of the clients"}, xlabel="round")
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
