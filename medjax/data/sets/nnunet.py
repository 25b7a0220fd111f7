"""Folders in nnU-Net v2 layout: imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, dataset.json."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax.check import InputError, existing_folder, one_of, require
from medjax.data import formats, manifest
from medjax.data.formats import labels
from medjax.data.formats.dataset_json import read_dataset_json
from medjax.data.formats.volume import Volume, check_same_grid
from medjax.data.grid.preprocess import Preprocessing, Spacing, place, to_input
from medjax.data.normalise import NORMALISERS, Normaliser, to_spec
from medjax.data.people.subjects import subjects_of
from medjax.data.sets.cases import Case, channel_of, read_case
from medjax.types import Example, Json


class NnUNetFolder:
  """A Source over an nnU-Net v2 folder; the constructor lists files and reads no voxels.

  Images are [*space, channel] float32, labels [*space] int32 class ids: raw values become ids
  0..K-1 in increasing order (`label_values[id]` is the raw value), "ignore" becomes `types.IGNORE`.
  A file may hold all channels itself (an RGB PNG, a 4D NIfTI).

  Attributes:
    names: case names, sorted; examples stand in this order.
    label_values: raw label value of each class id.
    spec: the whole dataset.json as read.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    split: str = "Tr",
    spacing: Spacing | None = None,
    normalise: str | Normaliser | Sequence[str | Normaliser] = "zscore",
    subject_pattern: str | None = None,
    reorient: bool = True,
    cache: bool = False,
    domain: str = "",
  ):
    """Lists the cases.

    Args:
      root: folder that holds dataset.json.
      split: "Tr", or "Ts" for the images without labels in imagesTs.
      spacing: voxel size in mm to resample to (images linearly, labels to the nearest), after
        reorientation; None keeps the grid of the file, on one axis or on all.
      normalise: a name of `normalise.NORMALISERS` or a function of one channel, applied on the
        grid of the file; a sequence has one a channel.
      subject_pattern: regular expression with one group that finds the person in the case name;
        None takes the whole name.
      reorient: bring NIfTI axes to right, anterior, superior.
      cache: keep the examples in memory once read.
      domain: site or scanner name of all cases.
    Raises:
      InputError: missing or wrong dataset.json, no images, a missing channel or label, a name
        without subject. Reading an example raises it for NaN voxels, for shapes or affines that
        differ between files of a case, and for label values outside dataset.json.
    """
    one_of("split", split, ("Tr", "Ts"))
    if isinstance(normalise, str):
      one_of("normalise", normalise, NORMALISERS)
    self.root = pathlib.Path(root)
    self.spec = read_dataset_json(self.root)
    self._format = formats.FORMATS[self.spec.file_ending]
    require(
      spacing is None or self._format.num_axes == 3,
      "spacing=None for PNG files",
      f"spacing={spacing}",
      "PNG has no voxel size",
    )
    self._images = self._list_images(split)
    self.names = tuple(self._images)
    self._labels = self._list_labels() if split == "Tr" else {}
    self.class_names = self.spec.class_names if split == "Tr" else ()
    self.channel_names = self.spec.channel_names
    self.label_values = self.spec.label_values
    self.subjects = subjects_of(self.names, subject_pattern)
    self.domains = (domain,) * len(self.names)
    self._split, self._spacing, self._normalise = split, spacing, normalise
    self._reorient = reorient
    self._options = {
      "split": split,
      "spacing": spacing,
      "normalise": normalise,
      "subject_pattern": subject_pattern,
      "reorient": reorient,
      "domain": domain,
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
    paths = [path for files in self._images.values() for path in files]
    paths += [*self._labels.values(), self.root / "dataset.json"]
    return manifest.describe(
      "nnunet",
      root=self.root,
      files=manifest.file_digests(self.root, paths),
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options=self._options,
    )

  def case(self, index: int) -> Case:
    """Name and image files of a case."""
    name = self.names[index]
    return Case(name, tuple(self._images[name]))

  def preprocessing(self, **changes: Any) -> Preprocessing:
    """How the files become examples, to save beside a network; `changes` are its other fields.

    Raises:
      InputError: a `normalise` that has no JSON form (`normalise.to_spec`).
    """
    how = self._normalise
    each = [how] * len(self.channel_names) if isinstance(how, str) or callable(how) else how
    described = Preprocessing(
      channel_names=self.channel_names,
      class_names=self.spec.class_names,
      label_values=self.label_values,
      spacing=None if self._spacing is None else tuple(self._spacing),
      normalisation=tuple(to_spec(one) for one in each),
      reorient=self._reorient,
      file_ending=self.spec.file_ending,
    )
    return dataclasses.replace(described, **changes)

  def _list_images(self, split: str) -> dict[str, list[pathlib.Path]]:
    """Channel files of each case, complete and in order."""
    folder = self.root / f"images{split}"
    ending = self.spec.file_ending
    existing_folder(folder, "pass the dataset folder")
    found: dict[str, dict[int, pathlib.Path]] = {}
    for path in sorted(folder.iterdir()):
      if path.name.startswith(".") or not path.name.lower().endswith(ending):
        continue
      name, channel = channel_of(path.name[: -len(ending)])
      if channel is None:
        raise InputError(
          f"image names NAME_0000{ending}, whose four digits count the channels",
          str(path),
          f"rename it, for example to {name}_0000{ending}",
        )
      own = found.setdefault(name, {})
      require(
        channel not in own,
        f"one file for channel {channel} of case {name}",
        f"{own.get(channel)} and {path}",
        "remove one",
      )
      own[channel] = path
    require(found, f"images NAME_0000{ending} in {folder}", "none", "check file_ending")
    num_channels = len(self.spec.channel_names)
    for name, files in found.items():
      if set(files) == {0} and (num_channels > 1 or self._format.num_axes == 2):
        held = self._format.num_channels(files[0])
        if held == num_channels:
          continue
        require(
          held == 1,
          f"{num_channels} channels ({', '.join(self.spec.channel_names)}) in {files[0]}",
          f"{held}",
          "convert the picture to the channels of the others, for example without transparency",
        )
      missing = [c for c in range(num_channels) if c not in files]
      require(
        not missing,
        f"{num_channels} channels of case {name} in {folder}",
        f"no {', '.join(f'{name}_{c:04d}{ending}' for c in missing)}",
        f"add the files, or convert {name}_0000{ending} if the others hold all channels",
      )
      extra = [c for c in files if c >= num_channels]
      require(
        not extra,
        f"{num_channels} channels of case {name} in {folder}",
        f"also {', '.join(f'{name}_{c:04d}{ending}' for c in extra)}",
        "name all channels in dataset.json",
      )
    return {name: [files[c] for c in sorted(files)] for name, files in sorted(found.items())}

  def _list_labels(self) -> dict[str, pathlib.Path]:
    folder = self.root / "labelsTr"
    ending = self.spec.file_ending
    listed = folder.iterdir() if folder.is_dir() else ()
    held = {p.name[: -len(ending)]: p for p in listed if p.name.lower().endswith(ending)}
    found = {name: held.get(name, folder / f"{name}{ending}") for name in self.names}
    missing = [str(path) for path in found.values() if not path.is_file()]
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    require(
      not missing,
      "a label file for each case",
      f"{len(missing)} missing: {shown}",
      "add it, or move the images to imagesTs",
    )
    return found

  def _read(self, index: int) -> Example:
    case = self.case(index)
    volume = read_case(case)
    label = self._read_label(self._labels[case.name], case, volume) if self._labels else None
    image = to_input(
      volume,
      channel_names=self.channel_names,
      how=self._normalise,
      spacing=self._spacing,
      reorient=self._reorient,
      name=str(case.files[0]),
    )
    return Example(
      name=case.name,
      subject=self.subjects[index],
      index=index,
      image=image.array,
      label=label,
      spacing=image.spacing,
      affine=image.affine,
      domain=self.domains[index],
    )

  def _read_label(self, path: pathlib.Path, case: Case, image: Volume) -> np.ndarray:
    """Class ids on the grid of the network's input."""
    volume = formats.without_channel_axis(self._format.read_labels(path), str(path))
    check_same_grid(str(case.files[0]), image, str(path), volume)
    raw = labels.whole_numbers(volume.array, str(path))
    ids = labels.class_ids(raw, self.spec.label_values, str(path), ignore=self.spec.ignore_value)
    placed = volume._replace(array=ids, file=None)
    return place(placed, spacing=self._spacing, reorient=self._reorient, order=0).array
