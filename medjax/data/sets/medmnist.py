"""MedMNIST-style npz files: train_images, train_labels, val_*, test_*.

Images are 8-bit arrays, an example each: [n, h, w] grey, [n, h, w, 3] colour, [n, d, h, w] the
volumes of the 3D sets. Labels are class ids [n, 1] or [n], or 0 and 1 for several findings
[n, finding], as in ChestMNIST.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from medjax.check import one_of, require
from medjax.data import manifest
from medjax.data.formats import npz
from medjax.data.people.parts import indices_of_part
from medjax.types import Example, Json

SPLITS = ("train", "val", "test")


class Duplicate(NamedTuple):
  """Identical images: their names ("train_00012") in split order, and their labels."""

  names: tuple[str, ...]
  labels: tuple[int | tuple[int, ...], ...]


class MedMNIST:
  """A Source over one part of an npz file, or over all.

  Images are [*space, channel] float32 in [0, 1] (8-bit value / 255). Labels are 0-d int32 class
  ids, or [finding] int32 of 0 and 1. The files name no patients: the subject of an image is the
  digest of its pixels, so that identical images share a subject and stay on one side of a split.

  Attributes:
    names: "PART_NNNNN" with the position in the file.
    parts: "train", "val" or "test" of each case.
    knows_people: False, subjects are digests of pixels.
  """

  knows_people = False

  def __init__(
    self, path: str | os.PathLike, *, split: str = "train", drop_duplicates: bool = False
  ):
    """Loads one part, or all, into memory (as uint8).

    Args:
      path: the npz file.
      split: "train", "val" or "test", or "all" for those that the file has, in this order.
      drop_duplicates: leave out images that are identical to one in an earlier part (train, then
        val, then test) or earlier in this one.
    Raises:
      InputError: naming the file, when it is missing, truncated, lacks a key, or its images and
        labels differ in number, type or shape from the format.
    """
    one_of("split", split, (*SPLITS, "all"))
    self.path = pathlib.Path(path)
    self.split = split
    held = [part for part in SPLITS if self._has(part)] if split == "all" else [split]
    held = held or ["train"]
    loaded = {part: self._load(part) for part in held}
    for other in held[1:]:
      for what, one, two in zip(("image", "label"), loaded[held[0]], loaded[other], strict=True):
        require(
          one.shape[1:] == two.shape[1:],
          f"{what}s of one shape in {held[0]} and {other} of {self.path}",
          f"{one.shape[1:]} and {two.shape[1:]}",
          "correct the file, or pass split=",
        )
    seen: set[str] = set()
    if drop_duplicates and split != "all":
      for earlier in SPLITS[: SPLITS.index(split)]:
        if self._has(earlier):
          seen.update(manifest.array_digest(image) for image in self._load(earlier)[0])
    self._rows: list[tuple[np.ndarray, np.ndarray]] = []
    names, parts, digests = [], [], []
    for part, (images, labels) in loaded.items():
      for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        digest = manifest.array_digest(image)
        if not (drop_duplicates and digest in seen):
          self._rows.append((image, label))
          names.append(f"{part}_{position:05d}")
          parts.append(part)
          digests.append(digest)
        seen.add(digest)
    self.names, self.parts, self.subjects = tuple(names), tuple(parts), tuple(digests)
    self.domains = ("",) * len(self.names)
    images, labels = next(iter(loaded.values()))
    self._num_axes = 3 if _is_volume(images) else 2
    num_channels = images.shape[-1] if images.ndim == self._num_axes + 2 else 1
    self.channel_names: tuple[str, ...] = ("grey",) if num_channels == 1 else ("R", "G", "B")
    is_findings = labels.ndim == 2
    count = labels.shape[1] if is_findings else self._num_classes()
    self.class_names = tuple(f"{'finding' if is_findings else 'class'}_{c}" for c in range(count))
    self._options = {"split": split, "drop_duplicates": drop_duplicates}

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    pixels, label = self._rows[index]
    image = pixels.astype(np.float32) / np.float32(255)
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=image[..., None] if image.ndim == self._num_axes else image,
      label=np.asarray(label, np.int32),
      spacing=(1.0,) * self._num_axes,
    )

  def indices(self, part: str) -> tuple[int, ...]:
    """Cases of a part, without those that are identical to one in a later part."""
    return indices_of_part(part, self.parts, self.subjects, SPLITS)

  def duplicates(self) -> list[Duplicate]:
    """Groups of identical images over all splits of the file, in order of their first member."""
    groups: dict[str, list[tuple[str, int | tuple[int, ...]]]] = {}
    for split in filter(self._has, SPLITS):
      images, labels = self._load(split)
      for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        member = (f"{split}_{position:05d}", _plain_label(label))
        groups.setdefault(manifest.array_digest(image), []).append(member)
    found = []
    for members in groups.values():
      if len(members) > 1:
        names, labels = zip(*members, strict=True)
        found.append(Duplicate(names, labels))
    return found

  def manifest(self) -> dict[str, Json]:
    return manifest.describe(
      "medmnist",
      root=self.path.parent,
      files=manifest.file_digests(self.path.parent, [self.path]),
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options=self._options,
    )

  def _has(self, split: str) -> bool:
    with npz.opened(self.path) as file:
      return {f"{split}_images", f"{split}_labels"} <= set(file.files)

  def _num_classes(self) -> int:
    """One more than the largest label of any split."""
    return 1 + max(
      int(self._array(f"{split}_labels").max(initial=0)) for split in SPLITS if self._has(split)
    )

  def _array(self, key: str) -> np.ndarray:
    with npz.opened(self.path) as file:
      require(
        key in file.files,
        f"key {key!r} in {self.path}",
        f"{', '.join(file.files) or 'no key'}",
        "write the MedMNIST keys train_images, train_labels, val_*, test_*",
      )
      return file[key]

  def _load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 and labels [n] or [n, finding] of a split."""
    images, labels = self._array(f"{split}_images"), self._array(f"{split}_labels")
    require(
      images.dtype == np.uint8
      and (images.ndim in (3, 4) or images.ndim == 5 and images.shape[-1] in (1, 3)),
      f"{split}_images [n, h, w], [n, h, w, 3] or [n, d, h, w] uint8 in {self.path}",
      f"{images.shape} {images.dtype}",
      "convert them",
    )
    require(
      images.ndim != 4 or images.shape[-1] in (1, 3) or len(set(images.shape[1:])) == 1,
      f"{split}_images of 1 or 3 channels, or volumes of equal sides, in {self.path}",
      f"{images.shape}: both could be meant",
      "write volumes as [n, d, h, w, 1]",
    )
    if labels.ndim == 2 and labels.shape[1] == 1:
      labels = labels[:, 0]
    is_class = labels.ndim == 1 and labels.dtype.kind in "iu" and labels.min(initial=0) >= 0
    is_findings = labels.ndim == 2 and bool(np.isin(labels, (0, 1)).all())
    require(
      is_class or is_findings,
      f"{split}_labels of class ids from 0, [n] or [n, 1], or [n, finding] of 0 and 1 in"
      f" {self.path}",
      f"{labels.shape} {labels.dtype}, values {np.unique(labels)[:4].tolist()}",
      "correct them",
    )
    require(
      len(images) == len(labels),
      f"as many {split}_labels as {split}_images in {self.path}",
      f"{len(labels)} and {len(images)}",
      "write the file again",
    )
    return images, labels


def _is_volume(images: np.ndarray) -> bool:
  """Whether [n, ...] holds volumes: a fourth axis of other than 1 or 3 entries is no colour."""
  return images.ndim == 5 or (images.ndim == 4 and images.shape[-1] not in (1, 3))


def _plain_label(label: np.ndarray | np.integer) -> int | tuple[int, ...]:
  return int(label) if label.ndim == 0 else tuple(int(value) for value in label)
