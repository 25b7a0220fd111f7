"""Pictures whose labels are words: several tasks side by side, and every answer in every form.

Not a study: what a study needs whose network writes its answers.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax import check, data
from medjax.data.seeds import generator
from medjax.data.sets import readers
from medjax.types import Json


class Task(NamedTuple):
  """Pictures of one task.

  Attributes:
    name: of the task.
    texts: the label of each class.
    is_graded: whether the classes are grades in this order.
    image: [n, height, width, channel].
    label: [n] class ids.
    subjects: [n] people.
    manifest: what the run directory records.
  """

  name: str
  texts: tuple[str, ...]
  is_graded: bool
  image: np.ndarray
  label: np.ndarray
  subjects: tuple[str, ...]
  manifest: dict[str, Json]


_COLON = ("benign", *(f"{how} differentiated cancer" for how in ("well", "moderately", "poorly")))
_PROSTATE = ("benign", "grade 3 cancer", "grade 4 cancer", "grade 5 cancer")
_TISSUE = ("muscle", "fat tissue", "debris", "mucus", "normal tissue", "cancer tissue")


def simulated(num: int, size: int, seed: int) -> list[Task]:
  """Glands that shrink with the grade in two organs, and six kinds of gratings for tissue.

  Neither place nor direction means anything, so pictures may be turned and moved."""
  y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")

  def glands(random: np.random.Generator, grade: int, is_dark: bool) -> np.ndarray:
    radius = size * (0.18 - 0.04 * grade) * random.uniform(0.75, 1.3)
    picture = np.zeros((size, size))
    for cy, cx in random.uniform(0, size, (6 + 6 * grade, 2)):
      near = (y - cy) ** 2 + (x - cx) ** 2
      picture = np.maximum(picture, np.exp(-near / (2 * radius**2)))
    picture = 1 - picture if is_dark else picture
    return picture + (0.2 * np.sin(x * random.uniform(0.8, 1.2)) if is_dark else 0)

  def tissue(random: np.random.Generator, kind: int) -> np.ndarray:
    length, turn = (3.0, 5.0, 8.0)[kind % 3], random.uniform(0, np.pi)
    waves = [
      np.sin(
        2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / length + random.uniform(0, 2 * np.pi)
      )
      for angle in (turn, turn + np.pi / 2)
    ]
    return 0.5 + 0.3 * (waves[0] * waves[1] if kind // 3 else waves[0])

  asked: tuple[tuple[str, tuple[str, ...], Callable[..., np.ndarray]], ...] = (
    ("colon", _COLON, functools.partial(glands, is_dark=False)),
    ("prostate", _PROSTATE, functools.partial(glands, is_dark=True)),
    ("tissue", _TISSUE, tissue),
  )
  found = []
  for name, texts, draw in asked:
    images, labels = [], []
    for index in range(num):
      random = generator(seed, f"gpc {name}", index)
      label = int(random.integers(len(texts)))
      picture = draw(random, label) + random.normal(0, 0.25, (size, size))
      images.append(picture.astype(np.float32)[..., None])
      labels.append(label)
    people = tuple(f"{name}_{index:05d}" for index in range(num))
    about = {"kind": f"simulated {name}", "num": num, "size": size, "seed": seed}
    image, label = np.stack(images), np.array(labels, np.int32)
    found.append(Task(name, texts, name != "tissue", image, label, people, about))
  return found


def folders(paths: Sequence[pathlib.Path], config: Any) -> list[Task]:
  """A task a path: any set of pictures with one class each; names of classes are the labels.

  Where some sets are in colour and others are not, grey pictures get three equal channels.

  Args:
    paths: folders, tables or MedMNIST files, as `data.open_source` reads them.
    config: `size`, side of the pictures; `graded`, names of those whose classes, in alphabetical
      order, are grades; `label` and `subject`, columns of tables.
  """
  size = config.size
  found = []
  for path in paths:
    name, kind = path.resolve().stem, readers.recognise(path)
    given = {"size": (size, size), "label": config.label, "subject": config.subject}
    own: dict[str, Any] = {
      option: value for option, value in given.items() if value and readers.takes(kind, option)
    }
    source = data.open_source(path, kind, **own)
    held = data.stack(source)
    label = np.asarray(held.label)
    check.require(label.ndim == 1, "pictures with a class", f"labels {label.shape}", f"see {path}")
    texts = tuple(text.replace("_", " ") for text in source.class_names)
    people = tuple(f"{name}/{person}" for person in source.subjects)
    image = np.asarray(held.image)
    is_graded = name in config.graded
    found.append(Task(name, texts, is_graded, image, label, people, source.manifest()))
  if {task.image.shape[-1] for task in found} == {1, 3}:
    found = [
      task._replace(image=task.image.repeat(3 // task.image.shape[-1], -1)) for task in found
    ]
  channels = {task.image.shape[1:] for task in found}
  check.require(len(found) > 1, "two tasks or more", f"{len(found)}", "repeat --data")
  check.require(
    len(channels) == 1 and len({shape[:2] for shape in channels} | {(size, size)}) == 1,
    f"pictures of {size} x {size} and one number of channels",
    f"{sorted(channels)}",
    "convert them, or pass --size",
  )
  return found


class Cases:
  """All tasks side by side, with every answer in every form; a store for `data.batches`."""

  def __init__(self, tasks: Sequence[Task]):
    self.tasks = tasks
    texts = [text for task in tasks for text in task.texts]
    self.words = data.Vocabulary(texts)
    self.length = max(len(text.split()) for text in texts) + 1
    self.union = tuple(dict.fromkeys(texts))
    self.subjects = tuple(person for task in tasks for person in task.subjects)
    parts: dict[str, list[Any]] = {"image": [], "task": [], "label": [], "union": [], "text": []}
    for number, task in enumerate(tasks):
      said = [task.texts[k] for k in task.label]
      parts["image"].append(task.image)
      parts["label"].append(task.label)
      parts["task"].append(np.full(len(said), number, np.int32))
      parts["union"].append(np.array([self.union.index(text) for text in said], np.int32))
      parts["text"].append(np.stack([self.words.numbers(text, self.length) for text in said]))
    self.store = {name: np.concatenate(own) for name, own in parts.items()}

  def part(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: own[rows] for name, own in self.store.items()}
