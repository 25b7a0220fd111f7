"""Pictures and classes for private training: read, parted by person, rid of copies.

Intensities are moved by public constants, (x - 1/2) / (1/4): statistics of the private pictures
would be a release of their own.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax import check, data
from medjax.data.sets import class_folders
from medjax.types import Batch, Source

Kind = Literal["procedural", "npz", "kermany", "class_folders"]
PARTS = ("train", "validation", "test")


class Pictures(NamedTuple):
  """The data of a study.

  Attributes:
    title: what they are.
    parts: examples of "train", "validation" and "test", images [n, height, width, channel]; people
      of "train" are the ones protected.
    class_names: of the labels.
    splits: subjects by part, for private/splits.json.
    manifest: of the sources.
    removed: what was left out of train and validation, counts by reason.
  """

  title: str
  parts: dict[str, Batch]
  class_names: tuple[str, ...]
  splits: dict[str, Any]
  manifest: dict[str, Any]
  removed: dict[str, int]


def load(
  kind: Kind,
  path: pathlib.Path | None,
  seed: int,
  *,
  size: int,
  num_classes: int,
  num_simulated: int,
  validation_fraction: float,
  near_duplicates: float,
  multiple: int = 1,
) -> Pictures:
  """Reads the data of a study; arguments are the fields of `training.Config`.

  The sides of pictures are filled up to a `multiple`, repeating the border.

  Raises:
    InputError: unreadable data, a person in two parts, or a part without one of the classes.
  """
  removed: dict[str, int] = {}
  if kind == "procedural":
    source, parts = _procedural(num_simulated, size, seed)
    title = "simulated chest radiographs"
  else:
    check.require(path is not None, "your data after --data", "none", "see --help")
    assert path is not None
    title = path.resolve().stem
    source, parts, removed = (
      _npz(path) if kind == "npz" else _folders(kind, path, size, num_classes)
    )
  if "validation" not in parts:
    inner = data.split_subjects(
      [source.subjects[i] for i in parts["train"]],
      {"train": 1 - validation_fraction, "validation": validation_fraction},
      seed=seed,
    )
    aside = set(inner.parts["validation"])
    whole = parts["train"]
    parts["train"] = tuple(i for i in whole if source.subjects[i] not in aside)
    parts["validation"] = tuple(i for i in whole if source.subjects[i] in aside)
  if near_duplicates > 0:
    removed["like a picture of a later part"] = _drop_near(source, parts, near_duplicates)
  people = {part: tuple(sorted({source.subjects[i] for i in parts[part]})) for part in PARTS}
  data.check_content(source, data.Splits(people, seed))
  stacked = {part: _stacked(source, parts[part], multiple) for part in PARTS}
  for part, batch in stacked.items():
    num_present = len(np.unique(batch.label))
    check.require(
      num_present == len(source.class_names),
      f"all {len(source.class_names)} classes in {part}, or nothing could be ranked",
      f"{num_present}",
      "set more people aside",
    )
  return Pictures(
    title,
    stacked,
    source.class_names,
    {"seed": seed, "parts": people},
    source.manifest(),
    removed,
  )


def radiographs(num: int, size: int, seed: int) -> Source:
  """Simulated chest radiographs: class 0 "clear", 1 "opacity", evenly."""

  def draw(random: np.random.Generator) -> tuple[np.ndarray, bool]:
    is_ill = bool(random.random() < 0.5)
    return radiograph(random, size, is_ill=is_ill)[..., None], is_ill

  return data.Simulated(
    "procedural radiographs",
    num,
    seed,
    draw,
    class_names=("clear", "opacity"),
    options={"size": size},
    stream="radiograph",
  )


def radiograph(random: np.random.Generator, size: int, *, is_ill: bool) -> np.ndarray:
  """Two lungs, ribs and a heart, [size, size] float32 in [0, 1]; bright where rays are absorbed.

  The ill have one to three opacities in a lung.
  """
  y, x = np.meshgrid(*2 * [(np.arange(size) + 0.5) / size * 2 - 1], indexing="ij")
  y, x = y - random.normal(0, 0.05), x - random.normal(0, 0.05)

  def blob(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
    return 1 / (1 + np.exp(8 * (np.hypot((y - cy) / ry, (x - cx) / rx) - 1)))

  height, width = random.uniform(0.55, 0.7), random.uniform(0.25, 0.34)
  left, right = (blob(0.0, side * 0.42, height, width) for side in (-1, 1))
  lungs = np.maximum(left, right)
  ribs = 0.5 + 0.5 * np.sin(2 * np.pi * (4 * y + 0.8 * np.abs(x) + random.random()))
  image = 0.75 - 0.5 * lungs + 0.1 * lungs * ribs + 0.35 * blob(0.3, 0.08, 0.38, 0.22)
  if is_ill:
    for _ in range(random.integers(1, 4)):
      side, depth = random.choice([-1, 1]), random.uniform(0.18, 0.35)
      cy, cx = random.uniform(-0.35, 0.4), side * random.uniform(0.32, 0.52)
      image += depth * lungs * blob(cy, cx, random.uniform(0.12, 0.25), random.uniform(0.1, 0.2))
  image = random.uniform(0.8, 1.2) * (image - 0.5) + 0.5 + random.normal(0, 0.05)
  return np.clip(image + random.normal(0, 0.04, image.shape), 0, 1).astype(np.float32)


def _procedural(num: int, size: int, seed: int) -> tuple[Source, dict[str, tuple[int, ...]]]:
  """Three fifths to train on, one to validate, one to test."""
  bounds = [0, 3 * num // 5, 4 * num // 5, num]
  parts = {
    part: tuple(range(*ends))
    for part, ends in zip(PARTS, zip(bounds, bounds[1:], strict=False), strict=True)
  }
  return radiographs(num, size, seed), parts


def _npz(path: pathlib.Path) -> tuple[Source, dict[str, tuple[int, ...]], dict[str, int]]:
  """MedMNIST's own parts; of identical pictures the later parts keep theirs."""
  whole = {split: data.MedMNIST(path, split=split) for split in ("train", "val", "test")}
  source = data.concat(whole)
  digests = [subject.partition("/")[2] for subject in source.subjects]
  first: dict[str, int] = {}
  for i in reversed(range(len(digests))):  # test, val, train; within a part the last one stays
    first.setdefault(digests[i], i)
  kept = sorted(first.values())
  names = dict(zip(("train", "val", "test"), PARTS, strict=True))
  parts = {
    part: tuple(i for i in kept if source.domains[i] == split) for split, part in names.items()
  }
  return source, parts, {"identical to another picture": len(digests) - len(kept)}


def _folders(
  kind: Kind, path: pathlib.Path, size: int, num_classes: int
) -> tuple[Source, dict[str, tuple[int, ...]], dict[str, int]]:
  if kind == "kermany":
    source = class_folders.kermany(
      path, num_classes=3 if num_classes == 3 else 2, size=(size, size)
    )
  else:
    source = class_folders.ClassFolders(path, size=(size, size), colour=True)
  check.require(
    {"train", "test"} <= set(source.parts),
    f"folders train and test in {path}",
    f"{sorted(set(source.parts))}",
    "part the pictures by person",
  )
  names = {"train": "train", "val": "validation", "test": "test"}
  parts = {part: source.indices(split) for split, part in names.items() if split in source.parts}
  left_out = sum(source.num_left_out(split) for split in names if split in source.parts)
  return source, parts, {"of a person of a later part": left_out}


def _drop_near(source: Source, parts: dict[str, tuple[int, ...]], threshold: float) -> int:
  """Takes out of train what looks like a picture of validation or test, and so on; how many."""
  rank = {i: PARTS.index(part) for part in PARTS for i in parts[part]}
  dropped = set()
  for pair in data.near_duplicates(source, sorted(rank), threshold=threshold):
    first, second = sorted(pair[:2], key=rank.__getitem__)
    if rank[first] < rank[second]:
      dropped.add(first)
  for part in PARTS:
    parts[part] = tuple(i for i in parts[part] if i not in dropped)
  return len(dropped)


def _stacked(source: Source, indices: Sequence[int], multiple: int) -> Batch:
  batch = data.stack(source, indices)
  spare = [-side % multiple for side in batch.image.shape[1:3]]
  widths = [(0, 0), *((extra // 2, extra - extra // 2) for extra in spare), (0, 0)]
  image = np.pad(batch.image, widths, mode="edge")
  return batch.replace(image=(image - np.float32(0.5)) / np.float32(0.25))
