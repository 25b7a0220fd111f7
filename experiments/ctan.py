"""CTAN: do two tasks gain from each other's attention, beyond a shared encoder?

Kim, Purdie and McIntosh, "Cross-Task Attention Network: Improving Multi-task Learning for Medical
Imaging Applications" (2023): each task takes the shared features under its partner's mask, and the
bottlenecks attend to each other. Claim, in the mean relative gain over one network a task: CTAN
above hard parameter sharing above single networks above MTAN.

  python -m experiments.ctan demo                simulated outlines and stripes, which conflict by
                                                 construction; about 5 minutes
  python -m experiments.ctan evidence            the same with all arms and 4 seeds
  python -m experiments.ctan skin --data skin_ph2
                                                 outline and diagnosis of skin lesions
  python -m experiments.ctan ultrasound --data busi150
                                                 outline and class, near-duplicates kept together

The time is for 2 CPU cores; the longer presets have not been run.

Published mean gains over four pairs of tasks, in percent: sharing +3.2, MTAN -5.4, CTAN +4.7, one
run each. All arms but "stl" train with dynamic weight averaging, as there; "hps-mean" and the arms
with a combiner say what weighing and surgery do on the network of "hps".

DEVIATIONS: a small network from scratch stands for a pre-trained ResNet50; the classifier reads
means over the image; the bottleneck's product is divided by the number of places (both layouts
that the text allows are one map, see `cross_task.cross_attention`). "mtan" is the same network in
which a task has its own mask.

results.json: the common schema of `study.results`; gains.<arm>: of each score over "stl" and their
mean, in percent; num_parameters.<arm>.
"""

import dataclasses
import functools
from typing import Any

import optax

from experiments import task_sets
from medjax import cli, grads, methods, metrics, nets, rng, study, tree
from medjax.train import Report
from medjax.types import Array, Key, Params, PyTree, Step

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Two tasks on one picture, by networks that share more or less."""

  arms: tuple[str, ...] = ("stl", "hps", "mtan", "ctan")  # what is compared
  num_pictures: int = 240  # simulated pictures
  size: int = 32  # side of a picture in pixels
  table: str = ""  # CSV beside dataset.json with the classes
  label: str = ""  # its column with the class
  subject: str = ""  # its column that keeps near-duplicates together
  widths: tuple[int, ...] = (8, 16)  # channels of each level
  num_seeds: int = 1
  num_steps: int = 200  # updates
  batch_size: int = 16  # pictures an update
  learning_rate: float = 3e-3  # Adam's, constant, the same for every arm
  period: int = 10  # updates over which losses are averaged for their weights
  log_every: int = 25
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


def load(config: Config, options: cli.RunOptions) -> task_sets.TaskSet:
  if options.preset in ("skin", "ultrasound"):
    (path,) = study.paths_of(options.data, 1)
    return task_sets.folder(
      path, config.size, table=config.table, label=config.label, subject=config.subject
    )
  study.paths_of(options.data, 0)
  return task_sets.striped(config.num_pictures, config.size, options.seed)


# --- networks and arms


class Problem:
  """The networks of all arms and their Steps; parameters lie under the name of their network."""

  def __init__(self, config: Config, cases: task_sets.TaskSet):
    self.config, self.cases, self.names = config, cases, tuple(cases.tasks)
    heads = (cases.heads[0], cases.heads[1])
    build = functools.partial(nets.CrossTask, heads, config.widths)
    modules = {
      "hps": build(attention=False),
      "mtan": build(exchanges=False),
      "ctan": build(),
      **{f"single {n}": nets.Streams((head,), config.widths) for n, head in cases.tasks.items()},
    }
    self.models = {name: nets.from_linen(module) for name, module in modules.items()}

  def networks(self, arm: str) -> tuple[str, ...]:
    if arm == "stl":
      return tuple(f"single {name}" for name in self.names)
    return (arm,) if arm in self.models else ("hps",)

  def start(self, arm: str, key: Key) -> Params:
    own = rng.stream(key, "parameters")
    return {n: self.models[n].init(own, self.cases.image[0])[0] for n in self.networks(arm)}

  def logits(self, params: Params, image: Array) -> tuple[Array, ...]:
    """Of every task."""
    if len(params) > 1:
      return tuple(
        self.models[f"single {n}"].apply(params[f"single {n}"], image)[0][0] for n in self.names
      )
    ((name, own),) = params.items()
    return self.models[name].apply(own, image)[0]

  def loss(self, number: int) -> Any:
    cost = task_sets.cost_of(self.cases.heads[number][0])

    def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
      del key
      return cost(self.logits(params, example["image"])[number], example[self.names[number]])

    return loss_fn

  def together(self, rule: Any) -> Step:
    losses = {name: self.loss(number) for number, name in enumerate(self.names)}
    tx = optax.adam(self.config.learning_rate)
    return methods.multitask(losses, tx, combine=rule, shared=lambda path: "/shared_" in path)

  def weighed(self) -> Step:
    return self.together(grads.combine.dwa(period=self.config.period))

  def single(self) -> Step:
    both = [self.loss(number) for number in range(2)]
    tx = optax.adam(self.config.learning_rate)
    return methods.supervised(lambda p, e, k: both[0](p, e, k) + both[1](p, e, k), tx)


ARMS = study.arms(
  study.Arm("stl", "a network a task: the reference", Problem.single),
  study.Arm("hps", "one encoder, two heads", Problem.weighed),
  study.Arm("mtan", "each task attends by its own mask", Problem.weighed),
  study.Arm("ctan", "masks exchanged, bottlenecks attend to each other", Problem.weighed),
  study.Arm("hps-mean", "hps without weights", lambda p: p.together(grads.combine.mean())),
  *(
    study.Arm(
      f"hps-{rule}",
      f"hps, gradients joined by {rule}",
      lambda p, rule=rule: p.together(grads.combine.TABLE[rule]()),
    )
    for rule in ("pcgrad", "cagrad", "mgda")
  ),
)

# --- questions, written down before the run

_SPREADS = {
  "dice": (("subject", 0.1), ("seed", 0.02)),
  "balanced": (("subject", 0.4), ("seed", 0.03)),
}


def _asked(metric: str) -> list[study.Question]:
  def question(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
    name = f"{text} ({study.page.name_of(metric)})"
    return study.Question(name, reference, arms, metric, "test", expects, _SPREADS[metric])

  surgery = ("hps-pcgrad", "hps-cagrad", "hps-mgda")
  return [
    question("Does cross-task attention beat a shared encoder?", "hps", ("ctan",), "better"),
    question("Does a shared encoder beat single networks?", "stl", ("hps",), "better"),
    question("Are single networks better than MTAN?", "stl", ("mtan",), "worse"),
    question("Does the exchange of masks matter?", "mtan", ("ctan",), "better"),
    question("Do weights of losses help?", "hps-mean", ("hps",), "open"),
    question("Does gradient surgery help?", "hps-mean", surgery, "open"),
  ]


QUESTIONS = (*_asked("dice"), *_asked("balanced"))
_REAL: dict[str, Any] = {
  "arms": tuple(ARMS),
  "size": 64,
  "widths": (16, 32, 64),
  "num_seeds": 3,
  "num_steps": 300,
  "log_every": 50,
}
PRESETS = {
  "demo": Config(),
  "evidence": Config(
    arms=tuple(ARMS), num_pictures=600, num_seeds=4, num_steps=300, log_every=50
  ),
  "skin": Config(table="diagnosis.csv", label="diagnosis", **_REAL),
  "ultrasound": Config(table="class.csv", label="class", subject="group", **_REAL),
}  # fmt: skip


# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  cases = load(config, options)
  parts = study.parted(cases.subjects, {"train": 0.6, "test": 0.4}, options.seed)
  people = {part: study.people_of(cases.subjects, rows) for part, rows in parts.items()}
  seeds = range(options.seed, options.seed + config.num_seeds)
  members = {"test": {"seed": len(seeds), "subject": len(people["test"])}}
  planned = study.planned(QUESTIONS, members, config.arms, margin=config.margin)
  with options.directory(config, cases.manifest) as directory:
    if directory.finished:
      return
    turn = study.Turn("", None, (), {}, people)
    directory.write_json("splits", study.splits_of([turn], options.seed))
    study.announce(planned)
    problem = Problem(config, cases)
    done = task_sets.trials(
      cases,
      parts,
      problem,
      {arm: ARMS[arm].make(problem) for arm in config.arms},
      directory,
      seeds=seeds,
      num_steps=config.num_steps,
      batch_size=config.batch_size,
      log_every=config.log_every,
    )
    questions = study.ask(QUESTIONS, done.rows, margin=config.margin, costs=done.flops)
    found = study.results(
      done.rows,
      ("dice", "balanced"),
      questions=questions,
      planned=planned,
      not_asked=study.not_asked(QUESTIONS, questions),
      flops=done.flops,
      is_simulated=options.preset in ("demo", "evidence"),
      num_parameters={arm: tree.size(own[0].params) for arm, own in done.trained.items()},
    )
    found["gains"] = gains(found)
    every = [one for own in done.trained.values() for one in own]
    report = page(config, cases, found, done.trained)
    study.finish(directory, found, report, trained=every, rows=done.rows)


def gains(found: dict[str, Any]) -> dict[str, dict[str, float]]:
  """Arm -> gain of each score over single networks, and their mean, in percent."""
  scores = {
    arm: {name: own["test"][name]["mean"] for name in ("dice", "balanced")}
    for arm, own in found["arms"].items()
  }
  if "stl" not in scores or 0 in scores["stl"].values():
    return {}
  return {
    arm: metrics.relative_gain(own, scores["stl"]) for arm, own in scores.items() if arm != "stl"
  }


def page(
  config: Config,
  cases: task_sets.TaskSet,
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
) -> Report:
  """Answers, scores, gains, verdicts, conflicts, curves and costs."""
  report = study.page.start(f"Attention across tasks: {cases.title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  if found["gains"]:
    report.table(
      ["arm", "Dice", "balanced accuracy", "mean"],
      [[arm, own["dice"], own["balanced"], own["mean"]] for arm, own in found["gains"].items()],
      "Gains over a network a task, in percent of its score.",
    )
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  study.page.conflicts(report, trained)
  first = {arm: own[0] for arm, own in trained.items()}
  labels = {f"loss/{name}": f"loss of {name}" for name in cases.tasks}
  labels |= {f"weight/{name}": f"weight of {name}" for name in cases.tasks}
  study.page.curves(report, first, labels, caption="First seed.")
  flops = {arm: own["flops_an_update"] for arm, own in found["arms"].items()}
  study.page.costs(report, trained, flops)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
