"""Pictures and classes for private training: read, parted by person, rid of copies.

Intensities are moved by public constants, (x - 1/2) / (1/4): statistics of the private pictures
would be a release of their own.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax import check, data, study
from medjax.data.sets import class_folders
from medjax.types import Batch, Source

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class DataConfig(study.Settings):
  """Where pictures come from."""

  # simulated radiographs; a MedMNIST-style npz; the chest radiographs of Kermany et al.;
  # {train,val,test}/CLASS/ folders of pictures
  source: Literal["procedural", "npz", "kermany", "class_folders"] = "procedural"
  size: int = 28  # side in pixels of simulated pictures and of those in folders
  num_classes: Literal[2, 3] = 2  # of Kermany's set: normal, pneumonia; or normal, bacteria, virus
  num_simulated: int = 5000  # simulated pictures, a fifth each to validate and to test
  # share of the people of train set aside to choose learning rates, where the data have no
  # validation part
  validation_fraction: float = 0.1
  # similarity from which a picture that looks like one of a later part is left out; 0 does not look
  # (memory grows with the square of the number of pictures)
  near_duplicates: float = 0.55


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
  config: DataConfig, paths: Sequence[pathlib.Path], seed: int, *, multiple: int = 1
) -> Pictures:
  """Reads the data of a study.

  The sides of pictures are filled up to a `multiple`, repeating the border.

  Raises:
    InputError: a wrong number of paths, unreadable data, a person in two parts, or a part without
      one of the classes.
  """
  is_simulated = config.source == "procedural"
  paths = study.paths_of(paths, 0 if is_simulated else 1, f" with --source {config.source}")
  title = "simulated chest radiographs" if is_simulated else paths[0].resolve().stem
  if is_simulated:
    source, parts, removed = _procedural(config, seed)
  elif config.source == "npz":
    source, parts, removed = _npz(paths[0])
  else:
    source, parts, removed = _folders(config, paths[0])
  if "validation" not in parts:
    whole, aside = parts["train"], config.validation_fraction
    shares = {"train": 1 - aside, "validation": aside}
    drawn = study.parted([source.subjects[i] for i in whole], shares, seed)
    parts |= {part: tuple(whole[i] for i in rows) for part, rows in drawn.items()}
  if config.near_duplicates > 0:
    number = _drop_near(source, parts, config.near_duplicates)
    removed["like a picture of a later part"] = number
  people = study.people_by_part(source.subjects, {part: parts[part] for part in PARTS})
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
  splits = {"seed": seed, "parts": people}
  return Pictures(title, stacked, source.class_names, splits, source.manifest(), removed)


_Parted = tuple[Source, dict[str, tuple[int, ...]], dict[str, int]]
"""A source, the cases of its parts, and what was left out of them."""


def _procedural(config: DataConfig, seed: int) -> _Parted:
  """Three fifths to train on, one to validate, one to test."""
  num = config.num_simulated
  ends = (0, 3 * num // 5, 4 * num // 5, num)
  parts = {part: tuple(range(ends[i], ends[i + 1])) for i, part in enumerate(PARTS)}
  return data.radiographs(num, config.size, seed), parts, {}


def _npz(path: pathlib.Path) -> _Parted:
  """MedMNIST's own parts; of identical pictures the later parts keep theirs."""
  names = dict(zip(("train", "val", "test"), PARTS, strict=True))
  source = data.concat({split: data.MedMNIST(path, split=split) for split in names})
  digests = [subject.partition("/")[2] for subject in source.subjects]
  first: dict[str, int] = {}
  for i in reversed(range(len(digests))):  # test, val, train; within a part the last one stays
    first.setdefault(digests[i], i)
  kept = sorted(first.values())
  parts = {
    part: tuple(i for i in kept if source.domains[i] == split) for split, part in names.items()
  }
  return source, parts, {"identical to another picture": len(digests) - len(kept)}


def _folders(config: DataConfig, path: pathlib.Path) -> _Parted:
  size = (config.size, config.size)
  if config.source == "kermany":
    source = class_folders.kermany(path, num_classes=config.num_classes, size=size)
  else:
    source = class_folders.ClassFolders(path, size=size, colour=True)
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
