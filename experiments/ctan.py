"""CTAN: do two tasks gain from each other's attention, beyond a shared encoder?

Kim, Purdie and McIntosh, "Cross-Task Attention Network: Improving Multi-task Learning for Medical
Imaging Applications" (2023): each task takes the shared features under its partner's mask, and the
bottlenecks attend to each other. Claim, in the mean relative gain over one network a task: CTAN
above hard parameter sharing above single networks above MTAN.

  python -m experiments.ctan demo                simulated outlines and stripes, which conflict by
                                                 construction; about 2 minutes
  python -m experiments.ctan evidence            the same, all arms, 4 seeds; about 8 minutes
  python -m experiments.ctan skin --data skin_ph2
                                                 outline and diagnosis of skin lesions, 2 seeds
  python -m experiments.ctan ultrasound --data busi150
                                                 outline and class, near-duplicates kept together

Times are for 2 CPU cores, that of `evidence` by the speed of its first trainings.

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

from experiments import task_sets, task_trials
from medjax import cli, grads, methods, metrics, nets, rng, study
from medjax.train import Report
from medjax.types import Array, Key, Params, Step

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(task_sets.Settings):
  """Two tasks on one picture, by networks that share more or less."""

  arms: tuple[str, ...] = ("stl", "hps", "mtan", "ctan")  # what is compared
  widths: tuple[int, ...] = (8, 16)  # channels of each level
  num_seeds: int = 1
  learning_rate: float = 3e-3  # Adam's, constant, the same for every arm
  period: int = 10  # updates over which losses are averaged for their weights

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


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
    self.losses = task_trials.losses_of(self, cases)

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

  def together(self, rule: Any) -> Step:
    tx = optax.adam(self.config.learning_rate)
    shared = lambda path: "/shared_" in path  # noqa: E731
    return methods.multitask(self.losses, tx, combine=rule, shared=shared)

  def weighed(self) -> Step:
    return self.together(grads.combine.dwa(period=self.config.period))

  def single(self) -> Step:
    first, second = self.losses.values()
    tx = optax.adam(self.config.learning_rate)
    return methods.supervised(lambda p, e, k: first(p, e, k) + second(p, e, k), tx)


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
_REAL: dict[str, Any] = {"widths": (8, 16, 32), "num_seeds": 2, "num_steps": 200}
PRESETS = {
  "demo": Config(size=24),
  "evidence": Config(
    arms=tuple(ARMS), num_pictures=1000, train_fraction=0.36, size=24, num_seeds=4, num_steps=200
  ),
  **{name: Config(**where, **_REAL) for name, where in task_sets.REAL.items()},
}


# --- gains over single networks, and the run


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


def section(report: Report, found: dict[str, Any]) -> None:
  """Puts the gains on the page and into results.json."""
  found["gains"] = gains(found)
  if found["gains"]:
    report.table(
      ["arm", "Dice", "balanced accuracy", "mean"],
      [[arm, own["dice"], own["balanced"], own["mean"]] for arm, own in found["gains"].items()],
      "Gains over a network a task, in percent of its score.",
    )


FRAME = task_trials.Frame(
  "Attention across tasks",
  ARMS,
  QUESTIONS,
  Problem,
  labels={"loss": "loss of", "weight": "weight of"},
  section=section,
)


def build(config: Config, options: cli.RunOptions) -> None:
  task_trials.run(FRAME, config, options, task_sets.load(config, options), config.arms)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
