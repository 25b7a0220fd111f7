"""Does a learned synthesiser reach supervised training at home, and outlast it on other contrasts?

All networks train on real T1 images of some people, on images synthesised from their label maps, or
on both, and are tested on other people: on their T1 images, and on `contrast_views` of them. Same
network, first weights, updates and rule of choice: the weights that do best on validation people.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learn2synth import (
  contrast_people,
  contrast_report,
  contrast_views,
  synthetic_training,
)
from experiments.learn2synth.contrast_people import HOME, People
from medjax import check, cli, data, methods, nets, rng, study, synth, train
from medjax.types import Batch, Key, Params, Step, Stream

VOTE = "label vote"
_NAIVE_SIGMA, _NAIVE_EXPONENT = (1e-4, 0.2), 0.5


# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Learn2Synth, randomisation and supervised training, at home and on other contrasts."""

  arms: tuple[str, ...] = ("naive", "supervised", "augmented", "learn2synth")  # what is compared
  shape: tuple[int, int] = (88, 104)  # pixels that every slice is cropped or padded to
  spacing: tuple[float, ...] = (2.0, 2.0, 2.0)  # voxel size in mm that volumes are brought to
  subject_pattern: str = r"(person\d+)_"  # finds the person in a case name
  people: int = 0  # people to train on, the first of those drawn; 0 takes all
  widths: tuple[int, ...] = (8, 16, 32)  # channels of the U-Net's levels
  num_steps: int = 1500  # updates
  batch_size: int = 4  # slices an update, synthetic and real alike
  learning_rate: float = 3e-3  # Adam's first rate for the network; decays to a twentieth
  theta_learning_rate: float = 3e-3  # Adam's first rate for the synthesiser; decays likewise
  eval_every: int = 100  # updates between two evaluations on validation people

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.non_negative("people", self.people)
    for place, arm in enumerate(self.arms):
      first = ARMS[arm].starts_from
      check.require(
        not first or first in self.arms[:place],
        f"{first} before {arm} in arms",
        f"{self.arms}",
        f"{arm} starts from its weights",
      )
    divisor = 2 ** (len(self.widths) - 1)
    check.require(
      len(self.shape) == 2 and not any(size % divisor for size in self.shape),
      f"shape of two multiples of {divisor}",
      f"{self.shape}",
      "the U-Net halves each side once a level",
    )


# --- model and arms


class Recipe(NamedTuple):
  """How an arm trains: its Step, `stream(seed)`, and what it learns besides the network.

  Attributes:
    step, num_steps: as for `study.Job`.
    stream: stream of a seed.
    task: with the augmentation that is learnt, for arms that learn one.
    residual: the network inside it, if it is one.
  """

  step: Step
  stream: Callable[[int], Stream]
  num_steps: int
  task: synthetic_training.Task
  residual: nets.UNet | None = None


class Task:
  """The network, its generator, and what each arm makes of them."""

  def __init__(self, config: Config, people: People):
    self.config, self.people = config, people
    class_names = people.source.class_names
    grouping = synth.with_clusters(
      synth.identity(len(class_names), class_names), len(contrast_views.UNLABELLED)
    )
    self.module = synthetic_training.network(len(class_names), config.widths)
    self.training = synthetic_training.Task(
      model=nets.from_linen(self.module),
      generator=synth.learn2synth_base(grouping),
      augmentation=synth.ParametricAugmentation(),
      loss=synthetic_training.dice_and_cross_entropy,
    )

  def tx(self, num_steps: int, rate: float | None = None) -> optax.GradientTransformation:
    rate = self.config.learning_rate if rate is None else rate
    return optax.adam(optax.cosine_decay_schedule(rate, num_steps, alpha=0.05), eps_root=1e-16)

  def maps(self, seed: int) -> Stream:
    return data.batches(self.people.maps, self.config.batch_size, seed, name="synthetic")

  def real(self, seed: int) -> Stream:
    return data.batches(self.people.training, self.config.batch_size, seed, name="real")

  def naive(self, share_real: float = 0.0) -> Recipe:
    """Fixed, broad randomisation; some of the examples stay the real image that they come from."""
    augmentation = synth.ParametricAugmentation(noise="ranged")
    theta = augmentation.init(sigma=_NAIVE_SIGMA, exponents=_NAIVE_EXPONENT)
    task = dataclasses.replace(self.training, augmentation=augmentation)

    def loss_fn(params: Params, example: Batch, key: Key) -> jax.Array:
      synthesis_key, coin_key = rng.streams(key, "synthesis", "is_real")
      image, target = task.synthesise(theta, synthesis_key, example.label)
      if share_real:
        is_real = jax.random.bernoulli(coin_key, share_real)
        image = jnp.where(is_real, example.image, image)
        target = jnp.where(is_real, task.generator.grouping.to_target(example.label), target)
      return task.loss(task.model.apply(params, image)[0], target)

    steps = self.config.num_steps
    return Recipe(methods.supervised(loss_fn, self.tx(steps)), self.maps, steps, task)

  def supervised(self, augmented: bool = False, part: float = 1.0) -> Recipe:
    """On real images; `part` of the updates at that part of the rate, for fine-tuning."""
    augmentation = data.augmentation.nnunet(self.config.shape, mirror_axes=(0,))

    def loss_fn(params: Params, example: Batch, key: Key) -> jax.Array:
      image, label = example.image, example.label
      if augmented:  # its ranges are those of z-scored images
        mean, std = image.mean(), image.std() + 1e-6
        image, label = augmentation(key, (image - mean) / std, label)
        image = image * std + mean
      return self.training.loss(self.training.model.apply(params, image)[0], label)

    steps = max(round(part * self.config.num_steps), 1)
    tx = self.tx(steps, part * self.config.learning_rate)
    return Recipe(methods.supervised(loss_fn, tx), self.real, steps, self.training)

  def learn2synth(self, augmentation: synth.LearnableAugmentation, theta: Any) -> Recipe:
    task = dataclasses.replace(self.training, augmentation=augmentation)
    steps = self.config.num_steps
    step = methods.learn2synth(
      task.inner_loss,
      task.outer_loss,
      self.tx(steps),
      theta,
      self.tx(steps, self.config.theta_learning_rate),
      describe=augmentation.describe,
    )
    both = lambda seed: data.zip_streams(inner=self.maps(seed), outer=self.real(seed))  # noqa: E731
    return Recipe(step, both, steps, task)

  def parametric(self, **noise: Any) -> Recipe:
    augmentation = synth.ParametricAugmentation(**noise)
    return self.learn2synth(augmentation, augmentation.init(sigma=0.02, exponents=0.0))

  def network(self) -> Recipe:
    """The paper's nonparametric model, of two levels; it starts near the identity."""
    residual = nets.UNet(num_outputs=1, widths=(8, 16), norm="instance", activation="elu")
    augmentation = synth.UNetResidual(nets.from_linen(residual), gain=0.1)
    first = jnp.zeros((*self.config.shape, 1))
    recipe = self.learn2synth(augmentation, augmentation.init(jax.random.key(0), first))
    return recipe._replace(residual=residual)


ARMS = study.arms(
  study.Arm("naive", "synthetic images under fixed, broad randomisation", Task.naive),
  study.Arm("mixed", "each image real or synthetic by a coin", lambda t: t.naive(share_real=0.5)),
  study.Arm(
    "fine-tuned", "naive, then a quarter of the updates on real images",
    lambda t: t.supervised(part=0.25), "naive",
  ),
  study.Arm("supervised", "real images as they are", Task.supervised),
  study.Arm(
    "augmented", "real images, nnU-Net's augmentation", lambda t: t.supervised(augmented=True)
  ),
  study.Arm(
    "learn2synth", "synthetic images; one noise level and bias field learnt from the real ones",
    Task.parametric,
  ),
  study.Arm("ranged", "a range of noise levels learnt", lambda t: t.parametric(noise="ranged")),
  study.Arm(
    "modulated", "noise level times a normal draw", lambda t: t.parametric(noise="modulated")
  ),
  study.Arm("network", "a network changes the synthetic image", Task.network),
)  # fmt: skip

# --- questions, written down before the run

_SPREAD = (("subject", 0.015), ("seed", 0.01))
_FAR = (("subject", 0.05), ("seed", 0.03))
QUESTIONS = (
  study.Question(
    "Does learning the synthesiser help at home?", "naive", ("learn2synth",), "dice", HOME,
    spread=_SPREAD,
  ),
  study.Question(
    "Does Learn2Synth reach supervised training at home?", "augmented", ("learn2synth",), "dice",
    HOME, expects="equivalent", spread=_SPREAD,
  ),
  study.Question(
    "Do networks that see images beat a vote that sees none?", VOTE,
    ("naive", "augmented", "learn2synth"), "dice", HOME, spread=_FAR,
  ),
  *(
    study.Question(
      f"Does Learn2Synth outlast supervised training ({role})?", "augmented",
      ("naive", "learn2synth"), "dice", role, expects="open" if role == "noisy" else "better",
      spread=_FAR,
    )
    for role in (*(f"flip {angle}" for angle in contrast_views.FLIP_ANGLES), "noisy", "motion")
  ),
  study.Question(
    "Which synthesiser?", "learn2synth", ("ranged", "modulated", "network"), "dice", HOME,
    expects="open", spread=_SPREAD,
  ),
)  # fmt: skip


# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  (path,) = study.paths_of(options.data, 1)
  people = contrast_people.load(
    path,
    shape=config.shape,
    spacing=config.spacing,
    subject_pattern=config.subject_pattern,
    num_people=config.people,
    seed=options.seed,
    picture=study.pair_picture(options.workdir),
  )
  seeds = range(options.seed, options.seed + config.num_seeds)
  members = {"seed": len(seeds), "subject": len(people.people["test"])}
  planned = study.planned(
    QUESTIONS, dict.fromkeys(people.test, members), (*config.arms, VOTE), margin=config.margin
  )
  with options.directory(config, people.source.manifest()) as directory:
    if directory.finished:
      return
    turn = study.Turn("", people.training, people.validation, people.test, people.people)
    directory.write_json("splits", study.splits_of([turn], options.seed))
    study.announce(planned)
    task = Task(config, people)
    recipes: dict[str, Recipe] = {arm: ARMS[arm].make(task) for arm in config.arms}
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in config.arms}
    scored = {
      VOTE: [
        contrast_report.score(dict.fromkeys(people.test, people.vote), people, VOTE, s)
        for s in seeds
      ]
    }
    for seed in seeds:
      for arm, recipe in recipes.items():
        one = _trained(config, task, arm, recipe, seed, trained, directory)
        trained[arm].append(one)
        synthetic_training.save(
          directory,
          one,
          recipe.task,
          task.module,
          people.volumes,
          patch=config.shape,
          axis=2,
          residual=recipe.residual,
        )

        def predicted(one: study.Trained = one, arm: str = arm, seed: int = seed) -> study.Scored:
          found = {
            role: task.training.predict(one.params, cases.image)
            for role, cases in people.test.items()
          }
          return contrast_report.score(found, people, arm, seed)

        scored.setdefault(arm, []).append(study.kept(directory, one.name, one.params, predicted))
    rows = [row for own in scored.values() for one in own for row in one.rows]
    found = _results(task, recipes, trained, rows, planned)
    report = contrast_report.page(ARMS, people, found, trained, scored)
    every = [one for own in trained.values() for one in own]
    study.finish(directory, found, report, trained=every, rows=rows)


def _trained(
  config: Config,
  task: Task,
  arm: str,
  recipe: Recipe,
  seed: int,
  trained: dict[str, list[study.Trained]],
  directory: train.RunDirectory,
) -> study.Trained:
  key = jax.random.key(seed)  # one for all arms: the same first weights
  params, inherited = task.training.first_params(key, config.shape), ()
  if ARMS[arm].starts_from:
    params = inherited = trained[ARMS[arm].starts_from][-1].params
  job = study.Job(
    f"{arm}-{seed}",
    recipe.step,
    recipe.stream(seed),
    params,
    rng.stream(key, "training"),
    recipe.num_steps,
    {"validation": task.training.mean_dice(task.people.validation)},
    keep_best="validation/dice",
    inherited=inherited,
  )
  return study.train_job(
    job,
    directory,
    log_every=config.log_every,
    eval_every=config.eval_every,
    checkpoint_every=config.eval_every,
  )


def _results(
  task: Task,
  recipes: dict[str, Recipe],
  trained: dict[str, list[study.Trained]],
  rows: list[dict[str, Any]],
  planned: list[dict[str, Any]],
) -> dict[str, Any]:
  flops = {
    arm: study.flops(recipe.step, trained[arm][0].params, recipe.stream(0)(0))
    for arm, recipe in recipes.items()
  }
  costs = {arm: flops[arm] * recipe.num_steps for arm, recipe in recipes.items()}
  for arm in recipes:
    costs[arm] += costs.get(ARMS[arm].starts_from, 0.0)
  questions = study.ask(
    QUESTIONS, rows, margin=task.config.margin, costs={VOTE: float("nan"), **costs}
  )
  learned = {
    arm: [{name: one.curve(name)[1][-1] for name in _theta_of(one)} for one in own]
    for arm, own in trained.items()
    if _theta_of(own[0])
  }
  late = {arm: float(np.mean([_late_gain(one) for one in own])) for arm, own in trained.items()}
  return study.results(
    rows,
    ("dice",),
    questions=questions,
    planned=planned,
    not_asked=study.not_asked(QUESTIONS, questions),
    flops=flops,
    people_trained_on=len(task.people.people["train"]),
    learned=learned,
    late_gain=late,
  )


def _theta_of(one: study.Trained) -> list[str]:
  return [name for name in one.fit.history[0] if name.startswith("theta/")]


def _late_gain(one: study.Trained) -> float:
  """What the best validation Dice of the last third adds to the best one before it."""
  steps, values = one.curve("validation/dice")
  late = [v for s, v in zip(steps, values, strict=True) if 3 * s > 2 * one.num_steps]
  early = [v for s, v in zip(steps, values, strict=True) if 3 * s <= 2 * one.num_steps]
  return max(late) - max(early) if late and early else float("nan")
