"""NIfTI files in and out, with orientation and voxel size; the only file that imports nibabel.

Arrays keep nibabel's axis order. After `to_ras` the first axis runs from left to Right, the second
from posterior to Anterior and the third from inferior to Superior, so `array[i, j, k]` is the voxel
at `affine @ (i, j, k, 1)` millimetres in RAS.

Headers that can be read in more than one way are read by these rules, each with a
`GeometryWarning` that names the file:

- sform and qform disagree by more than a tenth of a voxel: the sform counts, as in nibabel and in
  nnU-Net's NibabelIO; programs built on ITK may take the qform.
- neither sform nor qform is set: axes are taken as right, anterior and superior in the order of
  the file, from the origin, so that `to_ras` changes nothing. nibabel alone would mirror the first
  axis.
- the axes are not orthogonal (a tilted gantry, a shear): voxels and affine stay as they are;
  lengths in mm treat the axes as orthogonal.
"""

import gzip
import os
import pathlib
import warnings
import zlib
from typing import Any, NamedTuple

import numpy as np

from medjax import files
from medjax.check import InputError, existing_file, require
from medjax.data.formats.volume import GRID_TOLERANCE, Volume, check_values, corner_distance

SUFFIXES = (".nii.gz", ".nii")
"""Endings of NIfTI files; every room takes them in any case, as some exports write .NII.GZ."""
_LONGEST_HEADER = 540  # bytes, of NIfTI-2
_SPACING_TOLERANCE = 0.01  # relative difference of header and affine that rounding explains
_SHEAR_TOLERANCE = 0.01  # cosine between two axes that rounding explains: half a degree


class _File(NamedTuple):
  """What `write_like` keeps of a file."""

  image_class: Any
  header: Any
  affine: np.ndarray  # nibabel's, in 64 bits
  space: tuple[int, ...]


class GeometryWarning(UserWarning):
  """A header says where the voxels lie in two ways or not at all; see the rules of this module."""


def read_nifti(path: str | os.PathLike) -> Volume:
  """Reads a volume in the orientation of the file.

  Args:
    path: file ending in .nii or .nii.gz; the checksum of a .gz file is verified.
  Returns:
    Volume with array [x, y, z] (a 2D file gets a last axis of length 1) or [x, y, z, channel] for a
    4D file, in the type of the file (float64 where the header scales the values), and its spacing
    in mm.
  Raises:
    InputError: naming the file, when it is missing, has another suffix, is truncated or corrupt,
      is not in millimetres, has a spacing that is not positive or disagrees with its affine, or
      holds NaN or infinity.
  """
  path = pathlib.Path(path)
  data = _read_bytes(path)
  image = _parse(path, data)
  shape = tuple(int(n) for n in image.shape)
  require(
    2 <= len(shape) <= 4 and all(shape),
    f"a non-empty volume of 2 to 4 axes in {path}",
    f"shape {shape}",
    "store one volume or one [x, y, z, channel] array a file",
  )
  spacing, affine = _geometry(path, image, len(shape))
  try:
    array = np.asanyarray(image.dataobj)
  except (OSError, EOFError, ValueError) as error:
    raise _corrupt(path, error) from error
  check_values(array, str(path))
  if array.ndim == 2:
    array = array[..., None]
  return Volume(array, affine, spacing, _File(type(image), image.header, image.affine, shape[:3]))


def read_shape(path: str | os.PathLike) -> tuple[int, ...]:
  """Shape in the header of a NIfTI file; the voxels are not read."""
  path = pathlib.Path(path)
  header = _header(path, _read_bytes(path, _LONGEST_HEADER))
  return tuple(int(n) for n in header.get_data_shape())


def stem(path: str | os.PathLike) -> str:
  """Name of a NIfTI file without its ending.

  >>> stem("scans/a.NII.GZ")
  'a'
  """
  path = pathlib.Path(path)
  return path.name[: -len(_suffix(path))]


def to_ras(volume: Volume) -> Volume:
  """Flips and swaps axes until they point closest to right, anterior and superior.

  No value is interpolated: the oblique part of the affine stays, and every voxel keeps its world
  coordinates.
  """
  from nibabel import orientations

  affine = volume.affine
  if affine is None:
    return volume
  orientation = orientations.io_orientation(affine)
  space = volume.space
  array = np.ascontiguousarray(orientations.apply_orientation(volume.array, orientation))
  affine = affine @ orientations.inv_ornt_aff(orientation, space)
  spacing = [0.0] * 3
  for source, (target, _) in enumerate(orientation):
    spacing[int(target)] = volume.spacing[source]
  return Volume(array, affine, tuple(spacing))


def from_ras(array: np.ndarray, affine: np.ndarray | None) -> np.ndarray:
  """Undoes `to_ras`: an array [right, anterior, superior, ...] with the axes of a file.

  `affine` is that of the file; None, as for PNG, changes nothing. No value is interpolated.
  """
  from nibabel import orientations

  if affine is None:
    return array
  orientation = orientations.io_orientation(affine)
  for target, direction in orientation:
    if direction < 0:
      array = np.flip(array, int(target))
  order = [int(target) for target, _ in orientation]
  return np.ascontiguousarray(array.transpose(*order, *range(3, array.ndim)))


def write_like(
  path: str | os.PathLike, array: np.ndarray, like: Volume | str | os.PathLike
) -> None:
  """Writes [x, y, z] or [x, y, z, channel] with the geometry of another file, bit for bit.

  Affine, sform and qform with their codes, the units and the kind of NIfTI (1 or 2) are those of
  `like`; types as in `write_nifti`. Its texts, intent and extensions stay behind: they describe
  other values, or the person. An array of one slice is stored as a 2D image if `like` is one.

  Args:
    path: file to write.
    array: on the grid of `like`.
    like: what `read_nifti` returned, or a NIfTI file.
  Raises:
    InputError: the array is not on the grid of `like`; a volume of another format.
  """
  source = like.file if isinstance(like, Volume) else _file(pathlib.Path(like))
  if not isinstance(source, _File):
    raise InputError("a volume read from a NIfTI file", "another", "pass it to write_nifti")
  space = source.space
  if len(space) == 2 and array.shape[2:3] == (1,):
    array = array.squeeze(2)
  require(
    array.shape[: len(space)] == space,
    f"an array on the grid of the file that {path} is like, {space}",
    f"shape {array.shape}",
    "restore it to the grid of the file first",
  )
  stored = array.astype(_storage_type(array), copy=False)
  header = source.header.copy()
  header.set_data_dtype(stored.dtype)
  header.set_slope_inter(1.0, 0.0)
  header["cal_max"] = header["cal_min"] = 0
  header.set_intent("none")
  header.extensions.clear()
  for name in {"descrip", "aux_file", "db_name"} & set(header.keys()):
    header[name] = b""
  image = source.image_class(stored, source.affine, header)  # NIfTI-2 has affines in float64
  image.set_sform(*source.header.get_sform(coded=True))
  image.set_qform(*source.header.get_qform(coded=True))
  _save(image, pathlib.Path(path))


def _file(path: pathlib.Path) -> _File:
  data = _read_bytes(path, _LONGEST_HEADER)
  header = _header(path, data)
  space = tuple(int(n) for n in header.get_data_shape()[:3])
  return _File(_image_class(data), header, header.get_best_affine(), space)


def write_nifti(path: str | os.PathLike, array: np.ndarray, affine: np.ndarray) -> None:
  """Writes [x, y, z] or [x, y, z, channel] with its affine; the file appears whole or not at all.

  Integers are stored in the smallest of uint8, int16, int32 that holds them, floats as float32.
  """
  import nibabel

  stored = array.astype(_storage_type(array), copy=False)
  _save(nibabel.Nifti1Image(stored, np.asarray(affine, np.float64)), pathlib.Path(path))


def _save(image: Any, path: pathlib.Path) -> None:
  """Whole or not at all."""
  import nibabel

  with files.replacing(path, suffix=_suffix(path)) as temporary:
    nibabel.save(image, temporary)


def _storage_type(array: np.ndarray) -> type[np.generic]:
  if array.dtype.kind == "f":
    return np.float32
  low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
  for dtype in (np.uint8, np.int16, np.int32):
    if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
      return dtype
  return np.float32


def _suffix(path: pathlib.Path) -> str:
  for suffix in SUFFIXES:
    if path.name.lower().endswith(suffix):
      return suffix
  raise InputError(
    f"a file ending in {' or '.join(SUFFIXES)}", str(path), "convert or rename the file"
  )


def _corrupt(path: pathlib.Path, error: Exception) -> InputError:
  reason = " ".join(str(error).split())[:120] or type(error).__name__
  return InputError(f"a readable NIfTI file {path}", f"a damaged one ({reason})", "copy it again")


def _read_bytes(path: pathlib.Path, most: int = -1) -> bytes:
  """What is in a file, unpacked, or its first `most` bytes."""
  suffix = _suffix(path)
  existing_file(path)
  try:
    if most < 0 and suffix == ".nii.gz":
      return gzip.decompress(path.read_bytes())  # twice as fast as reading through gzip.open
    with gzip.open(path) if suffix == ".nii.gz" else open(path, "rb") as file:
      return file.read(most)
  except (OSError, EOFError, zlib.error) as error:
    raise _corrupt(path, error) from error


def _image_class(data: bytes) -> Any:
  """Of nibabel, for NIfTI-1 or NIfTI-2."""
  import nibabel

  is_second = data[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")  # 540: a NIfTI-2 header
  return nibabel.Nifti2Image if is_second else nibabel.Nifti1Image


def _header(path: pathlib.Path, data: bytes) -> Any:
  """The nibabel header, refused before nibabel repairs a spacing that is not positive."""
  from nibabel.filebasedimages import ImageFileError
  from nibabel.spatialimages import HeaderDataError
  from nibabel.wrapstruct import WrapStructError

  header_class = _image_class(data).header_class
  try:
    header = header_class(data[: header_class.sizeof_hdr], check=False)
    num_axes = int(header["dim"][0])
    pixdim = [float(size) for size in header["pixdim"][1 : 1 + min(num_axes, 3)]]
    if not 1 <= num_axes <= 7:
      raise HeaderDataError(f"header names {num_axes} axes")
  except (ImageFileError, HeaderDataError, WrapStructError, ValueError) as error:
    raise _corrupt(path, error) from error
  require(
    all(np.isfinite(size) and size > 0 for size in pixdim),
    f"positive voxel spacing in {path}",
    f"pixdim {tuple(pixdim)}",
    "correct the header",
  )
  return header


def _parse(path: pathlib.Path, data: bytes) -> Any:
  """The nibabel image."""
  from nibabel.filebasedimages import ImageFileError
  from nibabel.spatialimages import HeaderDataError

  _header(path, data)
  try:
    return _image_class(data).from_bytes(data)
  except (ImageFileError, HeaderDataError, ValueError, OSError, EOFError) as error:
    raise _corrupt(path, error) from error


def _geometry(
  path: pathlib.Path, image: Any, num_axes: int
) -> tuple[tuple[float, ...], np.ndarray]:
  """Spacing in mm and affine, checked against each other."""
  unit = image.header.get_xyzt_units()[0]
  require(
    unit in ("mm", "unknown"), f"millimetres in {path}", unit, "convert affine and unit to mm"
  )
  zooms = [float(size) for size in image.header.get_zooms()[:3]]
  affine = _affine(path, image, zooms)
  lengths = np.linalg.norm(affine[:3, :3], axis=0)
  require(
    np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-6 * lengths.prod() > 0,
    f"an invertible affine in {path}",
    str(affine[:3].round(4).tolist()),
    "correct the sform or qform of the header",
  )
  zooms += [float(size) for size in lengths[len(zooms) :]]
  checked = slice(0, min(num_axes, 3))
  require(
    np.allclose(zooms[checked], lengths[checked], rtol=_SPACING_TOLERANCE),
    f"header spacing and affine to agree in {path}",
    f"{tuple(round(z, 4) for z in zooms)} and {tuple(lengths.round(4).tolist())} mm",
    "correct the header",
  )
  cosines = affine[:3, :3].T @ affine[:3, :3] / np.outer(lengths, lengths)
  slant = float(np.abs(cosines - np.diag(np.diag(cosines))).max())
  if slant > _SHEAR_TOLERANCE:
    _warn(
      f"the axes of {path} stand {np.degrees(np.arccos(slant)):.1f} degrees to each other; lengths"
      " in mm treat them as orthogonal (resample the volume onto an upright grid to be exact)"
    )
  return tuple(zooms), affine


def _affine(path: pathlib.Path, image: Any, zooms: list[float]) -> np.ndarray:
  """The affine that the rules of this module choose."""
  sform, qform = image.header.get_sform(coded=True), _qform(path, image)
  if sform[1] == 0 and qform[1] == 0:
    _warn(f"{path} has neither sform nor qform; its axes are taken as right, anterior and superior")
    return np.diag([*zooms, *[1.0] * (3 - len(zooms)), 1.0])
  affine = np.asarray(image.affine, np.float64)
  if sform[1] and qform[1] and qform[0] is not None:
    apart = corner_distance(tuple(image.shape[:3]), affine, qform[0])
    if not apart <= GRID_TOLERANCE * min(zooms):
      _warn(f"sform and qform of {path} are {apart:.3g} mm apart; the sform counts")
  return affine


def _qform(path: pathlib.Path, image: Any) -> tuple[np.ndarray | None, int]:
  from nibabel.spatialimages import HeaderDataError

  try:
    return image.header.get_qform(coded=True)
  except (HeaderDataError, ValueError) as error:
    raise _corrupt(path, error) from error


def _warn(text: str) -> None:
  warnings.warn(text, GeometryWarning, stacklevel=2)
