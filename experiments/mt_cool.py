"""MT-COOL: do two tasks help each other more when each trains under the other one's noise?

Wu et al., "Multi-task Cooperative Learning via Searching for Flat Minima" (2023): two encoders that
read each other train in turn, the other one's weights being perturbed. Claims: better than gradient
surgery, which is better than joint training; near independent networks of twice the size; the noise
and the KL term each add.

  python -m experiments.mt_cool demo             simulated outlines and stripes; about 4 minutes
  python -m experiments.mt_cool evidence         the same with all arms and 4 seeds
  python -m experiments.mt_cool digits           even and odd digits, 4 seeds
  python -m experiments.mt_cool skin --data skin_ph2
                                                 outline and diagnosis of skin lesions
  python -m experiments.mt_cool ultrasound --data busi150
                                                 outline and class, near-duplicates kept together

The time is for 2 CPU cores; the longer presets have not been run.

Published, accuracy on even and odd MNIST: independent .9941 .9877, joint .9960 .9951, CAGrad .9967
.9951, alternating .9961 .9937, MT-COOL .9972 .9962. Those had one sample of noise, for which the KL
term is exactly 0: "noise" and their full method are one arm. Here the term has two samples.

Controls: the same network trained jointly, by gradient surgery and by sharpness-aware minimisation
(which is for flatness, and has two gradients an update as the method does); independent networks
with as many parameters in all; and "bilevel", where task 1 differentiates through task 2's step,
which the paper's title of "bi-level" would mean.

DEVIATIONS: noise on the other task's encoder (Eq. 5; the line of the algorithm perturbs one's own);
one update a turn and the same batch for both turns; no warm-up by Eq. 7; momentum.

results.json: the common schema of `study.results`; "flatness" is minus the rise of both losses when
both encoders are moved by U(-b, b), mean over draws (0 where nothing is moved: independent
networks do not read each other, so theirs is not asked about). num_parameters.<arm>.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import task_sets
from medjax import cli, grads, methods, nets, rng, study, tree
from medjax.methods import cooperative
from medjax.train import Report
from medjax.types import Array, Key, Params, PyTree, Step

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Two tasks on one picture."""

  arms: tuple[str, ...] = ("joint", "vanilla", "noise", "mt-cool")  # what is compared
  num_pictures: int = 240  # simulated pictures
  size: int = 32  # side of a picture in pixels
  table: str = ""  # CSV beside dataset.json with the classes
  label: str = ""  # its column with the class
  subject: str = ""  # its column that keeps near-duplicates together
  widths: tuple[int, ...] = (8, 16)  # channels of both encoders together
  single_widths: tuple[int, ...] = (6, 11)  # of each independent network
  num_seeds: int = 2
  num_steps: int = 250  # updates
  batch_size: int = 16  # pictures an update
  learning_rate: float = 0.1  # of gradient descent with a momentum of 0.9
  radius: float = 0.05  # b: of the noise, and of a turn
  kl_weight: float = 1.0  # lambda
  sharpness: float = 0.05  # rho of sharpness-aware minimisation
  num_draws: int = 8  # perturbations by which flatness is measured
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
  if options.preset == "digits":
    return task_sets.digits(config.num_pictures, options.seed)
  return task_sets.striped(config.num_pictures, config.size, options.seed)


# --- model and arms


class Problem:
  """The networks, their tasks and the Steps."""

  def __init__(self, config: Config, cases: task_sets.TaskSet):
    self.config, self.cases, self.names = config, cases, tuple(cases.tasks)
    self.model = nets.from_linen(nets.Streams(cases.heads, config.widths))
    self.single = {
      name: nets.from_linen(nets.Streams((head,), config.single_widths))
      for name, head in cases.tasks.items()
    }
    self.tx = optax.sgd(config.learning_rate, momentum=0.9)

  def start(self, arm: str, key: Key) -> Params:
    image = self.cases.image[0]
    if arm != "independent":
      return self.model.init(rng.stream(key, "parameters"), image)[0]
    return {name: net.init(rng.stream(key, name), image)[0] for name, net in self.single.items()}

  def logits(self, params: Params, image: Array) -> tuple[Array, ...]:
    """Of every task; independent networks are a dict by task."""
    if set(params) == set(self.names):
      return tuple(self.single[n].apply(params[n], image)[0][0] for n in self.names)
    return self.model.apply(params, image)[0]

  def loss(self, number: int) -> Any:
    cost = task_sets.cost_of(self.cases.heads[number][0])

    def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
      del key
      return cost(self.logits(params, example["image"])[number], example[self.names[number]])

    return loss_fn

  def tasks(self) -> dict[str, cooperative.Task]:
    def task(number: int) -> cooperative.Task:
      cost, name = task_sets.cost_of(self.cases.heads[number][0]), self.names[number]
      front = f"stream{number}_"
      return cooperative.Task(
        lambda params, example, key: self.logits(params, example["image"])[number],
        lambda logits, example: cost(logits, example[name]),
        lambda path: path.startswith(f"{front}encoder"),
        lambda path: path.startswith(front) and not path.startswith(f"{front}encoder"),
      )

    return {name: task(number) for number, name in enumerate(self.names)}

  def all_tasks(
    self, combine: grads.combine.Combiner, tx: optax.GradientTransformation | None = None
  ) -> Step:
    """Both tasks in every update; the encoders are shared, the heads are not."""
    losses = {name: self.loss(number) for number, name in enumerate(self.names)}
    shared = lambda path: "_encoder" in path  # noqa: E731
    return methods.multitask(losses, tx or self.tx, combine=combine, shared=shared)

  def independent(self) -> Step:
    both = [self.loss(number) for number in range(2)]
    return methods.supervised(lambda p, e, k: both[0](p, e, k) + both[1](p, e, k), self.tx)

  def sharp(self) -> Step:
    """Sharpness-aware: two updates of the loop are one of the network."""
    rise = optax.chain(optax.contrib.normalize(), optax.sgd(self.config.sharpness))
    return self.all_tasks(grads.combine.mean(), optax.contrib.sam(self.tx, rise, sync_period=2))

  def turns(self, samples: int, strength: float = 0.0, perturbs: Any = "other") -> Step:
    return cooperative.cooperative(
      self.tasks(),
      self.tx,
      radius=self.config.radius,
      samples=samples,
      strength=strength,
      perturbs=perturbs,
    )


_RULES = ("pcgrad", "cagrad", "mgda", "graddrop")
ARMS = study.arms(
  study.Arm("joint", "both losses at once: the control", lambda p: p.all_tasks(_rule("mean"))),
  study.Arm("independent", "a network a task, as many parameters in all", Problem.independent),
  *(
    study.Arm(name, f"gradients joined by {name}", lambda p, name=name: p.all_tasks(_rule(name)))
    for name in _RULES
  ),
  study.Arm("sam", "joint, sharpness-aware, two gradients an update", Problem.sharp),
  study.Arm("vanilla", "in turn, without noise", lambda p: p.turns(1, perturbs="none")),
  study.Arm("noise", "in turn, one sample of noise: the paper's setting", lambda p: p.turns(1)),
  study.Arm("noise-2", "two samples, no KL term", lambda p: p.turns(2)),
  study.Arm("mt-cool", "two samples and KL", lambda p: p.turns(2, p.config.kl_weight)),
  study.Arm("own-noise", "noise on one's own encoder", lambda p: p.turns(1, perturbs="own")),
  study.Arm(
    "bilevel",
    "task 1 through task 2's step, exactly",
    lambda p: cooperative.bilevel(p.tasks(), p.tx),
  ),
)


def _rule(name: str) -> Any:
  return grads.combine.TABLE[name]()


# --- questions, written down before the run

_SPREADS = {
  "dice": (("subject", 0.1), ("seed", 0.02)),
  "balanced": (("subject", 0.4), ("seed", 0.03)),
  "flatness": (("subject", 0.05), ("seed", 0.01)),
}


def _asked(metric: str) -> list[study.Question]:
  def question(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
    return study.Question(
      f"{text} ({study.page.name_of(metric)})", reference, arms, metric, "test", expects,
      _SPREADS[metric],
    )  # fmt: skip

  return [
    question("Is joint training worse than MT-COOL?", "mt-cool", ("joint",), "worse"),
    question("Is gradient surgery worse than MT-COOL?", "mt-cool", _RULES, "worse"),
    question("Does gradient surgery beat joint training?", "joint", _RULES, "better"),
    question("Is it as good as independent networks?", "independent", ("mt-cool",), "equivalent"),
    question("Does the noise add to turns?", "vanilla", ("noise", "noise-2"), "better"),
    question("Does the KL term add to the noise?", "noise-2", ("mt-cool",), "better"),
    question("Is sharpness-aware training as good?", "sam", ("mt-cool",), "open"),
    question("Does the honest bilevel derivative help?", "vanilla", ("bilevel",), "open"),
    question("Whose encoder should be perturbed?", "noise", ("own-noise",), "open"),
  ]


QUESTIONS = (
  *_asked("dice"),
  *_asked("balanced"),
  study.Question(
    "Is the minimum flatter than that of plain turns?", "vanilla", ("noise", "noise-2", "mt-cool"),
    "flatness", spread=_SPREADS["flatness"],
  ),
  study.Question(
    "Is it flatter than sharpness-aware training's?", "sam", ("mt-cool",), "flatness",
    expects="open", spread=_SPREADS["flatness"],
  ),
)  # fmt: skip

_ALL = tuple(ARMS)
_REAL: dict[str, Any] = {
  "arms": _ALL,
  "size": 64,
  "widths": (16, 32, 64),
  "single_widths": (11, 23, 45),
  "num_seeds": 3,
  "num_steps": 300,
  "log_every": 50,
}
PRESETS = {
  "demo": Config(),
  "evidence": Config(arms=_ALL, num_pictures=600, num_seeds=4, num_steps=300, log_every=50),
  "digits": Config(arms=_ALL, num_pictures=1500, num_seeds=4, num_steps=300, log_every=50),
  "skin": Config(table="diagnosis.csv", label="diagnosis", **_REAL),
  "ultrasound": Config(table="class.csv", label="class", subject="group", **_REAL),
}


# --- flatness


def rise(problem: Problem, params: Params, store: PyTree, key: Key) -> np.ndarray:
  """[n] rise of the sum of both losses, mean over perturbations of both encoders."""
  config = problem.config

  @jax.jit
  def one(params: Params, key: Key) -> Array:
    values = [
      jax.vmap(problem.loss(number), (None, 0, None))(params, store, key) for number in range(2)
    ]
    return values[0] + values[1]

  def moved(params: Params, key: Key) -> Params:
    def move(name: str, x: Array) -> Array:
      if "_encoder" not in name:
        return x
      own = rng.stream(key, name)
      return x + jax.random.uniform(own, x.shape, x.dtype, -config.radius, config.radius)

    return tree.map_named(move, params)

  start = one(params, key)
  if "stream0_head" not in params:
    return np.zeros(len(start))
  draws = jax.random.split(key, config.num_draws)
  return np.asarray(jnp.stack([one(moved(params, k), k) for k in draws]).mean(0) - start)


# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  cases = load(config, options)
  parts = study.parted(cases.subjects, {"train": 0.6, "test": 0.4}, options.seed)
  people = {part: study.people_of(cases.subjects, rows) for part, rows in parts.items()}
  kinds = {kind for kind, _ in cases.heads}
  measured = ["dice"] * ("mask" in kinds) + ["balanced"] * ("class" in kinds) + ["flatness"]
  asked = [question for question in QUESTIONS if question.metric in measured]
  seeds = range(options.seed, options.seed + config.num_seeds)
  members = {"test": {"seed": len(seeds), "subject": len(people["test"])}}
  planned = study.planned(asked, members, config.arms, margin=config.margin)
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
      repeats={"sam": 2},  # two steps make an update of sharpness-aware training
      more=lambda params, cases, key: {"flatness/both": -rise(problem, params, cases, key)},
    )
    questions = study.ask(asked, done.rows, margin=config.margin, costs=done.flops)
    found = study.results(
      done.rows,
      measured,
      questions=questions,
      planned=planned,
      not_asked=study.not_asked(QUESTIONS, questions),
      flops=done.flops,
      is_simulated=options.preset in ("demo", "evidence", "digits"),
      num_parameters={arm: tree.size(own[0].params) for arm, own in done.trained.items()},
    )
    every = [one for own in done.trained.values() for one in own]
    report = page(config, cases, found, done.trained)
    study.finish(directory, found, report, trained=every, rows=done.rows)


def page(
  config: Config,
  cases: task_sets.TaskSet,
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
) -> Report:
  """Answers, scores, verdicts, conflicts, curves and costs."""
  report = study.page.start(f"Two tasks in turn: {cases.title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.table(
    ["arm", "parameters"],
    [[arm, number] for arm, number in found["num_parameters"].items()],
    "Independent networks have as many parameters together as the one that both tasks share.",
  )
  study.page.conflicts(report, trained)
  first = {arm: own[0] for arm, own in trained.items()}
  labels = {f"loss/{name}": f"loss of {name}" for name in cases.tasks}
  labels |= {f"kl/{name}": f"KL of {name}, nats" for name in cases.tasks}
  study.page.curves(report, first, labels, caption="First seed.")
  flops = {arm: own["flops_an_update"] for arm, own in found["arms"].items()}
  study.page.costs(report, trained, flops)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
