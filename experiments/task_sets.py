"""Pictures that two tasks look at: an outline and a class, or two kinds of digits.

Not a study: the data of the studies of several tasks, which run in `task_trials`. A set names its
tasks, and a case has a target for each of them, `IGNORE` where a task has none.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import check, cli, data, losses, study, tables
from medjax.data import manifest
from medjax.data.seeds import generator
from medjax.types import IGNORE, Array


@dataclasses.dataclass(frozen=True)
class Settings(study.Settings):
  """What every study of two tasks on one picture is told."""

  num_pictures: int = 240  # simulated pictures
  train_fraction: float = 0.6  # of the people; all others are tested
  size: int = 32  # side of a picture in pixels
  table: str = ""  # CSV beside dataset.json with the classes
  label: str = ""  # its column with the class
  subject: str = ""  # its column that keeps near-duplicates together
  num_steps: int = 250  # updates
  batch_size: int = 16  # pictures an update
  log_every: int = 25
  known: str = ""  # what is known of these data, a sentence shown beside the scores


REAL: Mapping[str, Mapping[str, Any]] = {
  "skin": {"table": "diagnosis.csv", "label": "diagnosis"},
  "ultrasound": {"table": "class.csv", "label": "class", "subject": "group"},
}
"""Preset -> where a folder of that kind has its classes and its near-duplicates."""


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


def load(config: Settings, options: cli.RunOptions) -> TaskSet:
  """A folder where the settings name a table; else digits or striped ellipses."""
  if config.table:
    (path,) = study.paths_of(options.data, 1)
    return folder(path, config.size, table=config.table, label=config.label, subject=config.subject)
  study.paths_of(options.data, 0)
  if options.preset == "digits":
    return digits(config.num_pictures, options.seed)
  return striped(config.num_pictures, config.size, options.seed)


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
    images.append(resized(np.asarray(example.image), size))
    masks.append(resized(np.asarray(example.label) > 0, size) > 0.5)
  kinds = [names.index(lines[name].filled(label)) for name in source.names]
  groups = [lines[name].filled(subject) if subject else name for name in source.names]
  return TaskSet(
    f"{path.resolve().name}, {' and '.join(names)}",
    {"outline": ("mask", 2), label: ("class", len(names))},
    np.stack(images),
    {
      "outline": np.stack(masks).astype(np.int32),
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


def resized(picture: np.ndarray, size: int) -> np.ndarray:
  """A picture [height, width, ...] with both sides scaled to `size`, float32.

  Equals `jax.image.resize(..., "linear")`, which would be a program for each shape of a picture: a
  pixel is a mean of those around it with weights that fall linearly, over one pixel
  of the coarser grid.
  """
  found = picture.astype(np.float64)
  for axis in (0, 1):
    number = picture.shape[axis]
    centres = (np.arange(size) + 0.5) * number / size - 0.5
    apart = np.abs(np.arange(number)[:, None] - centres) / max(number / size, 1.0)
    weights = np.maximum(0.0, 1.0 - apart)
    weights /= weights.sum(0)
    found = np.moveaxis(np.tensordot(found, weights, (axis, 0)), -1, axis)
  return found.astype(np.float32)
