"""A folder of NIfTI label maps without intensities, as label-to-image synthesis wants it."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from medjax import tables
from medjax.check import existing_folder, require
from medjax.data import manifest
from medjax.data.formats import labels, nifti
from medjax.data.formats.volume import Volume
from medjax.data.grid.preprocess import Spacing, place
from medjax.data.people.subjects import subjects_of
from medjax.types import Example, Json


class LabelMapFolder:
  """A Source of label maps; `image` of its examples is None.

  Label values of the folder become class ids 0..K-1 in increasing order; `label_values[id]` is the
  value in the files and `class_names[id]` is "label_VALUE".

  Attributes:
    names: file names without suffix, sorted; examples stand in this order.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    spacing: Spacing | None = None,
    reorient: bool = True,
    label_values: Sequence[int] | None = None,
    subject_pattern: str | None = None,
    cache: bool = False,
  ):
    """Lists the maps.

    Args:
      root: folder with .nii or .nii.gz files of integers, also integers stored as floats.
      spacing: voxel size in mm to resample to (nearest neighbour); None keeps the grid of the
        file, on one axis or on all.
      reorient: bring axes to right, anterior, superior.
      label_values: values that may occur, 0 (background) among them; None reads all files once
        and collects them.
      subject_pattern: regular expression with one group; None takes the whole name.
      cache: keep the examples in memory once read.
    Raises:
      InputError: no files, two of one name, a damaged file, labels with a fraction or outside
        `label_values`.
    """
    self.root = pathlib.Path(root)
    existing_folder(self.root)
    self._paths = [
      path
      for path in sorted(self.root.iterdir())
      if path.name.lower().endswith(nifti.SUFFIXES) and not path.name.startswith(".")
    ]
    require(self._paths, f"label maps (.nii, .nii.gz) in {self.root}", "none", "check the path")
    self.names = tuple(nifti.stem(path) for path in self._paths)
    tables.check_once(zip(self.names, map(str, self._paths), strict=True), "label map")
    self.subjects = subjects_of(self.names, subject_pattern)
    self.domains = ("",) * len(self.names)
    if label_values is None:
      found: set[int] = {0}
      for path in self._paths:
        found.update(labels.distinct(self._load(path).array).tolist())
      label_values = sorted(found)
    require(0 in label_values, "label_values with 0", f"{list(label_values)}", "add the background")
    self.label_values = tuple(sorted({int(value) for value in label_values}))
    require(
      self.label_values[0] == 0,
      "label values of 0 or more",
      f"{self.label_values[0]}",
      "relabel the maps",
    )
    self.class_names = tuple(f"label_{value}" for value in self.label_values)
    self.channel_names = ()
    self._spacing, self._reorient = spacing, reorient
    self._options = {
      "spacing": spacing,
      "reorient": reorient,
      "label_values": self.label_values,
      "subject_pattern": subject_pattern,
    }
    self._cache: dict[int, Example] | None = {} if cache else None

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    if self._cache is None:
      return self._read(index)
    if index not in self._cache:
      self._cache[index] = self._read(index)
    return self._cache[index]

  def manifest(self) -> dict[str, Json]:
    return manifest.describe(
      "labelmaps",
      root=self.root,
      files=manifest.file_digests(self.root, self._paths),
      class_names=self.class_names,
      channel_names=(),
      subjects=self.subjects,
      options=self._options,
    )

  def _load(self, path: pathlib.Path) -> Volume:
    volume = nifti.read_nifti(path)
    array = volume.array
    if array.ndim == 4 and array.shape[-1] == 1:
      array = array[..., 0]
    require(array.ndim == 3, f"one label per voxel in {path}", f"shape {array.shape}", "split it")
    return volume._replace(array=labels.whole_numbers(array, str(path)))

  def _read(self, index: int) -> Example:
    path = self._paths[index]
    volume = self._load(path)
    volume = volume._replace(array=labels.class_ids(volume.array, self.label_values, str(path)))
    volume = place(volume, spacing=self._spacing, reorient=self._reorient, order=0)
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=None,
      label=volume.array.astype(np.int32, copy=False),
      spacing=volume.spacing,
      affine=volume.affine,
    )
