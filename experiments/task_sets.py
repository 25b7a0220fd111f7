"""Pictures that two tasks look at: an outline and a class, or two kinds of digits.

Not a study: what the studies of several tasks share. A set names its tasks, and a case has a target
for each of them, `IGNORE` where a task has none.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check, data, losses, metrics, study, tables, train
from medjax.data import manifest
from medjax.data.seeds import generator
from medjax.types import IGNORE, Array, Key, Params, Step

Predict = Callable[[Any, Array], tuple[Array, ...]]
"""`predict(params, image) -> logits of each task`."""


@dataclasses.dataclass(frozen=True)
class TaskSet:
  """Cases with a target a task.

  Attributes:
    title: for the page.
    tasks: name -> ("mask", classes) or ("class", classes), in the order of the network's heads.
    image: [n, height, width, channel].
    targets: name -> [n, height, width] or [n] int32.
    subjects: [n] people.
    manifest: what the run directory records.
  """

  title: str
  tasks: Mapping[str, tuple[str, int]]
  image: np.ndarray
  targets: Mapping[str, np.ndarray]
  subjects: tuple[str, ...]
  manifest: dict[str, Any]

  @property
  def heads(self) -> tuple[tuple[str, int], ...]:
    """As `nets.Streams` wants them."""
    return tuple(self.tasks.values())

  def part(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """A store for `data.batches`: image, index and every task's target."""
    place = np.asarray(rows, np.int64)
    own = {name: values[place] for name, values in self.targets.items()}
    return {"image": self.image[place], "index": place.astype(np.int32), **own}


def cost_of(kind: str) -> Callable[[Array, Array], Array]:
  """Loss of a head: half soft Dice and half cross-entropy of masks, cross-entropy of classes."""
  if kind == "class":
    return losses.cross_entropy
  return lambda logits, label: (
    0.5 * losses.soft_dice(logits, label) + 0.5 * losses.cross_entropy(logits, label)
  )


# --- simulated sets


def striped(num: int, size: int, seed: int) -> TaskSet:
  """Ellipses before stripes: the outline must not see the stripes, the class is their course.

  The edges that one task has to ignore are all that the other one has, so their gradients disagree
  by construction.
  """
  y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
  images, masks, kinds = [], [], []
  for index in range(num):
    random = generator(seed, "striped ellipses", index)
    kind = int(random.integers(2))
    cy, cx = random.uniform(0.3, 0.7, 2) * size
    ry, rx = random.uniform(0.12, 0.3, 2) * size
    mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    along = y if kind else x
    stripes = np.sin(2 * np.pi * along / random.uniform(4, 8) + random.uniform(0, 2 * np.pi))
    image = 0.6 * mask + random.uniform(0.02, 0.4) * stripes + random.normal(0, 0.45, (size, size))
    images.append(image.astype(np.float32)[..., None])
    masks.append(mask)
    kinds.append(kind)
  return TaskSet(
    "simulated ellipses before stripes",
    {"outline": ("mask", 2), "course": ("class", 2)},
    np.stack(images),
    {"outline": np.stack(masks).astype(np.int32), "course": np.array(kinds, np.int32)},
    tuple(f"simulated_{index:05d}" for index in range(num)),
    {"kind": "striped ellipses", "num": num, "size": size, "seed": seed},
  )


_SEGMENTS = (
  "abcdef",
  "bc",
  "abged",
  "abgcd",
  "fgbc",
  "afgcd",
  "afgedc",
  "abc",
  "abcdefg",
  "abcdfg",
)


def digits(num: int, seed: int) -> TaskSet:
  """Noisy seven-segment digits on 16 x 16: one task knows the even ones, the other the odd ones.

  The paper's MNIST split, where each task has pictures of its own.
  """
  images, labels = [], []
  for index in range(num):
    random = generator(seed, "digits", index)
    digit = int(random.integers(10))
    top, left = random.integers(1, 4), random.integers(2, 7)
    image = np.zeros((16, 16))
    lines = {  # rows, columns of each segment
      "a": (0, slice(0, 6)), "g": (5, slice(0, 6)), "d": (10, slice(0, 6)),
      "f": (slice(0, 6), 0), "b": (slice(0, 6), 5), "e": (slice(5, 11), 0), "c": (slice(5, 11), 5),
    }  # fmt: skip
    drawn = np.zeros((11, 6))
    for name in _SEGMENTS[digit]:
      drawn[lines[name]] = random.uniform(0.6, 1.0)
    image[top : top + 11, left : left + 6] = drawn
    image += random.normal(0, 0.5, image.shape)
    images.append(image.astype(np.float32)[..., None])
    labels.append(digit)
  label = np.array(labels, np.int32)
  return TaskSet(
    "noisy seven-segment digits",
    {"even": ("class", 5), "odd": ("class", 5)},
    np.stack(images),
    {
      "even": np.where(label % 2 == 0, label // 2, IGNORE).astype(np.int32),
      "odd": np.where(label % 2 == 1, label // 2, IGNORE).astype(np.int32),
    },
    tuple(f"simulated_{index:05d}" for index in range(num)),
    {"kind": "digits", "num": num, "seed": seed},
  )


# --- your own pictures


def folder(path: pathlib.Path, size: int, *, table: str, label: str, subject: str = "") -> TaskSet:
  """An nnU-Net folder of pictures with a table of their classes.

  Args:
    path: folder with dataset.json, imagesTr and labelsTr.
    size: side to which pictures and outlines are scaled; the shape of a picture is not kept.
    table: CSV in it with a column "case".
    label: its column with the name of the class.
    subject: its column that tells people, or groups of near-duplicates; "": each case is a person.
  Raises:
    InputError: a case without a line in the table.
  """
  source = data.NnUNetFolder(path, normalise="zscore")
  columns = ["case", label, *([subject] if subject else [])]
  lines = {line.filled("case"): line for line in tables.read_table(path / table, columns)}
  missing = [name for name in source.names if name not in lines]
  check.require(
    not missing, f"a line of {table} for every case", f"none for {missing[:3]}", "complete it"
  )
  names = sorted({lines[name].filled(label) for name in source.names})
  images, masks = [], []
  for example in (source[i] for i in range(len(source))):
    assert example.image is not None and example.label is not None
    channels = example.image.shape[-1]
    images.append(jax.image.resize(jnp.asarray(example.image), (size, size, channels), "linear"))
    filled = jnp.asarray(example.label > 0, jnp.float32)
    masks.append(jax.image.resize(filled, (size, size), "linear") > 0.5)
  kinds = [names.index(lines[name].filled(label)) for name in source.names]
  groups = [lines[name].filled(subject) if subject else name for name in source.names]
  return TaskSet(
    f"{path.resolve().name}, {' and '.join(names)}",
    {"outline": ("mask", 2), label: ("class", len(names))},
    np.stack([np.asarray(x) for x in images]),
    {
      "outline": np.stack([np.asarray(x) for x in masks]).astype(np.int32),
      label: np.array(kinds, np.int32),
    },
    tuple(groups),
    {
      **source.manifest(),
      "table": manifest.file_digests(path, [path / table]),
      "label": label,
      "size": size,
    },
  )


# --- scores


def scored(
  logits: Sequence[np.ndarray],
  cases: TaskSet,
  rows: Sequence[int],
  about: Mapping[str, Any],
  more: Mapping[str, np.ndarray] | None = None,
) -> list[dict[str, Any]]:
  """A row a person: "dice/TASK" of masks, and "balanced/TASK" and "accuracy/TASK" of classes.

  Args:
    logits: of each task, [n, ...].
    cases: the whole set.
    rows: which cases these are.
    about: goes in front of each row.
    more: further figures of each case, [n], whose means over a person's cases are added.
  """
  people = [cases.subjects[i] for i in rows]
  found: dict[str, dict[str, Any]] = {
    name: {**about, "case": name, "subject": name, "domain": ""} for name in sorted(set(people))
  }
  for (task, (kind, number)), own in zip(cases.tasks.items(), logits, strict=True):
    target = cases.targets[task][np.asarray(rows)]
    if kind == "mask":
      each = [overlap(a, b, number) for a, b in zip(own.argmax(-1), target, strict=True)]
      _add(found, f"dice/{task}", people, np.array(each))
      continue
    known = target != IGNORE
    for name in found:
      found[name] |= {f"balanced/{task}": float("nan"), f"accuracy/{task}": float("nan")}
    named = [person for person, is_known in zip(people, known, strict=True) if is_known]
    for row in study.classes(
      own[known], target[known], about={}, subjects=named, wanted=("balanced", "accuracy")
    ):
      figures = {f"{m}/{task}": row[f"{m}/all"] for m in ("balanced", "accuracy")}
      found[row["subject"]] |= figures
  for name, values in (more or {}).items():
    _add(found, name, people, values)
  return list(found.values())


def overlap(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> float:
  """Mean Dice of the structures; of two empty maps 1."""
  found = [
    float(x)
    for x in np.ravel(metrics.dice(prediction.astype(np.int32), target, num_classes=num_classes))
    if not np.isnan(x)
  ]
  return float(np.mean(found)) if found else 1.0


def _add(
  found: dict[str, dict[str, Any]], name: str, people: Sequence[str], values: np.ndarray
) -> None:
  owners = np.array(people)
  for person, row in found.items():
    row[name] = float(values[owners == person].mean())


# --- the trainings of a study of tasks


@runtime_checkable
class Problem(Protocol):
  """What `trials` asks of a study: first weights of an arm, and logits of every task."""

  def start(self, arm: str, key: Key) -> Params: ...
  def logits(self, params: Params, image: Array) -> tuple[Array, ...]: ...


class Trials(NamedTuple):
  """What came of all trainings.

  Attributes:
    trained: arm -> its trainings, seed by seed.
    rows: rows of test people.
    flops: arm -> operations of one update, of an arm in several steps of all of them.
  """

  trained: dict[str, list[study.Trained]]
  rows: list[dict[str, Any]]
  flops: dict[str, float]


def trials(
  cases: TaskSet,
  parts: Mapping[str, Sequence[int]],
  problem: Problem,
  steps: Mapping[str, Step],
  directory: train.RunDirectory,
  *,
  seeds: Sequence[int],
  num_steps: int,
  batch_size: int,
  log_every: int,
  repeats: Mapping[str, int] | None = None,
  more: Callable[[Params, dict[str, np.ndarray], Key], Mapping[str, np.ndarray]] | None = None,
) -> Trials:
  """Trains every arm under every seed, resumable job by job, and scores the test people.

  Arms of one seed see the same batches.

  Args:
    cases, parts: the set, and which of its cases are "train" and "test".
    problem, steps: of the study; a Step an arm.
    directory, seeds, num_steps, batch_size, log_every: of the run.
    repeats: arm -> steps that make one update; 1 for an arm that is not named.
    more: `more(params, test cases, key)` -> further figures of each case, see `scored`.
  """
  learned, tested = (cases.part(parts[part]) for part in ("train", "test"))
  heads = [
    study.ChunkedPredictor(functools.partial(_head, problem, k), chunk=64)
    for k in range(len(cases.tasks))
  ]
  each = {arm: (repeats or {}).get(arm, 1) for arm in steps}
  trained: dict[str, list[study.Trained]] = {arm: [] for arm in steps}
  rows: list[dict[str, Any]] = []

  def score(params: Params, arm: str, seed: int) -> study.Scored:
    logits = [head(params, tested["image"]) for head in heads]
    own = None if more is None else more(params, tested, jax.random.key(seed))
    about = {"arm": arm, "seed": seed, "role": "test"}
    return study.Scored(scored(logits, cases, parts["test"], about, own))

  for seed in seeds:
    key = jax.random.key(seed)
    stream = data.batches(learned, batch_size, key)
    for arm, step in steps.items():
      name = f"{arm}-{seed}"
      start = problem.start(arm, key)
      job = study.Job(name, step, stream, start, key, each[arm] * num_steps)
      one = study.train_job(job, directory, log_every=log_every)
      trained[arm].append(one)
      make = functools.partial(score, one.params, arm, seed)
      rows += study.kept(directory, name, one.params, make).rows
  batch = data.batches(learned, batch_size, 0)(0)
  flops = {
    arm: study.flops(step, trained[arm][0].params, batch) * each[arm] for arm, step in steps.items()
  }
  return Trials(trained, rows, flops)


def _head(problem: Problem, number: int, params: Params, image: Array) -> Array:
  return problem.logits(params, image)[number]
