"""An array with its place in space: what the file readers return and the resampler works on."""

import itertools
from typing import Any, NamedTuple

import numpy as np

from medjax.check import require, same_shape

GRID_TOLERANCE = 0.1
"""Of the smallest voxel size: how far the corners of two grids may lie apart that count as one.

Headers are rounded (to float32, or to four decimals of a millimetre by some programs), which moves
the far corner of 512 voxels by about .01 mm. A tenth of a voxel moves no label to its neighbour."""


class Volume(NamedTuple):
  """A grid of values.

  Attributes:
    array: [*space] or [*space, channel]; the number of spatial axes is `len(spacing)`.
    affine: [4, 4] voxel -> RAS millimetres, or None for formats without geometry (PNG).
    spacing: voxel size in mm, one per spatial axis; 1.0 where the format has none.
    file: what the header of the file says beyond that, for the writer of the same format alone;
      None where the array has left the grid of its file.
  """

  array: np.ndarray
  affine: np.ndarray | None
  spacing: tuple[float, ...]
  file: Any = None

  @property
  def space(self) -> tuple[int, ...]:
    """Shape of the spatial axes."""
    return self.array.shape[: len(self.spacing)]


def check_values(array: np.ndarray, where: str) -> None:
  """Refuses values that are no real numbers, NaN and infinity; every reader of volumes calls it."""
  require(
    array.dtype.kind in "biuf",
    f"real voxel values in {where}",
    f"type {array.dtype}",
    "convert colour or complex data to scalar channels",
  )
  if array.dtype.kind == "f":
    num_bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    require(
      num_bad == 0,
      f"finite voxels in {where}",
      f"{num_bad} NaN or infinite of {array.size}",
      "replace them, for example by 0",
    )


def check_same_grid(name: str, volume: Volume, other_name: str, other: Volume) -> None:
  """Refuses two volumes whose voxels do not lie in the same places.

  The eight corners of both fields of view are compared in millimetres, since an error of an entry
  of the affine grows with the number of voxels that it is multiplied by. Volumes without geometry
  (PNG) are compared by their shapes alone.

  Args:
    name, other_name: the files, for the error.
    volume, other: what was read from them; channels do not count.
  Raises:
    InputError: other shapes, or a corner further apart than `GRID_TOLERANCE` times the smallest
      voxel size.
  """
  same_shape(name, volume.space, other_name, other.space)
  if volume.affine is None or other.affine is None:
    return
  apart = corner_distance(volume.space, volume.affine, other.affine)
  allowed = GRID_TOLERANCE * min(volume.spacing)
  require(
    apart <= allowed,
    f"{name} and {other_name} on one grid, corners at most {allowed:.3g} mm apart",
    f"{apart:.3g} mm, affines {_rows(volume.affine)} and {_rows(other.affine)}",
    "resample one onto the other's grid",
  )


def corner_distance(space: tuple[int, ...], affine: np.ndarray, other: np.ndarray) -> float:
  """Largest distance in mm between the corners of one array under two affines."""
  # Corners are the outer edges of the voxels, so that one slice has a thickness and a direction.
  ends = [(-0.5, size - 0.5) for size in space] + [(-0.5, 0.5)] * (3 - len(space))
  corners = np.array([(*corner, 1.0) for corner in itertools.product(*ends)])
  return float(np.linalg.norm(corners @ (affine - other)[:3].T, axis=1).max())


def _rows(affine: np.ndarray) -> list:
  return affine[:3].round(4).tolist()
