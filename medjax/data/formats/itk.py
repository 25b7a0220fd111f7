"""NRRD and MetaImage files and DICOM series; the only file that imports SimpleITK (extra `itk`).

ITK counts millimetres to the left, posterior and superior (LPS) and gives arrays [z, y, x]; here
they become [x, y, z] with an affine to RAS, as from `nifti`.
"""

import importlib
import os
import pathlib
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from medjax import files
from medjax.check import InputError, existing_file, existing_folder, require
from medjax.data.formats.volume import Volume, check_values

SUFFIXES = (".nrrd", ".mha", ".mhd")
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_STEP_TOLERANCE = 0.01  # relative difference between slice distances that rounding explains


class _File(NamedTuple):
  """Geometry of a file in ITK's terms."""

  spacing: tuple[float, ...]
  origin: tuple[float, ...]
  direction: tuple[float, ...]
  space: tuple[int, ...]


def read_itk(path: str | os.PathLike) -> Volume:
  """Reads a .nrrd, .mha or .mhd file: [x, y, z] or, with vectors as voxels, [x, y, z, channel].

  Raises:
    InputError: naming the file, when it is missing or damaged, is not of three axes, or holds NaN
      or infinity; SimpleITK is not installed.
  """
  path = existing_file(path)
  sitk = _library()
  try:
    image = sitk.ReadImage(str(path))
  except RuntimeError as error:
    raise _damaged(path, error) from error
  return _volume(image, str(path))


def read_num_channels(path: str | os.PathLike) -> int:
  """Channels of a file, from its header."""
  sitk = _library()
  reader = sitk.ImageFileReader()
  reader.SetFileName(str(path))
  try:
    reader.ReadImageInformation()
  except RuntimeError as error:
    raise _damaged(pathlib.Path(path), error) from error
  return int(reader.GetNumberOfComponents())


def is_dicom_series(folder: str | os.PathLike) -> bool:
  """Whether a folder holds a file of a DICOM series; False without SimpleITK."""
  folder = pathlib.Path(folder)
  if not folder.is_dir() or not any(_is_dicom(path) for path in sorted(folder.iterdir())):
    return False
  return bool(_library().ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def read_dicom_series(folder: str | os.PathLike) -> Volume:
  """Reads the one series in a folder, its slices in the order of their positions.

  Values are those of the modality (Hounsfield units for CT). The distance between slices is that of
  their positions; a tilted gantry gives slanted axes.

  Raises:
    InputError: naming the folder, when it holds no series or several, slices of one position (a
      series of several times or contrasts), or slices at uneven distances (one is missing).
  """
  folder = existing_folder(folder)
  sitk = _library()
  series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
  require(
    len(series) == 1,
    f"one DICOM series in {folder}",
    f"{len(series)}",
    "put each series into a folder of its own",
  )
  names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
  positions = _positions(sitk, names)
  reader = sitk.ImageSeriesReader()
  reader.SetFileNames(names)
  try:
    image = reader.Execute()
  except RuntimeError as error:
    raise _damaged(folder, error) from error
  volume = _volume(image, str(folder))
  assert volume.affine is not None
  if len(names) == 1:
    return volume._replace(file=None)
  # The slices' own positions: ITK stacks them along the normal, and loses the tilt of a gantry.
  steps = np.diff(positions, axis=0)
  step = steps.mean(axis=0)
  uneven = float(np.linalg.norm(steps - step, axis=1).max())
  size = float(np.linalg.norm(step))
  require(
    uneven <= _STEP_TOLERANCE * size,
    f"slices of {folder} at even distances",
    f"{np.linalg.norm(steps, axis=1).min():.4g} to {np.linalg.norm(steps, axis=1).max():.4g} mm",
    "add the slices that are missing, or part the series by time or contrast",
  )
  affine = volume.affine.copy()
  affine[:3, 2], affine[:3, 3] = (_TO_RAS[:3, :3] @ v for v in (step, positions[0]))
  return Volume(volume.array, affine, (*volume.spacing[:2], size))


def write_like(path: str | os.PathLike, array: np.ndarray, like: Volume) -> None:
  """Writes [x, y, z] or [x, y, z, channel] with the geometry of a file that `read_itk` read.

  The type is as in `nifti.write_nifti`; texts of the file stay behind.

  Raises:
    InputError: the array is not on that grid, or `like` is of another format.
  """
  source = like.file
  if not isinstance(source, _File):
    raise InputError("a volume read from a NRRD or MetaImage file", "another", "write NIfTI")
  require(
    array.shape[:3] == source.space,
    f"an array on the grid of the file that {path} is like, {source.space}",
    f"shape {array.shape}",
    "restore it to the grid of the file first",
  )
  sitk = _library()
  axes = (2, 1, 0, 3)[: array.ndim]
  stored = np.ascontiguousarray(array.transpose(axes))
  image = sitk.GetImageFromArray(stored, isVector=array.ndim == 4)
  image.SetSpacing(source.spacing)
  image.SetOrigin(source.origin)
  image.SetDirection(source.direction)
  path = pathlib.Path(path)
  with files.replacing(path, suffix=path.suffix.lower()) as temporary:
    sitk.WriteImage(image, str(temporary), True)


def _volume(image: Any, where: str) -> Volume:
  sitk = _library()
  require(
    image.GetDimension() == 3,
    f"three axes in {where}",
    f"{image.GetDimension()}",
    "store one volume a file",
  )
  array = sitk.GetArrayFromImage(image)
  array = np.ascontiguousarray(array.transpose((2, 1, 0, 3)[: array.ndim]))
  check_values(array, where)
  spacing = tuple(float(size) for size in image.GetSpacing())
  affine = np.eye(4)
  affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * spacing
  affine[:3, 3] = image.GetOrigin()
  file = _File(image.GetSpacing(), image.GetOrigin(), image.GetDirection(), array.shape[:3])
  return Volume(array, _TO_RAS @ affine, spacing, file)


def _positions(sitk: ModuleType, names: Any) -> np.ndarray:
  """Position of the first voxel of each slice in mm, LPS, [slice, 3]."""
  reader = sitk.ImageFileReader()
  found = []
  for name in names:
    reader.SetFileName(name)
    try:
      reader.ReadImageInformation()
    except RuntimeError as error:
      raise _damaged(pathlib.Path(name), error) from error
    found.append(reader.GetOrigin()[:3])
  return np.asarray(found, np.float64)


def _is_dicom(path: pathlib.Path) -> bool:
  """Whether a file has the preamble of DICOM, or at least its ending."""
  if not path.is_file():
    return False
  if path.suffix.lower() in (".dcm", ".ima"):
    return True
  try:
    with open(path, "rb") as file:
      return file.read(132)[128:] == b"DICM"
  except OSError:
    return False


def _damaged(path: pathlib.Path, error: Exception) -> InputError:
  reason = " ".join(str(error).split())[-120:]
  return InputError(f"a readable file {path}", f"a damaged one ({reason})", "copy it again")


def _library() -> ModuleType:
  try:
    return importlib.import_module("SimpleITK")
  except ImportError as error:
    raise InputError(
      "the library SimpleITK for DICOM, NRRD and MetaImage files",
      "none installed",
      "pip install 'medjax[itk]'",
    ) from error
