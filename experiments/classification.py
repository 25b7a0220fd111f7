"""Plain classification of pictures: your own folder, table or MedMNIST file from the command line.

  python -m experiments.classification demo          simulated tissue; about 2 minutes
  python -m experiments.classification folder --data FOLDER
                                                     CLASS/*.png, or train/CLASS/*.png, test/...
  python -m experiments.classification folder --data films.csv --findings edema fracture
                                                     a table: image, edema, fracture, ...
  python -m experiments.classification folder --data pneumoniamnist.npz --size 28

Times are for 2 CPU cores. A small network from scratch, with and without mirrored pictures: what a
method has to beat, and the shortest way from pictures to `python -m medjax.predict --run RUN`.

Parts that the set was published with stay (train, validation, test); else 60, 10 and 30 percent of
the people are drawn. Findings of 1, 0 and -1 (unknown) are learnt together, each by its own logit.

results.json: the common schema of `study.results`; knows_people: whether subjects are people, and
not pictures.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.scanner_sets import tissue
from medjax import check, cli, data, loading, losses, methods, nets, rng, study
from medjax.data.people import inspection
from medjax.data.sets import readers
from medjax.train import Report
from medjax.types import Array, Batch, Key, Params, Source, Step

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """A classifier of pictures, trained from scratch."""

  size: int = 64  # side of a picture in pixels, cut around its middle
  findings: tuple[str, ...] = ()  # columns of a table that are learnt, each 1, 0 or -1
  label: str = ""  # column of a table with the name of the class
  subject: str = ""  # column of a table with the person
  part: str = ""  # column of a table with the part as published
  subject_pattern: str = ""  # regular expression whose one group finds the person in a file name
  near_duplicates: float = -1.0  # likeness refused across parts; -1: measured, 0: not looked
  arms: tuple[str, ...] = ("mirrored", "plain")  # what is compared
  widths: tuple[int, ...] = (16, 32, 64)  # channels of the network's convolutions
  num_steps: int = 1000  # updates
  batch_size: int = 32  # pictures an update
  learning_rate: float = 1e-3  # Adam's, constant
  eval_every: int = 100  # updates between two evaluations on validation people
  num_pictures: int = 300  # simulated pictures of the demo
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- data


def load(config: Config, options: cli.RunOptions) -> tuple[str, Source, study.Turn]:
  """Title, the source, and its one turn."""
  if options.preset == "folder":
    (path,) = study.paths_of(options.data, 1)
    kind = readers.recognise(path)
    given: dict[str, Any] = {
      name: getattr(config, name)
      for name in ("findings", "label", "subject", "part", "subject_pattern")
      if getattr(config, name)
    }
    if readers.takes(kind, "size"):
      given["size"] = (config.size, config.size)
    source, title = data.open_source(path, kind, **given), path.resolve().name
  else:
    study.paths_of(options.data, 0)
    source = tissue(config.num_pictures, config.size, options.seed, "XR")
    title = "simulated tissue"
  check.require(
    len(source.class_names) > 0 and len(source[0].spacing) == 2,
    "pictures with classes or findings",
    f"cases of {len(source[0].spacing)} axes, classes {', '.join(source.class_names) or 'none'}",
    "see `python -m medjax.data list`; experiments.segmentation takes label maps",
  )
  indices = parts_of(source, options.seed)
  people = study.people_by_part(source.subjects, indices)
  parts = data.Splits(people, options.seed)
  data.check_content(source, parts)
  picture = study.pair_picture(options.workdir)
  study.check_alike(source, parts.parts, config.near_duplicates, picture)
  held = {part: data.stack(source, own) for part, own in indices.items()}
  turn = study.Turn("", held["train"], held["validation"], {"test": held["test"]}, people)
  return title, source, turn


def parts_of(source: Source, seed: int) -> dict[str, Sequence[int]]:
  """Cases of "train", "validation" and "test": as published where the source says so."""
  published: Any = getattr(source, "parts", ())
  held: Any = source
  if not (published and {"train", "test"} <= set(published)):
    return dict(study.parted(source.subjects, {"train": 0.6, "validation": 0.1, "test": 0.3}, seed))
  found = {"train": held.indices("train"), "test": held.indices("test")}
  for name in ("validation", "val", "valid"):
    if name in published:
      return {**found, "validation": held.indices(name)}
  own = [source.subjects[i] for i in found["train"]]
  drawn = study.parted(own, {"train": 0.9, "validation": 0.1}, seed)
  return {
    **{part: [found["train"][i] for i in rows] for part, rows in drawn.items()},
    "test": found["test"],
  }


# --- model and arms


class Task:
  """The network and its loss."""

  def __init__(self, config: Config, source: Source):
    label = source[0].label
    self.is_findings = label is not None and label.ndim == 1
    self.module = nets.SmallCNN(len(source.class_names), config.widths)
    self.model = nets.from_linen(self.module)
    self.tx = optax.adam(config.learning_rate)

  def logits(self, params: Params, image: Array) -> Array:
    return self.model.apply(params, image)[0]

  def step(self, is_mirrored: bool) -> Step:
    cost = losses.binary_cross_entropy if self.is_findings else losses.cross_entropy

    def loss_fn(params: Params, example: Batch, key: Key) -> Array:
      image = example.image
      if is_mirrored:
        image = jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)
      return cost(self.logits(params, image), example.label)

    return methods.supervised(loss_fn, self.tx)


ARMS = study.arms(
  study.Arm("plain", "pictures as they are", lambda task: task.step(False)),
  study.Arm(
    "mirrored", "half of the pictures mirrored left to right", lambda task: task.step(True)
  ),
)

QUESTIONS = (
  study.Question(
    "Does mirroring help?", "plain", ("mirrored",), "auroc",
    expects="open", spread=(("subject", 0.3), ("seed", 0.02)),
  ),
)  # fmt: skip

PRESETS = {
  "demo": Config(size=32, widths=(8, 16, 16), num_steps=300, learning_rate=3e-3),
  "folder": Config(num_seeds=1),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  title, source, turn = load(config, options)
  design = study.design(config, options.seed, QUESTIONS, config.arms, [turn])
  with options.directory(config, source.manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    task = Task(config, source)
    answers = "findings" if task.is_findings else "classes"
    preprocess = data.Preprocessing.of_pictures(
      source.class_names, source.channel_names, turn.train.image.shape[1:3], answers=answers
    )
    steps: dict[str, Step] = {arm: ARMS[arm].make(task) for arm in config.arms}
    predict = study.ChunkedPredictor(task.logits, chunk=64)
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in config.arms}
    rows: list[dict[str, Any]] = []

    def score(one: study.Trained, arm: str, seed: int) -> study.Scored:
      cases = turn.test["test"]
      about = {"arm": arm, "seed": seed, "role": "test"}
      subjects = [source.subjects[i] for i in cases.index]
      logits = predict(one.params, cases.image)
      if task.is_findings:
        names = source.class_names
        found = study.findings(
          logits, cases.label, about=about, class_names=names, subjects=subjects
        )
      else:
        wanted = ("accuracy", "balanced", "auroc")
        found = study.classes(logits, cases.label, about=about, subjects=subjects, wanted=wanted)
      return study.Scored(found)

    for seed in design.seeds:
      key = jax.random.key(seed)  # one for all arms: the same first weights and batches
      params, _ = task.model.init(rng.stream(key, "parameters"), turn.train.image[0])
      stream = data.batches(turn.train, config.batch_size, key)
      evaluators = (
        {} if task.is_findings else {"validation": study.accuracy_of(predict, turn.validation)}
      )
      for arm, step in steps.items():
        name = f"{arm}-{seed}"
        watched = {} if task.is_findings else evaluators
        job = study.Job(name, step, stream, params, key, config.num_steps, watched)
        one = study.train_job(
          job, directory, log_every=config.log_every, eval_every=config.eval_every
        )
        trained[arm].append(one)
        path = directory.path / "weights" / f"{name}.safetensors"
        loading.save_member(path, one.params, preprocess, network=task.module)
        rows += study.kept(
          directory, name, one.params, functools.partial(score, one, arm, seed)
        ).rows
    batch = data.batches(turn.train, config.batch_size, 0)(0)
    flops = {arm: study.flops(step, trained[arm][0].params, batch) for arm, step in steps.items()}
    found = design.results(
      rows,
      ("auroc",) if task.is_findings else ("accuracy", "balanced", "auroc"),
      costs=flops,
      flops=flops,
      is_simulated=options.preset != "folder",
      knows_people=inspection.knows_people(source),
    )
    study.finish(directory, found, page(config, title, found, trained), trained=trained, rows=rows)


def page(
  config: Config, title: str, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """Scores, verdicts, curves and costs."""
  lead = (
    "" if found["knows_people"] else "Nobody knows the people: identical pictures count as one."
  )
  report = study.page.start(f"Classification of {title}", found, lead)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  labels = {"loss": "loss", "validation/accuracy": "accuracy on validation people"}
  study.page.trainings(report, found, trained, labels)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
