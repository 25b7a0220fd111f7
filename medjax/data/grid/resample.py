"""Resampling to a stated voxel size.

The new grid has the requested spacing exactly and the same centre in world coordinates as the old
one; its field of view is rounded to whole voxels. There is no low-pass filter: coarsening by more
than about two aliases fine texture, as it does in nnU-Net's own resampling.
"""

from collections.abc import Sequence

import numpy as np

from medjax.check import one_of, positive, require, same_shape
from medjax.data.formats.volume import Volume


def resample(volume: Volume, spacing: Sequence[float | int], *, order: int = 1) -> Volume:
  """Interpolates a volume on a grid of another voxel size.

  Args:
    volume: [*space] or [*space, channel].
    spacing: voxel size in mm, one per spatial axis.
    order: 1 (linear, for images) or 0 (nearest, for labels; the type is kept).
  Returns:
    Volume of shape round(old shape * old spacing / new spacing), at least 1 voxel an axis. Values
    beyond the outermost old voxel centres repeat them. A volume that has this spacing is returned
    as it is.
  Raises:
    InputError: a spacing that is not positive or has another length than the volume's.
  """
  one_of("order", order, (0, 1))
  require(
    len(spacing) == len(volume.spacing),
    f"spacing with {len(volume.spacing)} entries",
    f"{tuple(spacing)}",
    "give one voxel size in mm per spatial axis",
  )
  for size in spacing:
    positive("spacing", float(size))
  grid = _grid(volume, spacing)
  if grid is None:
    return volume
  ratio, offset, new = grid

  array = volume.array
  if order == 1 and array.dtype.kind != "f":
    array = array.astype(np.float32)
  array = _interpolated(array, ratio, offset, new, order)
  return Volume(array, _moved(volume.affine, ratio, offset), tuple(float(s) for s in spacing))


def resample_back(
  values: np.ndarray, volume: Volume, spacing: Sequence[float | int] | None
) -> np.ndarray:
  """Values on the grid of `resample(volume, spacing)`, linearly interpolated on that of `volume`.

  Args:
    values: [*new space, channel] float.
    volume: gives grid and voxel size; its values are not read.
    spacing: what `resample` was given; None: nothing was resampled.
  Returns:
    [*space, channel]; `values` itself if the grids are one.
  Raises:
    InputError: `values` are not on that grid.
  """
  grid = None if spacing is None else _grid(volume, spacing)
  new = volume.space if grid is None else grid[2]
  same_shape("values", values.shape[:-1], "the resampled grid", new)
  if grid is None:
    return values
  ratio, offset, _ = grid
  return _interpolated(values, 1 / ratio, -offset / ratio, volume.space, 1)


def _grid(
  volume: Volume, spacing: Sequence[float | int]
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]] | None:
  """(ratio, offset, new shape): voxel v lies at old ratio * v + offset. None: nothing changes."""
  ratio = np.asarray(spacing, np.float64) / np.asarray(volume.spacing, np.float64)
  if np.allclose(ratio, 1.0, rtol=0, atol=1e-4):
    return None
  old = np.asarray(volume.space)
  new = np.maximum(np.floor(old / ratio + 0.5), 1).astype(int)
  return ratio, (old - 1) / 2 - ratio * (new - 1) / 2, tuple(int(n) for n in new)


def _interpolated(
  array: np.ndarray, ratio: np.ndarray, offset: np.ndarray, shape: Sequence[int], order: int
) -> np.ndarray:
  from scipy import ndimage

  def one(channel: np.ndarray) -> np.ndarray:
    return ndimage.affine_transform(
      channel, ratio, offset, output_shape=tuple(shape), order=order, mode="nearest"
    )

  if array.ndim == len(ratio):
    return one(array)
  return np.stack([one(array[..., c]) for c in range(array.shape[-1])], axis=-1)


def _moved(affine: np.ndarray | None, ratio: np.ndarray, offset: np.ndarray) -> np.ndarray | None:
  """Affine of the grid whose voxel v lies at old voxel coordinates ratio * v + offset."""
  if affine is None:
    return None
  step = np.eye(4)
  num_axes = len(ratio)
  step[range(num_axes), range(num_axes)] = ratio
  step[:num_axes, 3] = offset
  return affine @ step
