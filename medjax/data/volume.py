"""An array with its place in space: what the file readers return and the resampler works on."""

from typing import NamedTuple

import numpy as np


class Volume(NamedTuple):
  """A grid of values.

  Attributes:
    array: [*space] or [*space, channel]; the number of spatial axes is `len(spacing)`.
    affine: [4, 4] voxel -> RAS millimetres, or None for formats without geometry (PNG).
    spacing: voxel size in mm, one per spatial axis; 1.0 where the format has none.
  """

  array: np.ndarray
  affine: np.ndarray | None
  spacing: tuple[float, ...]

  @property
  def space(self) -> tuple[int, ...]:
    """Shape of the spatial axes."""
    return self.array.shape[: len(self.spacing)]
