"""MedMNIST-style npz files: train_images, train_labels, val_*, test_*."""

import contextlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from medjax.check import InputError, one_of, require
from medjax.data import manifest
from medjax.types import Example

SPLITS = ("train", "val", "test")


class Duplicate(NamedTuple):
  """Identical images: their names ("train_00012") in split order, and their labels."""

  names: tuple[str, ...]
  labels: tuple[int, ...]


class MedMNIST:
  """A Source over one split of an npz file.

  Images are [height, width, channel] float32 in [0, 1] (8-bit value / 255), labels 0-d int32.
  The files name no patients: the subject of an image is the digest of its pixels, so that identical
  images share a subject and stay on one side of a split.

  Attributes:
    names: "SPLIT_NNNNN" with the position in the file.
  """

  def __init__(
    self, path: str | os.PathLike, *, split: str = "train", drop_duplicates: bool = False
  ):
    """Loads one split into memory (as uint8).

    Args:
      path: the npz file.
      split: "train", "val" or "test".
      drop_duplicates: leave out images that are identical to one in an earlier split (train, then
        val, then test) or earlier in this one.
    Raises:
      InputError: naming the file, when it is missing, truncated, lacks a key, or its images and
        labels differ in number, type or shape from the format.
    """
    one_of("split", split, SPLITS)
    self.path = pathlib.Path(path)
    self.split = split
    self._images, self._labels = self._load(split)
    digests = [manifest.array_digest(image) for image in self._images]
    self.positions = np.arange(len(self._images))
    if drop_duplicates:
      seen: set[str] = set()
      for earlier in SPLITS[: SPLITS.index(split)]:
        if self._has(earlier):
          seen.update(manifest.array_digest(image) for image in self._load(earlier)[0])
      kept = []
      for position, digest in enumerate(digests):
        if digest not in seen:
          kept.append(position)
        seen.add(digest)
      self.positions = np.asarray(kept, int)
    self.names = tuple(f"{split}_{position:05d}" for position in self.positions)
    self.subjects = tuple(digests[position] for position in self.positions)
    self.domains = ("",) * len(self.names)
    num_channels = 1 if self._images.ndim == 3 else self._images.shape[3]
    names = {1: ("grey",), 3: ("R", "G", "B")}
    self.channel_names = names.get(num_channels, tuple(map(str, range(num_channels))))
    self.class_names = tuple(f"class_{c}" for c in range(self._num_classes()))
    self._options = {"split": split, "drop_duplicates": drop_duplicates}

  def __len__(self) -> int:
    return len(self.positions)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    position = self.positions[index]
    image = self._images[position].astype(np.float32) / np.float32(255)
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=image[..., None] if image.ndim == 2 else image,
      label=np.asarray(self._labels[position], np.int32),
      spacing=(1.0, 1.0),
    )

  def duplicates(self) -> list[Duplicate]:
    """Groups of identical images over all splits of the file, in order of their first member."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for split in filter(self._has, SPLITS):
      images, labels = self._load(split)
      for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        member = (f"{split}_{position:05d}", int(label))
        groups.setdefault(manifest.array_digest(image), []).append(member)
    found = []
    for members in groups.values():
      if len(members) > 1:
        names, labels = zip(*members, strict=True)
        found.append(Duplicate(names, labels))
    return found

  def manifest(self) -> dict[str, Any]:
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
    with self._open() as file:
      return {f"{split}_images", f"{split}_labels"} <= set(file.files)

  def _num_classes(self) -> int:
    """One more than the largest label of any split."""
    return 1 + max(
      int(self._array(f"{split}_labels").max(initial=0)) for split in SPLITS if self._has(split)
    )

  @contextlib.contextmanager
  def _open(self) -> Iterator[Any]:
    """The open npz file; whatever is wrong inside becomes an InputError."""
    path = self.path
    require(path.is_file(), f"a file {path}", "nothing there", "check the path")
    with open(path, "rb") as stream:  # our own handle: numpy leaks its one on a damaged file
      try:
        file = np.load(stream, allow_pickle=False)
        require(hasattr(file, "files"), f"an npz file {path}", "a single array", "use numpy.savez")
        yield file
      except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
          raise
        reason = " ".join(str(error).split())[:120]
        raise InputError(
          f"a readable npz file {path}", f"a damaged one ({reason})", "copy it again"
        ) from error

  def _array(self, key: str) -> np.ndarray:
    with self._open() as file:
      require(
        key in file.files,
        f"key {key!r} in {self.path}",
        f"{', '.join(file.files) or 'no key'}",
        "write the MedMNIST keys train_images, train_labels, val_*, test_*",
      )
      return file[key]

  def _load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, h, w] or [n, h, w, c] uint8 and labels [n] of a split."""
    images, labels = self._array(f"{split}_images"), self._array(f"{split}_labels")
    require(
      images.ndim in (3, 4) and images.dtype == np.uint8,
      f"{split}_images [n, h, w] or [n, h, w, c] uint8 in {self.path}",
      f"{images.shape} {images.dtype}",
      "convert them",
    )
    if labels.ndim == 2 and labels.shape[1] == 1:
      labels = labels[:, 0]
    require(
      labels.ndim == 1 and labels.dtype.kind in "iu" and labels.min(initial=0) >= 0,
      f"{split}_labels [n] or [n, 1] of class ids from 0 in {self.path}",
      f"{labels.shape} {labels.dtype}",
      "choose one label per image",
    )
    require(
      len(images) == len(labels),
      f"as many {split}_labels as {split}_images in {self.path}",
      f"{len(labels)} and {len(images)}",
      "write the file again",
    )
    return images, labels
