"""MT-COOL: do two tasks help each other more when each trains under the other one's noise?

Wu et al., "Multi-task Cooperative Learning via Searching for Flat Minima" (2023): two encoders that
read each other train in turn, the other one's weights being perturbed. Claims: better than gradient
surgery, which is better than joint training; near independent networks of twice the size; the noise
and the KL term each add.

  python -m experiments.mt_cool demo             simulated outlines and stripes; about 2 minutes
  python -m experiments.mt_cool evidence         the same, nearly all arms, 4 seeds; about 8 minutes
  python -m experiments.mt_cool digits           even and odd digits, all arms, 4 seeds
  python -m experiments.mt_cool skin --data skin_ph2
                                                 outline and diagnosis of skin lesions, 2 seeds
  python -m experiments.mt_cool ultrasound --data busi150
                                                 outline and class, near-duplicates kept together

Times are for 2 CPU cores, that of `evidence` by the speed of its first trainings.

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
both encoders are moved by U(-b, b), mean over draws (independent networks have none: they do not
read each other). num_parameters.<arm>.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from experiments import task_sets, task_trials
from medjax import cli, grads, methods, nets, rng, study, tree
from medjax.methods import cooperative
from medjax.types import Array, Key, Params, PyTree, Step

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(task_sets.Settings):
  """Two tasks on one picture."""

  arms: tuple[str, ...] = ("joint", "vanilla", "noise", "mt-cool")  # what is compared
  widths: tuple[int, ...] = (8, 16)  # channels of both encoders together
  single_widths: tuple[int, ...] = (6, 11)  # of each independent network
  num_seeds: int = 2
  learning_rate: float = 0.1  # of gradient descent with a momentum of 0.9
  radius: float = 0.05  # b: of the noise, and of a turn
  kl_weight: float = 1.0  # lambda
  sharpness: float = 0.05  # rho of sharpness-aware minimisation
  num_draws: int = 4  # perturbations by which flatness is measured

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


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
    self.losses = task_trials.losses_of(self, cases)

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

  def both(self, params: Params, example: PyTree, key: Key) -> Array:
    """The sum of both losses of one example."""
    first, second = self.losses.values()
    return first(params, example, key) + second(params, example, key)

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
    shared = lambda path: "_encoder" in path  # noqa: E731
    return methods.multitask(self.losses, tx or self.tx, combine=combine, shared=shared)

  def independent(self) -> Step:
    return methods.supervised(self.both, self.tx)

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
_DROPPED = ("graddrop", "own-noise")  # of the preset that has to end within minutes
_LONG: dict[str, Any] = {"num_seeds": 4, "train_fraction": 0.36, "num_steps": 200, "log_every": 50}
_REAL: dict[str, Any] = {
  "size": 32,
  "widths": (8, 16, 32),
  "single_widths": (6, 11, 22),
  "num_steps": 200,
}
PRESETS = {
  "demo": Config(size=24),
  "evidence": Config(
    arms=tuple(arm for arm in _ALL if arm not in _DROPPED), size=24, num_pictures=1000, **_LONG
  ),
  "digits": Config(arms=_ALL, num_pictures=1000, **_LONG),
  **{name: Config(**where, **_REAL) for name, where in task_sets.REAL.items()},
}


# --- flatness


def flatness(problem: Problem) -> task_trials.Measure:
  """Minus the mean rise of the sum of both losses, [n], when both encoders are moved."""
  config = problem.config

  def moved(params: Params, key: Key) -> Params:
    def move(name: str, x: Array) -> Array:
      if "_encoder" not in name:
        return x
      own = rng.stream(key, name)
      return x + jax.random.uniform(own, x.shape, x.dtype, -config.radius, config.radius)

    return tree.map_named(move, params)

  @jax.jit
  def rise(params: Params, other: Params, store: PyTree, key: Key) -> Array:
    each = jax.vmap(problem.both, (None, 0, None))
    return each(other, store, key) - each(params, store, key)

  move = jax.jit(moved)

  def measure(params: Params, store: PyTree, key: Key) -> dict[str, np.ndarray]:
    if set(params) == set(problem.names):
      return {"flatness/both": np.full(len(store["index"]), np.nan)}
    draws = jax.random.split(key, config.num_draws)
    found = [np.asarray(rise(params, move(params, k), store, k)) for k in draws]
    return {"flatness/both": -np.mean(found, axis=0)}

  return measure


# --- the run

FRAME = task_trials.Frame(
  "Two tasks in turn",
  ARMS,
  QUESTIONS,
  Problem,
  labels={"loss": "loss of", "kl": "KL in nats of"},
  repeats={"sam": 2},  # two steps make an update of sharpness-aware training
  measured=("flatness",),
  measure=flatness,
)


def build(config: Config, options: cli.RunOptions) -> None:
  task_trials.run(FRAME, config, options, task_sets.load(config, options), config.arms)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
