"""SAMPOT: can a click be improved by the gradient of a learnt score, without knowing the answer?

Sathish et al., "Task-Driven Prompt Evolution for Foundation Models" (2023): the mask of a
promptable segmenter depends on where one clicks. A second network learns to tell the Dice of a mask
from picture and mask; its gradient, through the segmenter, moves the click. Claims: the learnt
score follows Dice better than the segmenter's own estimate (correlation .90 against .67), and the
moved click is better in 38 of 53 pictures.

  python -m experiments.sampot demo       simulated shapes, clicks; about 5 minutes
  python -m experiments.sampot evidence   more pictures, 4 seeds

Times are estimated from short runs on 2 CPU cores; no preset has been recorded.
The start is the picture's middle, never a point of the true mask, from
which the paper starts. All arms see the same pictures and the same segmenter, and spend the same
number of looks at it: "random" takes the best of as many random points by the same score; "own"
climbs the segmenter's own estimate in place of the score; "trust" may not leave a circle round the
start. "middle" is the start itself.

A climbed score is one that is fooled: results.json counts how often the score rose by more than .02
and Dice fell by more than .02 ("fooled"), and correlations before and after the climb.

DEVIATIONS: a small segmenter trained here on shapes with random clicks inside stands for SAM, and
simulated shapes for lungs; the scorer sees picture and mask as two channels.

results.json: the common schema of `study.results`; improved, fooled: shares of the test pictures by
arm; correlations: of score and own estimate with Dice at random points, and of the score after it
was climbed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import prompted_sets
from experiments.prompt_climbs import SIDE, Task, candidates, climb, dice_of
from medjax import cli, data, methods, rng, study
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Clicks that are moved by the gradient of a score."""

  arms: tuple[str, ...] = ("middle", "random", "sampot", "own", "trust")  # what is compared
  num_pictures: int = 160  # simulated pictures
  train_fraction: float = 0.5  # of the pictures, for the scorer; the segmenter sees others
  num_pretraining: int = 400  # updates of the segmenter
  num_steps: int = 200  # updates of the scorer
  num_candidates: int = 6  # masks of a picture from level sets, and as many from random clicks
  num_moves: int = 15  # steps of the climb, and random points
  move_rate: float = 3.0  # Adam's learning rate of the climb, in pixels
  trust_fraction: float = 0.15  # radius of the circle over the picture's side
  batch_size: int = 16
  slope: float = 5.0  # of the sigmoid between logits and the mask that the scorer sees

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


ARMS = study.arms(
  study.Arm("middle", "the start: a click in the middle of the picture", lambda: None),
  study.Arm("random", "the best of random points by the score: equal budget", lambda: None),
  study.Arm("sampot", "the climb of the score", lambda: None),
  study.Arm("own", "the climb of the segmenter's own estimate", lambda: None),
  study.Arm("trust", "the climb of the score near the start", lambda: None),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.2), ("seed", 0.02))
QUESTIONS = (
  study.Question("Is the moved click better than the start?", "middle", ("sampot",), "dice",
                 spread=_SPREAD),
  study.Question("Does the gradient beat random points of equal budget?", "random", ("sampot",),
                 "dice", expects="open", spread=_SPREAD),
  study.Question("Is the segmenter's own estimate a worse guide?", "sampot", ("own",), "dice",
                 expects="worse", spread=_SPREAD),
  study.Question("Does a circle round the start help?", "sampot", ("trust",), "dice",
                 expects="open", spread=_SPREAD),
)  # fmt: skip

PRESETS = {
  "demo": Config(num_seeds=1),
  "evidence": Config(num_seeds=4, num_pictures=320, num_pretraining=1000, num_steps=500),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  study.paths_of(options.data, 0)
  sets = prompted_sets.drawn(config.num_pictures, SIDE, options.seed, has_groups=False)
  shares = {"train": config.train_fraction, "test": 1 - config.train_fraction}
  parts = study.parted(sets.subjects, shares, options.seed)
  people = {part: study.people_of(sets.subjects, rows) for part, rows in parts.items()}
  seeds = range(options.seed, options.seed + config.num_seeds)
  members = {"test": {"seed": len(seeds), "subject": len(people["test"])}}
  planned = study.planned(QUESTIONS, members, config.arms, margin=config.margin)
  with options.directory(config, sets.manifest) as directory:
    if directory.finished:
      return
    turn = study.Turn("", (), (), {"test": ()}, people)
    directory.write_json("splits", study.splits_of([turn], options.seed))
    study.announce(planned)
    task = Task(config)
    names = [sets.subjects[i] for i in parts["test"]]
    rows: list[dict[str, Any]] = []
    trained: dict[str, list[study.Trained]] = {"segmenter": [], "scorer": []}
    figures: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
      key = jax.random.key(seed)
      other = prompted_sets.drawn(1024, SIDE, seed + 5000, has_groups=False)
      start = task.net.init(rng.stream(key, "parameters"), jnp.asarray(sets.image[0]))
      step = methods.supervised(task.segmenter_loss, optax.adam(1e-3))
      stream = data.batches({"image": other.image, "mask": other.mask}, config.batch_size, key)
      job = study.Job(f"segmenter-{seed}", step, stream, start, key, config.num_pretraining)
      segmenter = study.train_job(job, directory, log_every=config.log_every)
      embed = jax.jit(lambda image, p=segmenter.params: task.net.embed(p, image))
      embeddings = np.stack([np.asarray(embed(image)) for image in sets.image])
      every = {"image": sets.image, "mask": sets.mask, "embedding": embeddings}
      stores = {
        part: {k: v[np.array(own)] for k, v in every.items()} for part, own in parts.items()
      }
      pairs = candidates(task, segmenter.params, stores["train"], seed)
      image = jnp.zeros((SIDE, SIDE, 2))
      first, _ = task.scorer.init(rng.stream(key, "scorer"), image)
      step = methods.supervised(task.scorer_loss, optax.adam(1e-3))
      stream = data.batches(pairs, config.batch_size, key, name="scorer")
      job = study.Job(f"scorer-{seed}", step, stream, first, key, config.num_steps,
                      inherited=segmenter.params)  # fmt: skip
      scorer = study.train_job(job, directory, log_every=config.log_every)
      trained["segmenter"].append(segmenter)
      trained["scorer"].append(scorer)
      both = (segmenter.params, scorer.params)
      make = lambda b=both, s=seed, t=stores["test"]: tried(task, b, t, names, s)  # noqa: E731
      scored = study.kept(directory, f"climbs-{seed}", both, make)
      rows += [row for row in scored.rows if row["arm"] in config.arms]
      for name, values in scored.more.items():
        kind, arm = name.split(" ")
        figures.setdefault(kind, []).append({arm: float(values)})
    mean = lambda kind: {  # noqa: E731
      arm: float(np.mean([own[arm] for own in figures[kind] if arm in own]))
      for arm in dict.fromkeys(arm for own in figures[kind] for arm in own)
    }
    found = study.answered(
      rows, ("dice",), QUESTIONS, margin=config.margin, planned=planned, improved=mean("improved"),
      fooled=mean("fooled"), correlations=mean("correlation"), is_simulated=True,
    )  # fmt: skip
    report = page(found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def tried(task: Task, both: Any, store: Any, names: list[str], seed: int) -> study.Scored:
  """Rows of every arm, and how often it improved or was fooled."""
  config, random = task.config, np.random.default_rng(seed + 1)
  count = len(names)
  look = jax.jit(jax.vmap(lambda i, e, p: task.worth(both, i, e, p)))
  worth = lambda points: [  # noqa: E731
    np.asarray(x) for x in look(store["image"], store["embedding"], points.astype(np.float32))
  ]
  middle = np.full((count, 2), (SIDE - 1) / 2)
  tries = [random.uniform(0, SIDE - 1, (count, 2)) for _ in range(config.num_moves)]
  seen = [worth(points) for points in tries]
  scores, own, dice = (
    np.stack(x) for x in zip(*((s, q, dice_of(m, store["mask"])) for s, q, m in seen), strict=True)
  )
  best = np.argmax(scores, 0)
  far = 2.0 * SIDE
  points = {
    "middle": middle,
    "random": np.stack(tries)[best, np.arange(count)],
    "sampot": climb(task, both, store, 0, far),
    "own": climb(task, both, store, 1, far),
    "trust": climb(task, both, store, 0, config.trust_fraction * SIDE),
  }
  correlation = lambda a, b: float(np.corrcoef(a.ravel(), b.ravel())[0, 1])  # noqa: E731
  more = {"correlation score": correlation(scores, dice), "correlation own": correlation(own, dice)}
  rows, start = [], None
  for arm, place in points.items():
    score, quality, logits = worth(place)
    value = dice_of(logits, store["mask"])
    guide = quality if arm == "own" else score
    start = (score, quality, value) if start is None else start
    before = start[1] if arm == "own" else start[0]
    more[f"improved {arm}"] = float((value > start[2]).mean())
    more[f"fooled {arm}"] = float(((guide > before + 0.02) & (value < start[2] - 0.02)).mean())
    if arm == "sampot":
      more["correlation climbed"] = correlation(score, value)
    about = {"arm": arm, "seed": seed, "role": "test"}
    rows += [
      {**about, "case": name, "subject": name, "domain": "", "dice/object": float(x)}
      for name, x in zip(names, value, strict=True)
    ]
  return study.Scored(rows, more={name: np.array(x) for name, x in more.items()})


def page(found: dict[str, Any], trained: dict[str, list[study.Trained]]) -> Report:
  """Answers, scores, verdicts, how often it helped or was fooled, and curves."""
  report = study.page.start("Clicks that are moved by a learnt score", found)
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  lines = [[arm, value, found["fooled"][arm]] for arm, value in found["improved"].items()]
  report.section("Helped or fooled").table(
    ["arm", "better than the start", "score up, Dice down"], lines,
    "Shares of the test pictures. Correlation with Dice at random points: score"
    f" {found['correlations']['score']:.2f}, the segmenter's own estimate"
    f" {found['correlations']['own']:.2f}; of the score after the climb"
    f" {found['correlations']['climbed']:.2f}.",
  )  # fmt: skip
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
