"""Test-time selection: do a few clicks free a classifier from an artefact that it leans on?

Bissoto et al., "Test-Time Selection for Robust Skin Lesion Analysis" (2023). A person marks points
on the lesion and points that should not matter; channels of the last map that answer to the second
are silenced, for this image alone. Claims: where the artefact misleads, far above the network as it
is, its averages over copies, Tent and T3A, with one pair of points already; more points are better,
and points on the artefact better than points on the background.

  python -m experiments.test_time_selection demo      simulated discs, bias 0 and 1, 4 seeds; about
                                                      4 minutes beside other work
  python -m experiments.test_time_selection evidence  bias 0, .5 and 1, 10 seeds; about 12 minutes
  python -m experiments.test_time_selection skin --data PH2 --data ARTEFACTS
                                                      skin lesions with real rulers laid over them

Times are for 2 CPU cores. PH2 is an nnU-Net folder with diagnosis.csv (case, diagnosis), ARTEFACTS
holds pairs of pictures with and without an artefact, see experiments/trap_sets.py. Published AUROC
at bias 1: copies .584, T3A .567, Tent .541, noise outside of the lesion .727, background points 1 +
1 to 20 + 20 .682 to .729, artefact points 20 + 20 .750.

The test that the paper lacks: at bias 1 the artefact tells the class, reversed, also in the test.
Points on the artefact exist only where it is, so the points alone tell the class too, and a method
may reach an AUROC of 1 without a look at the lesion. The roles ", all" and ", none" therefore show
every test picture with the artefact, or without: there it cannot tell classes apart, and only what
is read of the lesion counts.

Controls: "noise" needs the whole outline of the lesion; "random" silences as many channels without
a look at them; bias 0 shows what selection costs where nothing misleads. Beyond the paper:
"gradient" ranks channels by activity times the slope of the predicted class's logit, "surest" takes
the least uncertain of four selections, and "tuned" learns a soft choice by the hypergradient
through a refit last layer (`trap_tuning`). It is told more than the others: `num_fair` training
pictures in which the artefact says nothing of the class. "refit", its control, has them too.

DEVIATIONS: a small network from scratch stands for a pre-trained ResNet; copies are mirrored and
shifted, 8 in place of 50; each image is judged on its own, so Tent has its copies as a batch and
moves all biases and the last layer (there are no norms). An image without the artefact has no point
on it and takes points on its background, so that both kinds of image are judged by one rule.

results.json: the common schema of `study.results`; roles are biases, and who shows
the artefact in the test.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments import trap_sets, trap_tuning
from experiments.trap_readers import Case, Task, cases_of, each
from medjax import check, cli, inference, rng, study
from medjax import data as streams
from medjax.data.seeds import generator
from medjax.train import Report
from medjax.types import Array, Params

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Classifiers of lesions beside which an artefact stands."""

  arms: tuple[str, ...] = ("plain", "copies", "noise", "background", "artefact-1", "artefact")
  biases: tuple[float, ...] = (0.0, 1.0)  # b: how far the artefact gives the class away
  num_seeds: int = 4
  num_pictures: int = 900  # simulated people, one picture each, half of them tested
  size: int = 32  # side of a picture in pixels
  contrast: float = 0.12  # height of the stripes that are the true sign, simulated
  artefact: str = "ruler"  # kind of artefact of real pictures
  width: int = 64  # channels of each of the four convolutions
  num_steps: int = 250  # updates
  batch_size: int = 64  # pictures an update
  learning_rate: float = 1e-3  # Adam's
  num_points: int = 20  # of each kind
  keep_share: float = 0.1  # of the channels that stay
  num_copies: int = 8  # of a picture, for averages and Tent
  tent_rate: float = 1e-2  # of the descent on entropy
  num_fair: int = 64  # training pictures in which the artefact says nothing, for "tuned", "refit"

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    for bias in self.biases:
      check.in_interval("bias", bias, 0, 1)
    check.in_interval("keep_share", self.keep_share, 0.01, 1)


# --- arms


def _points(**how: Any) -> Callable[..., Array]:
  return functools.partial(Task.selected, **how)


ARMS = study.arms(
  study.Arm("plain", "the network as it is", Task.plain),
  study.Arm("copies", "mean over mirrored and shifted copies", Task.copies),
  study.Arm("tent", "a step to less entropy of the copies", Task.tent),
  study.Arm("t3a", "prototypes that move with the stream", Task.plain),  # see `answers`
  study.Arm("noise", "noise outside of the true outline", Task.noise),
  study.Arm("random", "channels silenced at random",
            _points(kind="background", alpha=0.4, by="random")),
  study.Arm("background-1", "1 + 1 points, background",
            _points(kind="background", alpha=0.4, num=1)),
  study.Arm("background", "points on the background", _points(kind="background", alpha=0.4)),
  study.Arm("artefact-1", "1 + 1 points, artefact", _points(kind="artefact", alpha=0.2, num=1)),
  study.Arm("artefact", "points on the artefact", _points(kind="artefact", alpha=0.2)),
  study.Arm("artefact-.4", "the same, alpha .4", _points(kind="artefact", alpha=0.4)),
  study.Arm("gradient", "channels by activity times slope",
            _points(kind="artefact", alpha=0.2, by="slope")),
  study.Arm("surest", "the least uncertain of four selections", Task.surest),
  study.Arm("tuned", "a soft choice, learnt on fair pictures", Task.tuned),
  study.Arm("refit", "the last layer, learnt on the same pictures", Task.plain),
)  # fmt: skip

# --- questions, written down before the run

_WHO = ("", ", all", ", none")
"""Who shows the artefact in the test: those whom it misleads (the paper's test), all, or nobody."""
_HIGH, _ALL, _NONE = "bias 1", "bias 1, all", "bias 0"
_SPREAD = (("subject", 0.4), ("seed", 0.05))


def _ask(
  text: str, reference: str, arms: tuple[str, ...], role: str, expects: Any
) -> study.Question:
  return study.Question(text, reference, arms, "auroc", role, expects, _SPREAD)


QUESTIONS = (
  _ask("Does selection help where the artefact misleads?", "plain",
       ("background-1", "background", "artefact-1", "artefact"), _HIGH, "better"),
  _ask("Do methods without points help?", "plain", ("copies", "tent", "t3a"), _HIGH, "equivalent"),
  _ask("Is the lesion itself read better, where every picture has the artefact?", "plain",
       ("background", "artefact"), _ALL, "better"),
  _ask("Are points on the artefact better?", "background", ("artefact",), _HIGH, "better"),
  _ask("Are more points better?", "background-1", ("background",), _HIGH, "better"),
  _ask("Is the smaller alpha better?", "artefact-.4", ("artefact",), _HIGH, "better"),
  _ask("Do points beat the whole outline?", "noise", ("background", "artefact"), _HIGH, "open"),
  _ask("Is it which channels go, or how many?", "random", ("background",), _HIGH, "better"),
  _ask("What does selection cost where nothing misleads?", "plain", ("background", "artefact"),
       _NONE, "equivalent"),
  _ask("Does the slope rank channels better?", "artefact", ("gradient", "surest"), _HIGH, "open"),
  _ask("Is a learnt choice better than a set one?", "artefact", ("tuned",), _ALL, "open"),
  _ask("Is it more than refitting the last layer on the same pictures?", "refit", ("tuned",), _ALL,
       "open"),
)  # fmt: skip
PRESETS = {
  "demo": Config(),
  "evidence": Config(arms=tuple(ARMS), biases=(0.0, 0.5, 1.0), num_seeds=10),
  "skin": Config(arms=tuple(ARMS), size=64, num_seeds=5, batch_size=32, num_steps=300),
}

# --- the run and its page


def load(config: Config, options: cli.RunOptions) -> trap_sets.TrapSet:
  if options.preset == "skin":
    lesions, artefacts = study.paths_of(options.data, 2)
    return trap_sets.skin(lesions, artefacts, config.size, config.artefact)
  study.paths_of(options.data, 0)
  return trap_sets.discs(config.num_pictures, config.size, options.seed, config.contrast)


def build(config: Config, options: cli.RunOptions) -> None:
  held = load(config, options)
  parts = study.parted(held.subjects, {"train": 0.5, "test": 0.5}, options.seed)
  people = study.people_by_part(held.subjects, parts)
  roles = [f"bias {bias:g}{end}" for bias in config.biases for end in _WHO]
  design = study.design(config, options.seed, QUESTIONS, config.arms, people, tested=roles)
  with options.directory(config, held.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    task = Task(
      config.width,
      config.learning_rate,
      num_points=config.num_points,
      keep_share=config.keep_share,
      num_copies=config.num_copies,
      tent_rate=config.tent_rate,
    )
    step = task.step()
    run = {arm: jax.jit(each(functools.partial(ARMS[arm].make, task))) for arm in config.arms}
    trained, rows = [], []
    for bias in config.biases:
      for seed in design.seeds:
        key = jax.random.key(seed)  # the same first weights and batches for every bias
        shows = held.who_shows(parts["train"], bias, seed, misleads=False)
        store = held.store(parts["train"], shows)
        params, _ = task.model.init(rng.stream(key, "parameters"), store["image"][0])
        stream = streams.batches(store, config.batch_size, key)
        job = study.Job(f"{bias:g}-{seed}", step, stream, params, key, config.num_steps)
        one = study.train_job(job, directory, log_every=config.log_every, progress=False)
        trained.append(one)

        def score(one: study.Trained = one, bias: float = bias, seed: int = seed) -> study.Scored:
          new, found = parts["test"], []
          learnt = learning(config, task, held, parts["train"], (bias, seed), one.params)
          subjects = [held.subjects[i] for i in new]
          misled = held.who_shows(new, bias, seed, misleads=True)
          labels = held.store(new, misled)["label"]
          for end, is_trap in zip(_WHO, (misled, misled | True, misled & False), strict=True):
            cases = cases_of(held, new, is_trap, config.num_points, seed)
            for arm in config.arms:
              logits = answers(task, arm, run[arm], learnt.get(arm, one.params), cases)
              about = {"arm": arm, "seed": seed, "role": f"bias {bias:g}{end}"}
              found += study.classes(logits, labels, about=about, subjects=subjects)
          return study.Scored(found)

        rows += study.kept(directory, one.name, one.params, score).rows
    found = design.results(
      rows,
      ("auroc", "accuracy"),
      is_simulated=options.preset != "skin",
    )
    report = page(config, held, found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def learning(
  config: Config,
  task: Task,
  held: trap_sets.TrapSet,
  rows: Sequence[int],
  of: tuple[float, int],
  params: Params,
) -> dict[str, Any]:
  """What "tuned" and "refit" learn from training people, of whom some are shown fairly.

  Args:
    config, task, held: of the study.
    rows: of the training people.
    of: bias and seed of the training.
    params: that the training led to.
  """
  if not {"tuned", "refit"} & set(config.arms):
    return {}
  (bias, seed), key = of, rng.stream(jax.random.key(of[1]), "choice")
  seen = []
  for own, strength in ((rows, bias), (rows[: config.num_fair], 0.0)):
    shows = held.who_shows(own, strength, seed, misleads=False)
    cases = cases_of(held, own, shows, config.num_points, seed)
    seen.append(task.examples(params, cases, held.store(own, shows)))
  train, fair = seen
  return {
    "tuned": trap_tuning.tuned(task.head, params, train, fair, key, share=config.keep_share),
    "refit": trap_tuning.refit(task.head, params, fair, key),
  }


def answers(
  task: Task,
  arm: str,
  run: Callable[..., Array],
  params: Any,
  cases: Case,
) -> np.ndarray:
  """Logits [picture, class] of an arm; "t3a" alone reads the pictures one after the other."""
  if arm != "t3a":
    return np.asarray(run(params, cases))
  pooled = jax.lax.map(lambda x: task.seen(params, x).mean((0, 1)), cases.image, batch_size=64)
  return np.asarray(inference.prototypes(params["Dense_0"]["kernel"].T, pooled, num_kept=20))


def page(
  config: Config, held: trap_sets.TrapSet, found: dict[str, Any], trained: list[study.Trained]
) -> Report:
  """The answers, pictures of what is shown, scores, verdicts and curves."""
  report = study.page.start(f"Test-time selection on {held.title}", found)
  scene, points = held.scenes[0], config.num_points
  own = trap_sets.points_of(scene, True, points, generator(0, "page"))
  marks = np.zeros(scene.lesion.shape, np.int32)
  for k, name in enumerate(("lesion", "background", "artefact")):
    marks[tuple(getattr(own, name).T)] = k + 1
  report.section("What a person marks").overlay(
    [scene.image.squeeze(), scene.trap.squeeze()],
    ["without the artefact", "with the artefact and points"],
    class_names=("", "on the lesion", "on the background", "on the artefact"),
    fills=[None, marks],
    opacity=1.0,
  )
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  study.page.curves(report, {one.name: one for one in trained[:4]}, {"loss": "loss of training"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
