"""Image files by their ending: the one table of formats that folders, predictions and metrics read.

Volumes (NIfTI, NRRD, MetaImage, a folder with a DICOM series) have a place in space, pictures (PNG)
have none.
"""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from medjax.check import InputError
from medjax.data.formats import itk, nifti, png
from medjax.data.formats.volume import Volume


class Format(NamedTuple):
  """How files of one ending are read and written.

  Attributes:
    read_image: `read_image(path)`, values [*space] or [*space, channel].
    read_labels: `read_labels(path)`, the same for a label map.
    num_channels: `num_channels(path)` from the header.
    write: `write(path, array, like)`, an array on the grid of the volume that was read.
    num_axes: spatial axes.
  """

  read_image: Callable[[pathlib.Path], Volume]
  read_labels: Callable[[pathlib.Path], Volume]
  num_channels: Callable[[pathlib.Path], int]
  write: Callable[[pathlib.Path, np.ndarray, Volume], None]
  num_axes: int


def _nifti_channels(path: pathlib.Path) -> int:
  shape = nifti.read_shape(path)
  return shape[3] if len(shape) == 4 else 1


def _write_nifti(path: pathlib.Path, array: np.ndarray, like: Volume) -> None:
  """With the header of the file that was read, or, from DICOM, with the affine alone."""
  if like.file is None and like.affine is not None:
    nifti.write_nifti(path, array, like.affine)
  else:
    nifti.write_like(path, array, like)


def _write_png(path: pathlib.Path, array: np.ndarray, like: Volume) -> None:
  del like
  png.write_png(path, array)


_NIFTI = Format(nifti.read_nifti, nifti.read_nifti, _nifti_channels, _write_nifti, 3)
_ITK = Format(itk.read_itk, itk.read_itk, itk.read_num_channels, itk.write_like, 3)
_PNG = Format(png.read_png, png.read_labels, png.read_num_channels, _write_png, 2)
_DICOM = Format(itk.read_dicom_series, itk.read_dicom_series, lambda path: 1, _write_nifti, 3)

FORMATS: dict[str, Format] = {
  **dict.fromkeys(nifti.SUFFIXES, _NIFTI),
  ".png": _PNG,
  **dict.fromkeys(itk.SUFFIXES, _ITK),
}
"""By the ending of the file, in lower case."""


def ending_of(path: str | os.PathLike) -> str | None:
  """The ending of a file among FORMATS, in lower case; None for another.

  >>> ending_of("scan.NII.GZ"), ending_of("notes.txt")
  ('.nii.gz', None)
  """
  name = pathlib.Path(path).name.lower()
  return next((ending for ending in FORMATS if name.endswith(ending)), None)


def format_of(path: str | os.PathLike) -> Format:
  """The format of a file, or of a folder with a DICOM series; raises InputError for another."""
  path = pathlib.Path(path)
  if path.is_dir():
    return _DICOM
  ending = ending_of(path)
  if ending is None:
    raise InputError(f"a file ending in {', '.join(FORMATS)}", str(path), "convert the file")
  return FORMATS[ending]


def without_channel_axis(volume: Volume, where: str) -> Volume:
  """A label map [*space]; an axis of one channel is dropped, more are refused naming `where`."""
  num_axes = len(volume.spacing)
  if volume.array.ndim == num_axes + 1 and volume.array.shape[-1] == 1:
    volume = volume._replace(array=volume.array[..., 0])
  if volume.array.ndim != num_axes:
    raise InputError(
      f"one label per voxel in {where}",
      f"shape {volume.array.shape}",
      "store class values, no colours, channels or probabilities",
    )
  return volume
