"""GPC: one network that writes the diagnosis down, beside heads and beside a network a task.

Nguyen and Kwak, "GPC: Generative and General Pathology Image Classifier" (2023): an encoder's
vector is the prefix of a language model that writes the label. Claims: about as good as a network a
task, better than an encoder with a head a task.

  python -m experiments.gpc demo            simulated grades of two organs and six textures; about
                                            5 minutes
  python -m experiments.gpc evidence        the same with 5 seeds and 2,000 updates; 25 minutes
  python -m experiments.gpc folders --data SITE1 --data SITE2
                                            your pictures, CLASS/*.png; the names of the folders are
                                            the labels; about 5 minutes
  python -m experiments.gpc folders --data A.csv --data B.csv --label LABEL --subject PERSON
                                            the same of tables with a column image

Times are for 2 CPU cores. Published accuracy and kappa on Colon-1: GPC .884 and .944, ConvNeXt-L
with a head a task .859 and .933, the best network of a task .880; Prostate-2: .769 and .700 beside
.778 and .696.

A network that writes is told neither the organ nor what may be answered there. "one-head" is the
control that the paper lacks: it is told as little and has one class for each different label, so
what it lacks is language alone. A text that is no label of the picture's task counts as wrong.

DEVIATIONS: a small encoder and a small decoder, both from scratch, stand for ConvNeXt-L and
OPT-125M; Equations 2 and 3 put predicted words into the likelihood, and training here, as the
released code, the true ones. Tasks weigh alike in every update, not by their size; pictures are
mirrored, turned and moved, and not blurred or recoloured.

results.json: the common schema of `study.results`, roles "graded" and "unordered"; kappa.<arm>:
quadratic kappa of graded pictures, mean over tasks by their people, with its interval;
above_first.<arm>: accuracy among graded pictures whose class is not the first (the paper's accuracy
among cancers); invalid.<arm>: share of test pictures whose text is no label of their task.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from experiments import word_networks, word_sets
from medjax import cli, data, methods, metrics, rng, study, tree
from medjax.train import Report
from medjax.types import Array, Key, Params, PyTree

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Classifiers of several tasks, which write their answers or choose among classes."""

  arms: tuple[str, ...] = ("separate", "heads", "one-head", "words")  # what is compared
  num_pictures: int = 400  # simulated pictures a task
  size: int = 32  # side of a picture in pixels
  graded: tuple[str, ...] = ()  # folders whose classes, in alphabetical order, are grades
  label: str = ""  # column of tables with the name of the class
  subject: str = ""  # column of tables with the person, or what else has to stay together
  widths: tuple[int, ...] = (8, 16, 32)  # channels of the encoder's convolutions
  code: int = 32  # numbers that the decoder is told of a picture
  num_steps: int = 600  # updates
  batch_size: int = 48  # pictures of all tasks an update
  learning_rate: float = 2e-3  # Adam's
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- data


def load(config: Config, options: cli.RunOptions) -> word_sets.Cases:
  if options.preset == "folders":
    paths = study.paths_of(options.data, None)
    return word_sets.Cases(word_sets.folders(paths, config))
  study.paths_of(options.data, 0)
  return word_sets.Cases(word_sets.simulated(config.num_pictures, config.size, options.seed))


# --- arms

ARMS = study.arms(
  study.Arm("separate", "a network a task", word_networks.separate),
  study.Arm("heads", "one encoder, a head a task, which is told", word_networks.heads),
  study.Arm("one-head", "one class for each different label: the control", word_networks.one_head),
  study.Arm("words", "the label is written word by word", word_networks.writer),
)

# --- questions, written down before the run


def _asked(metric: str, role: str, spread: float) -> tuple[study.Question, ...]:
  rows = (
    ("Are words as good as a network a task?", "separate", ("words",), "equivalent"),
    ("Are words better than heads?", "heads", ("words",), "better"),
    ("Is it language that helps?", "one-head", ("words",), "open"),
    ("Are heads worse than a network a task?", "separate", ("heads",), "worse"),
  )
  own = (("subject", spread), ("seed", 0.02))
  return tuple(
    study.Question(f"{text} ({metric}, {role})", reference, arms, metric, role, expects, own)
    for text, reference, arms, expects in rows
  )


QUESTIONS = (
  *_asked("accuracy", "graded", 0.4),
  *_asked("kappa", "graded", 0.4),
  *_asked("accuracy", "unordered", 0.3),
)

PRESETS = {
  "demo": Config(),
  "evidence": Config(num_seeds=5, num_steps=2000),
  "folders": Config(size=64, num_seeds=1),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  cases = load(config, options)
  parts = study.parted(cases.subjects, {"train": 0.6, "test": 0.4}, options.seed)
  people = study.people_by_part(cases.subjects, parts)
  places = {part: np.array(own, np.int64) for part, own in parts.items()}
  tested = cases.part(places["test"])
  tested_in: dict[str, int] = {}  # role -> number of people
  for role, is_graded in (("graded", True), ("unordered", False)):
    kept = [i for i in parts["test"] if cases.tasks[cases.store["task"][i]].is_graded == is_graded]
    if kept:
      tested_in[role] = len(study.people_of(cases.subjects, kept))
  design = study.design(config, options.seed, QUESTIONS, config.arms, people, tested=tested_in)
  about = {"tasks": {task.name: task.manifest for task in cases.tasks}}
  with options.directory(config, about) as directory:
    if directory.finished:
      return
    design.begin(directory)
    networks = {arm: ARMS[arm].make(config, cases) for arm in config.arms}
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in config.arms}
    rows: list[dict[str, Any]] = []
    invalid: dict[str, list[float]] = {arm: [] for arm in config.arms}
    above: dict[str, list[float]] = {arm: [] for arm in config.arms}
    grades = {number for number, task in enumerate(cases.tasks) if task.is_graded}
    is_above = np.isin(tested["task"], list(grades)) & (tested["label"] > 0)
    flops = dict.fromkeys(config.arms, 0.0)
    steps = {arm: [step_of(config, cases, one) for one in own] for arm, own in networks.items()}
    for seed in design.seeds:
      key = jax.random.key(seed)
      for arm, own in networks.items():
        said = np.full(len(places["test"]), -1)
        for number, (network, step) in enumerate(zip(own, steps[arm], strict=True)):
          is_own = np.isin(cases.store["task"][places["train"]], network.tasks)
          # As many pictures of a task in an update, whether it is trained alone or with others.
          batch = config.batch_size * len(network.tasks) // len(cases.tasks)
          stream = data.batches(cases.part(places["train"][is_own]), batch, key, name=arm)
          params = network.start(rng.stream(key, "parameters"), cases.store["image"][0])
          job = study.Job(f"{arm}-{number}-{seed}", step, stream, params, key, config.num_steps)
          one = study.train_job(job, directory, log_every=config.log_every)
          trained[arm].append(one)
          if seed == design.seeds[0]:
            flops[arm] += study.flops(step, one.params, stream(0))
          predict = study.ChunkedPredictor(network.answer, chunk=64)
          for task in network.tasks:
            mine = tested["task"] == task
            said[mine] = network.read(predict(one.params, tested["image"][mine]), task)
        rows += scored(cases, places["test"], said, {"arm": arm, "seed": seed})
        invalid[arm].append(float((said < 0).mean()))
        if is_above.any():
          above[arm].append(float((said == tested["label"])[is_above].mean()))
    graded = study.tables(rows, "kappa", role="graded") if "graded" in tested_in else {}
    found = design.results(
      rows,
      ("accuracy",),
      costs=flops,
      flops=flops,
      is_simulated=options.preset != "folders",
      kappa={arm: study.interval(own) for arm, own in graded.items()},
      above_first={arm: float(np.mean(own)) for arm, own in above.items() if own},
      invalid={arm: float(np.mean(own)) for arm, own in invalid.items()},
      num_parameters={
        arm: sum(tree.size(one.params) for one in own[: len(networks[arm])])
        for arm, own in trained.items()
      },
    )
    study.finish(directory, found, page(config, found, trained), trained=trained, rows=rows)


def step_of(config: Config, cases: word_sets.Cases, network: word_networks.Network) -> Any:
  """A loss a task, all with one weight, so that the page can say how far their gradients agree."""
  names = {cases.tasks[number].name: number for number in network.tasks}

  def loss(number: int, params: Params, example: PyTree, key: Key) -> Array:
    seen = {**example, "image": word_networks.moved(example["image"], key)}
    return network.loss(params, seen, number)

  own = {name: functools.partial(loss, number) for name, number in names.items()}
  labelled = {
    name: lambda example, number=number: example["task"] == number for name, number in names.items()
  }
  return methods.multitask(own, optax.adam(config.learning_rate), labelled=labelled)


def scored(
  cases: word_sets.Cases, places: np.ndarray, said: np.ndarray, about: dict[str, Any]
) -> list[dict[str, Any]]:
  """Rows of people, task by task: accuracy, and kappa of graded tasks (no answer: the worst)."""
  found = []
  for number, task in enumerate(cases.tasks):
    mine = cases.store["task"][places] == number
    labels, own, size = cases.store["label"][places][mine], said[mine], len(task.texts)
    if task.is_graded:  # the farthest grade in the place of a text that is none
      own = np.where(own < 0, np.where(labels * 2 < size, size - 1, 0), own)
    subjects = [cases.subjects[i] for i in places[mine]]
    role = "graded" if task.is_graded else "unordered"
    rows = study.classes(
      np.eye(size + 1)[own],  # -1 is the last column, which no label has
      labels,
      about={**about, "role": role},
      subjects=subjects,
      site=task.name,
      wanted=("accuracy",),
    )
    parts = np.full(len(rows), np.nan)
    if task.is_graded:
      parts = metrics.kappa_parts(own, labels, subjects=np.array(subjects))
    found += [{**row, "kappa/all": float(part)} for row, part in zip(rows, parts, strict=True)]
  return found


def page(config: Config, found: dict[str, Any], trained: dict[str, list[study.Trained]]) -> Report:
  """Answers, scores, kappa, verdicts, conflicts, curves and costs."""
  report = study.page.start("Labels that are written", found)
  study.page.scores(report, found, ARMS, text=config.known)
  report.table(
    [
      "arm",
      "kappa of graded pictures",
      "low",
      "high",
      "accuracy above the first grade",
      "no answer of the task",
      "parameters",
    ],
    [
      [
        arm,
        *(found["kappa"].get(arm, {}).get(name, np.nan) for name in ("mean", "low", "high")),
        found["above_first"].get(arm, np.nan),
        found["invalid"][arm],
        found["num_parameters"][arm],
      ]
      for arm in trained
    ],
    "Quadratic kappa, mean over graded tasks; no label counts as the farthest grade.",
  )
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  study.page.conflicts(report, trained)
  caption = "First seed, first network."
  study.page.trainings(report, found, trained, {"loss": "loss"}, caption=caption)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
