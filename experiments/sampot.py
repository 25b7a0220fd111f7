"""SAMPOT: can a click be improved by the gradient of a learnt score, without knowing the answer?

Sathish et al., "Task-Driven Prompt Evolution for Foundation Models" (2023): the mask of a
promptable segmenter depends on where one clicks. A second network learns to tell the Dice of a mask
from picture and mask; its gradient, through the segmenter, moves the click. Claims: the learnt
score follows Dice better than the segmenter's own estimate (correlation .90 against .67), and the
moved click is better in 38 of 53 pictures.

  python -m experiments.sampot demo       simulated shapes, clicks; about 5 minutes
  python -m experiments.sampot evidence   more pictures, 4 seeds; about 30 minutes
  python -m experiments.sampot lite --data FOLDER --weights lite_medsam.safetensors
                                          your nnU-Net folder on LiteMedSAM, corners of boxes; about
                                          15 minutes

Times are estimated from short runs on 2 CPU cores; `demo` has been recorded.
A click starts in the picture's middle, never at a point of the true mask, from which the paper
starts; a box starts with each side moved at random. All arms see the same pictures and the same
segmenter, and spend the same number of looks at it: "random" takes the best of as many random
places by the same score; "own" climbs the segmenter's own estimate in place of the score; "trust"
may not leave a circle round the start. "middle" is the start itself.

What a climb says depends on whether the scorer has learnt anything. So its correlation with Dice is
measured on validation pictures, before anything is climbed: it chooses the scorer's weights, stands
in results.json and is printed. Below .5 the run says what climbing a bad score does.

A climbed score is one that is fooled: results.json counts how often the score rose by more than .02
and Dice fell by more than .02 ("fooled"), and correlations before and after the climb.

DEVIATIONS: in `demo` and `evidence` a small segmenter trained here on shapes with random clicks
inside stands for SAM, and simulated shapes for lungs. The scorer sees picture, mask and their
product, at 64 x 64, and learns from shifted level sets too. LiteMedSAM knows no clicks, so `lite`
moves boxes, which begin near the object: nothing there says that a box can be found.

results.json: the common schema of `study.results`; improved, fooled: shares of the test pictures by
arm; correlations: "held-out" of the score on validation pictures, of score and own estimate with
Dice at random places of the test pictures, and of the score after it was climbed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import prompt_free, prompted_sets
from experiments.prompt_climbs import (
  Task,
  candidates,
  climb,
  correlation,
  dice_of,
  held_out,
  nearby,
  starts,
)
from medjax import cli, data, methods, nets, rng, study
from medjax.inference.prompted import Prompted
from medjax.train import Report
from medjax.types import Params

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Clicks, or corners of boxes, that are moved by the gradient of a score."""

  arms: tuple[str, ...] = ("middle", "random", "sampot", "own", "trust")  # what is compared
  num_pictures: int = 360  # simulated pictures
  train_fraction: float = 0.7  # of the pictures, for the scorer; the segmenter sees others
  validation_fraction: float = 0.1  # of the pictures: they choose the scorer's weights
  num_pretraining: int = 400  # updates of the segmenter
  num_steps: int = 600  # updates of the scorer
  num_candidates: int = 10  # masks of a picture from level sets, and as many from random prompts
  widths: tuple[int, ...] = (16, 32, 32, 32)  # of the scorer
  num_moves: int = 15  # steps of the climb, and random places
  move_rate: float = 3.0  # Adam's learning rate of the climb, in pixels
  start_fraction: float = 0.12  # how far a box may begin from the true one, of the picture's side
  trust_fraction: float = 0.15  # radius of the circle over the picture's side
  batch_size: int = 16
  slope: float = 5.0  # of the sigmoid between logits and the mask that the scorer sees
  weights: str = ""  # file of LiteMedSAM; "": the small segmenter
  condition: str = ""  # column of class.csv whose classes are taken alike; "": all pictures
  person: str = ""  # column of class.csv with the person, where there is a condition
  max_pictures: int = 40  # real pictures, of each class
  # similarity of two people's pictures that is refused; 0: not looked at
  near_duplicates: float = -1.0
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


ARMS = study.arms(
  study.Arm(
    "middle", "the start: a click in the picture's middle, or a careless box", lambda: None
  ),
  study.Arm("random", "the best of random places by the score: equal budget", lambda: None),
  study.Arm("sampot", "the climb of the score", lambda: None),
  study.Arm("own", "the climb of the segmenter's own estimate", lambda: None),
  study.Arm("trust", "the climb of the score near the start", lambda: None),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.2), ("seed", 0.02))
QUESTIONS = (
  study.Question("Is the moved prompt better than the start?", "middle", ("sampot",), "dice",
                 spread=_SPREAD),
  study.Question("Does the gradient beat random places of equal budget?", "random", ("sampot",),
                 "dice", expects="open", spread=_SPREAD),
  study.Question("Is the segmenter's own estimate a worse guide?", "sampot", ("own",), "dice",
                 expects="worse", spread=_SPREAD),
  study.Question("Does a circle round the start help?", "sampot", ("trust",), "dice",
                 expects="open", spread=_SPREAD),
)  # fmt: skip

PRESETS = {
  "demo": Config(num_seeds=1),
  "evidence": Config(num_seeds=4, num_pictures=600, num_pretraining=1000, num_steps=1200),
  "lite": Config(weights="lite_medsam.safetensors", num_seeds=1, num_moves=8, move_rate=6.0),
}

# --- the run and its page


def load(config: Config, options: cli.RunOptions) -> prompt_free.Scenes:
  if config.weights:
    (path,) = study.paths_of(options.data, 1)
    return prompt_free.folder(
      path, 256, condition=config.condition, person=config.person, most=config.max_pictures
    )
  study.paths_of(options.data, 0)
  own = prompted_sets.drawn(config.num_pictures, 64, options.seed, has_groups=False)
  label = own.mask.astype(np.int32)
  return prompt_free.Scenes(own.image, label, ("object",), own.subjects, own.manifest, own.title)


def build(config: Config, options: cli.RunOptions) -> None:
  sets = load(config, options)
  shares = {"train": config.train_fraction, "validation": config.validation_fraction}
  shares["test"] = 1 - sum(shares.values())
  parts = study.parted(sets.subjects, shares, options.seed)
  people = study.people_by_part(sets.subjects, parts)
  design = study.design(config, options.seed, QUESTIONS, config.arms, people)
  if config.weights:
    prompt_free.lite_weights(config.weights)
    picture = study.pair_picture(options.workdir)
    prompt_free.check_alike(sets, people, config.near_duplicates, picture)
  with options.directory(config, sets.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    module = nets.lite_medsam() if config.weights else nets.mini_promptable(num_masks=1)
    task = Task(config, module, sets.image.shape[1], sets.image.shape[-1])
    names = [sets.subjects[i] for i in parts["test"]]
    rows: list[dict[str, Any]] = []
    trained: dict[str, list[study.Trained]] = {"scorer": []}
    figures: dict[str, list[dict[str, float]]] = {}
    for seed in design.seeds:
      key = jax.random.key(seed)
      params, embeddings = segmenter(config, task, sets, directory, trained, seed)
      every = {"image": sets.image, "mask": sets.label > 0, "embedding": embeddings}
      stores = {
        part: {k: v[np.array(own)] for k, v in every.items()} for part, own in parts.items()
      }
      pairs = candidates(task, params, stores["train"], seed)
      image = jnp.zeros((64, 64, 2 * task.channels + 1))
      first, _ = task.scorer.init(rng.stream(key, "scorer"), image)
      step = methods.supervised(
        task.scorer_loss, optax.adam(optax.cosine_decay_schedule(2e-3, config.num_steps))
      )
      stream = data.batches(pairs, config.batch_size, key, name="scorer")
      watch = held_out(task, params, stores["validation"], seed)
      job = study.Job(f"scorer-{seed}", step, stream, first, key, config.num_steps,
                      {"validation": watch}, keep_best="validation/correlation",
                      inherited=params)  # fmt: skip
      every_few = max(1, config.num_steps // 6)
      scorer = study.train_job(job, directory, log_every=config.log_every, eval_every=every_few)
      trained["scorer"].append(scorer)
      known = watch(scorer.state)["correlation"]
      print(f"scorer-{seed}: correlation with Dice on validation pictures {known:.2f}", flush=True)
      figures.setdefault("correlation", []).append({"held-out": known})
      both = (params, scorer.params)
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
    found = design.results(
      rows, ("dice",), is_simulated=not config.weights,
      improved=mean("improved"), fooled=mean("fooled"), correlations=mean("correlation"),
    )  # fmt: skip
    report = page(config, sets.title, found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def segmenter(
  config: Config, task: Task, sets: Any, directory: Any, trained: Any, seed: int
) -> tuple[Params, np.ndarray]:
  """The frozen segmenter and its embeddings of all pictures."""
  if config.weights:
    params = prompt_free.lite_weights(config.weights)
    cache = directory.path / "embeddings"
    reader = Prompted(task.net.embed, task.net.decode, params, size=task.side, channels=3,
                      cache=cache)  # fmt: skip
    return params, np.stack([np.asarray(reader.embedded(x).embedding) for x in sets.image])
  key = jax.random.key(seed)
  other = prompted_sets.drawn(1024, task.side, seed + 5000, has_groups=False)
  start = task.net.init(rng.stream(key, "parameters"), jnp.asarray(sets.image[0]))
  step = methods.supervised(task.segmenter_loss, optax.adam(1e-3))
  stream = data.batches({"image": other.image, "mask": other.mask}, config.batch_size, key)
  job = study.Job(f"segmenter-{seed}", step, stream, start, key, config.num_pretraining)
  one = study.train_job(job, directory, log_every=config.log_every)
  trained.setdefault("segmenter", []).append(one)
  embed = jax.jit(jax.vmap(task.net.embed, (None, 0)))
  return one.params, np.asarray(embed(one.params, sets.image))


def tried(task: Task, both: Any, store: Any, names: list[str], seed: int) -> study.Scored:
  """Rows of every arm, and how often it improved or was fooled."""
  config, random = task.config, np.random.default_rng(seed + 1)
  count = len(names)
  look = jax.jit(task.each(lambda i, e, p: task.worth(both, i, e, p)))
  worth = lambda places: [  # noqa: E731
    np.asarray(x) for x in look(store["image"], store["embedding"], places.astype(np.float32))
  ]
  start_at = starts(task, store["mask"], seed + 2)
  tries = [nearby(task, start_at, random) for _ in range(config.num_moves)]
  seen = [worth(places) for places in tries]
  scores, own, dice = (
    np.stack(x) for x in zip(*((s, q, dice_of(m, store["mask"])) for s, q, m in seen), strict=True)
  )
  best = np.argmax(scores, 0)
  far = 3.0 * task.side
  places = {
    "middle": start_at,
    "random": np.stack(tries)[best, np.arange(count)],
    "sampot": climb(task, both, store, start_at, 0, far),
    "own": climb(task, both, store, start_at, 1, far),
    "trust": climb(task, both, store, start_at, 0, config.trust_fraction * task.side),
  }
  more = {"correlation score": correlation(scores, dice), "correlation own": correlation(own, dice)}
  rows, start = [], None
  for arm, place in places.items():
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


def page(
  config: Config, title: str, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """Answers, scores, verdicts, how often it helped or was fooled, and curves."""
  report = study.page.start(f"Prompts that are moved by a learnt score: {title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  lines = [[arm, value, found["fooled"][arm]] for arm, value in found["improved"].items()]
  own = found["correlations"]
  has_learnt = "has learnt to tell masks apart" if own["held-out"] >= 0.5 else "knows too little"
  report.section("Helped or fooled").table(
    ["arm", "better than the start", "score up, Dice down"], lines,
    f"Shares of the test pictures. The scorer {has_learnt}: its correlation with Dice on validation"
    f" pictures, before any climb, is {own['held-out']:.2f}. At random places of the test pictures"
    f" it is {own['score']:.2f}, that of the segmenter's own estimate {own['own']:.2f}; of the"
    f" score after the climb {own['climbed']:.2f}.",
  )  # fmt: skip
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
