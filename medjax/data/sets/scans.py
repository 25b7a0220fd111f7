"""Scans and their masks: the one reader that every set of volumes is built on.

The file of a set says which scans there are and how one is read from its files; what follows
(intensities, axes, voxel size, the same for the mask) is here, and is what prediction does.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medjax.check import require, same_shape
from medjax.data import manifest
from medjax.data.formats.volume import Volume
from medjax.data.grid.preprocess import Spacing, place, to_input
from medjax.data.normalise import Normaliser
from medjax.data.sets import downloads
from medjax.data.sets.downloads import Download
from medjax.types import Example, Json


class Scan(NamedTuple):
  """What is known of a scan without reading it.

  Attributes:
    name: of the case.
    subject: the person.
    domain: site or scanner.
    part: part of the set as published, "" if it has none.
  """

  name: str
  subject: str
  domain: str
  part: str = ""


class ScanSet:
  """A Source of volumes, with masks or without; voxels are read when asked for.

  Attributes:
    names: of the cases, in order.
    parts: part of each case as published, "" where there is none.
  """

  class_names: tuple[str, ...]
  channel_names: tuple[str, ...]

  def __init__(
    self,
    kind: str,
    root: pathlib.Path,
    scans: Sequence[Scan],
    read: Callable[[int], tuple[Volume, np.ndarray | None]],
    *,
    class_names: Sequence[str],
    channel_names: Sequence[str],
    files: Callable[[], Mapping[str, str]],
    normalise: str | Normaliser,
    spacing: Spacing | None = None,
    reorient: bool = False,
    options: Mapping[str, object],
  ):
    """Lists the cases.

    Args:
      kind: name of the set.
      root: folder or archive that holds it.
      scans: one a case.
      read: `read(index)` gives raw values [*space, channel] and class ids [*space] int32, or None,
        on one grid.
      class_names: of the class ids, () without masks.
      channel_names: of the channels.
      files: digests by place, for the manifest.
      normalise, spacing, reorient: see `preprocess.Preprocessing`.
      options: of the reader, for the manifest.
    """
    self.root, self._kind, self._read = root, kind, read
    self.class_names, self.channel_names = tuple(class_names), tuple(channel_names)
    self._files, self._options = files, dict(options)
    self._how, self._spacing, self._reorient = normalise, spacing, reorient
    self.names = tuple(scan.name for scan in scans)
    self.subjects = tuple(scan.subject for scan in scans)
    self.domains = tuple(scan.domain for scan in scans)
    self.parts = tuple(scan.part for scan in scans)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    volume, mask = self._read(index)
    image = to_input(
      volume,
      channel_names=self.channel_names,
      how=self._how,
      spacing=self._spacing,
      reorient=self._reorient,
      name=self.names[index],
    )
    label = None
    if mask is not None:
      on_grid = Volume(mask, volume.affine, volume.spacing)
      label = place(on_grid, spacing=self._spacing, reorient=self._reorient, order=0).array
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=image.array,
      label=label,
      spacing=image.spacing,
      affine=image.affine,
      domain=self.domains[index],
    )

  def indices(self, part: str) -> tuple[int, ...]:
    """Cases that the authors put into a part."""
    return tuple(i for i, own in enumerate(self.parts) if own == part)

  def manifest(self) -> dict[str, Json]:
    return manifest.describe(
      self._kind,
      root=self.root,
      files=self._files(),
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options=self._options,
    )


def digests_of(files: Sequence[tuple[Download, ...]]) -> Callable[[], Mapping[str, str]]:
  """`files` of a ScanSet whose cases lie in these downloads."""
  return lambda: downloads.digests(file for own in files for file in own)


def add_file(files: dict[str, Download], what: str, download: Download) -> None:
  """Notes the file of a case; one that is unpacked and in its archive too is one file.

  Args:
    files: file of each case so far; changed.
    what: the case, and which of its files.
    download: found after those that are unpacked (see `downloads.find`).
  Raises:
    InputError: two files for one case.
  """
  first = files.setdefault(what, download)
  is_twin = bool(first.member) != bool(download.member)
  require(
    first is download or is_twin and first.name.lower() == download.name.lower(),
    f"one file of {what}",
    f"{first} and {download}",
    "remove one",
  )


def with_mask_of_its_shape(
  scan: Download, mask: Download, classes: Callable[[Volume], np.ndarray]
) -> tuple[Volume, np.ndarray]:
  """A scan and its mask voxel by voxel, whatever the mask's header says of its place.

  For sets whose masks come from other tools than the scans and are known to lie on their grids.

  Args:
    scan, mask: files of one shape.
    classes: class ids of the mask as read.
  """
  image, label = scan.read_nifti(), mask.read_nifti()
  same_shape(str(scan), image.array.shape, str(mask), label.array.shape)
  return image._replace(array=image.array[..., None]), classes(label)
