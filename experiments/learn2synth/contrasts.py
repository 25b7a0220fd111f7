"""Does a learned synthesiser reach supervised training at home, and outlast it on other contrasts?

All networks train on real T1 images of some people, on images synthesised from their label maps, or
on both, and are tested on other people: on their T1 images, and on `contrast_views` of them. Same
network, first weights, updates and rule of choice: the weights that do best on validation people.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments.learn2synth import (
  contrast_people,
  contrast_report,
  contrast_views,
  synthetic_training,
)
from experiments.learn2synth.contrast_people import HOME
from experiments.learn2synth.contrast_recipes import Recipe, Task
from medjax import check, cli, rng, study, train

VOTE = "label vote"


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


# --- arms

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
  arms = (*config.arms, VOTE)
  design = study.design(
    config, options.seed, QUESTIONS, arms, people.people, tested=tuple(people.test)
  )
  with options.directory(config, people.source.manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    task = Task(config, people)
    recipes: dict[str, Recipe] = {arm: ARMS[arm].make(task) for arm in config.arms}
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in config.arms}
    scored = {
      VOTE: [
        contrast_report.score(dict.fromkeys(people.test, people.vote), people, VOTE, s)
        for s in design.seeds
      ]
    }
    for seed in design.seeds:
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
    found = _results(task, recipes, trained, rows, design)
    report = contrast_report.page(ARMS, people, found, trained, scored)
    study.finish(directory, found, report, trained=trained, rows=rows)


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
  design: study.Design,
) -> dict[str, Any]:
  flops = {
    arm: study.flops(recipe.step, trained[arm][0].params, recipe.stream(0)(0))
    for arm, recipe in recipes.items()
  }
  costs = {arm: flops[arm] * recipe.num_steps for arm, recipe in recipes.items()}
  for arm in recipes:
    costs[arm] += costs.get(ARMS[arm].starts_from, 0.0)
  learned = {
    arm: [{name: one.curve(name)[1][-1] for name in _theta_of(one)} for one in own]
    for arm, own in trained.items()
    if _theta_of(own[0])
  }
  late = {arm: float(np.mean([_late_gain(one) for one in own])) for arm, own in trained.items()}
  return design.results(
    rows,
    ("dice",),
    costs={VOTE: float("nan"), **costs},
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
