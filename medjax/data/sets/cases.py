"""Files to predict: the channels of each case, from a file or a folder like nnU-Net's imagesTs."""

import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medjax.check import InputError, require
from medjax.data import formats
from medjax.data.formats import itk
from medjax.data.formats.volume import Volume, check_same_grid
from medjax.data.grid.preprocess import Preprocessing

_MOST_CHANNELS = 100  # NAME_2020 is a name: no image has channel 2020


class Case(NamedTuple):
  """A name and its files: one a channel, one with all channels, or a folder of a DICOM series."""

  name: str
  files: tuple[pathlib.Path, ...]

  @property
  def ending(self) -> str:
    """Of a label map of the case: that of its files, ".nii.gz" for DICOM."""
    return formats.ending_of(self.files[0]) or ".nii.gz"

  def __str__(self) -> str:
    return self.name


def find_cases(path: str | os.PathLike, preprocess: Preprocessing) -> tuple[Case, ...]:
  """The cases in a folder, or the one that a file belongs to.

  Args:
    path: a folder with NAME_0000.nii.gz, NAME_0001.nii.gz, ... (for one channel NAME.nii.gz will
      do), one such file, or a 4D file with all channels; any format of `formats.FORMATS` of the
      network's kind, volumes or pictures. For one channel also a folder with a DICOM series, or
      folders of such. A dataset.json beside the files must name the channels that the network was
      trained on.
    preprocess: preprocessing of the network.
  Raises:
    InputError: nothing there, missing or superfluous channels, other channel names.
  """
  path = pathlib.Path(path)
  require(path.exists(), f"a file or folder {path}", "nothing there", "check the path")
  folder = path if path.is_dir() else path.parent
  num_axes = formats.FORMATS[preprocess.file_ending].num_axes
  endings = [ending for ending, kind in formats.FORMATS.items() if kind.num_axes == num_axes]
  files = [p for p in sorted(folder.iterdir()) if p.is_file() and formats.ending_of(p) in endings]
  files = [p for p in files if not p.name.startswith(".")]
  if path.is_dir() and not files and num_axes == 3:
    if series := _dicom_series(path):
      return series
  if not path.is_dir():
    require(
      path in files, f"a file ending in {' or '.join(endings)}", f"{path}", "convert the file"
    )
    name, number = _split(path)
    files = [p for p in files if number is not None and _split(p)[0] == name] or [path]
  require(files, f"images ending in {' or '.join(endings)} in {folder}", "none", "check the path")
  _check_channel_names(folder, preprocess)
  found: dict[str, dict[int, pathlib.Path]] = {}
  for file in files:
    name, number = _split(file)
    own = found.setdefault(name, {})
    require(
      (number or 0) not in own,
      f"one file for channel {number or 0} of case {name}",
      f"{own.get(number or 0)} and {file}",
      "remove one",
    )
    own[number or 0] = file
  num_channels = len(preprocess.channel_names)
  for name, channels in found.items():
    is_whole = sorted(channels) in ([0], list(range(num_channels)))
    require(
      is_whole,
      f"{num_channels} channels ({', '.join(preprocess.channel_names)}) of case {name}",
      f"files {[channels[c].name for c in sorted(channels)]}",
      "give NAME_0000, NAME_0001, ... in the order of training; four digits at the end of a name"
      f" count the channels (append _0000 where they belong to the name, below {_MOST_CHANNELS})",
    )
  return tuple(Case(n, tuple(c[i] for i in sorted(c))) for n, c in sorted(found.items()))


def read_case(case: Case) -> Volume:
  """Raw values [*space, channel] on the grid of the first file.

  Raises:
    InputError: a damaged file, channels on different grids.
  """
  volumes = [formats.format_of(file).read_image(file) for file in case.files]
  first = volumes[0]
  for file, volume in zip(case.files[1:], volumes[1:], strict=True):
    check_same_grid(str(case.files[0]), first, str(file), volume)
  arrays = [v.array if v.array.ndim > len(v.spacing) else v.array[..., None] for v in volumes]
  return first._replace(array=np.concatenate(arrays, axis=-1))


def check_cases(found: Sequence[Case], preprocess: Preprocessing) -> None:
  """Reads every case once, so that a file that cannot be predicted is known before a training.

  Args:
    found: from `find_cases`.
    preprocess: of the network.
  Raises:
    InputError: naming all cases that are damaged, lie on several grids or have other channels.
  """
  failed = {}
  for case in found:
    try:
      preprocess.apply(read_case(case), case.name)
    except InputError as error:
      failed[case.name] = str(error)
  shown = "; ".join(f"{name} ({reason})" for name, reason in list(failed.items())[:3])
  require(
    not failed,
    f"{len(found)} cases that can be predicted",
    f"{len(failed)} that cannot: {shown}" + ("; ..." if len(failed) > 3 else ""),
    "correct or remove them",
  )


def _dicom_series(path: pathlib.Path) -> tuple[Case, ...]:
  """The series in a folder, or in the folders in it, by the name of their folder."""
  folders = [path, *(p for p in sorted(path.iterdir()) if p.is_dir())]
  return tuple(Case(p.resolve().name, (p,)) for p in folders if itk.is_dicom_series(p))


def channel_of(stem: str) -> tuple[str, int | None]:
  """Case name and channel number of a file name without ending, None for a name without.

  >>> channel_of("scan_0001"), channel_of("scan_2020"), channel_of("scan")
  (('scan', 1), ('scan_2020', None), ('scan', None))
  """
  match = re.fullmatch(r"(.+)_(\d{4})", stem)
  if match is None or int(match.group(2)) >= _MOST_CHANNELS:
    return stem, None
  return match.group(1), int(match.group(2))


def _split(path: pathlib.Path) -> tuple[str, int | None]:
  return channel_of(path.name[: -len(formats.ending_of(path) or "")])


def _check_channel_names(folder: pathlib.Path, preprocess: Preprocessing) -> None:
  for path in (folder / "dataset.json", folder.parent / "dataset.json"):
    if not path.is_file():
      continue
    try:
      listed = json.loads(path.read_text(encoding="utf-8")).get("channel_names", {})
      names = tuple(str(listed[str(i)]) for i in range(len(listed)))
    except (ValueError, KeyError, AttributeError):
      continue  # not nnU-Net's: nothing to compare
    if names and tuple(n.lower() for n in names) != tuple(
      n.lower() for n in preprocess.channel_names
    ):
      raise InputError(
        f"the channels that the network was trained on, {list(preprocess.channel_names)}",
        f"{list(names)} in {path}",
        "give the images of training's modalities, in its order, or correct dataset.json",
      )
    return
