"""A picture of where two masks disagree most: the slice through the worst voxel.

Grey is in both masks, blue in the prediction only, orange in the truth only. Reddened are surface
voxels farther from the other surface than the 95th percentile of all; a white frame marks the one
that decides the Hausdorff distance.
"""

from collections.abc import Sequence

import jax
import numpy as np

from medjax.metrics import surfaces
from medjax.types import Numbers

LEGEND = (
  "Grey: in both; blue: prediction only; orange: truth only; reddened: surface voxels beyond the"
  " 95th percentile of the distances; white frame: the voxel that decides the Hausdorff distance."
)
_GROUND, _BOTH, _FAR, _FRAME = (16, 20, 27), (126, 134, 146), (226, 48, 38), (255, 255, 255)
_PREDICTION, _TRUTH = (86, 180, 233), (230, 159, 0)  # of Okabe and Ito
_MARGIN = 4  # voxels around the masks
_SIDE = 320  # pixels of the longer side, about


def worst_picture(
  prediction: jax.Array | np.ndarray,
  target: jax.Array | np.ndarray,
  *,
  class_id: int,
  spacing: Numbers,
  voxel: Sequence[int],
) -> np.ndarray:
  """The slice through `voxel` across the axis of coarsest spacing (2D: the image), on the host.

  Args:
    prediction, target: label maps [*space] of 2 or 3 axes.
    class_id: class id of the structure; it occurs in one of the maps.
    spacing: voxel size in mm; rows and columns are enlarged in its ratio.
    voxel: `report.Worst.voxel`.
  Returns:
    uint8 [height, width, 3] in the order of the axes, cut to the masks.
  """
  ((first, second),) = surfaces.class_masks(prediction, target, [class_id])
  far = _far(first, second, spacing)
  planes, place, sizes = [first, second, far], list(voxel), [float(s) for s in spacing]
  if first.ndim == 3:
    across = int(np.argmax(sizes))
    planes = [plane.take(voxel[across], axis=across) for plane in planes]
    del place[across], sizes[across]
  first, second, far = planes
  picture = np.empty((*first.shape, 3), np.uint8)
  picture[:] = _GROUND
  for inside, colour in (
    (first & second, _BOTH),
    (first & ~second, _PREDICTION),
    (second & ~first, _TRUTH),
  ):
    picture[inside] = colour
  picture[far] = 0.4 * picture[far] + 0.6 * np.array(_FAR)
  shown = first | second
  shown[tuple(place)] = True
  window = [_window(shown, axis) for axis in (0, 1)]
  picture = picture[tuple(window)]
  factors = _factors(picture.shape[:2], sizes)
  for axis, factor in enumerate(factors):
    picture = picture.repeat(factor, axis=axis)
  starts = [(p - w.start) * f for p, w, f in zip(place, window, factors, strict=True)]
  return _framed(picture, starts, factors)


def _far(first: np.ndarray, second: np.ndarray, spacing: Numbers) -> np.ndarray:
  """Surface voxels beyond the 95th percentile of both directions; all of a missing structure's."""
  cropped = surfaces.crop((first, second), spacing, "voxel")
  kept = [np.asarray(side.weight) > 0 for side in cropped.surfaces]
  values = [np.asarray(s.distance)[k] for s, k in zip(cropped.surfaces, kept, strict=True)]
  together = np.concatenate(values)
  # Where a structure is missing in one map all distances are infinite, and all voxels are far.
  found = np.isinf(together).all()
  limit = -1.0 if found else np.percentile(together, 95)
  far = np.zeros(first.shape, bool)
  for side, (own, distance) in enumerate(zip(kept, values, strict=True)):
    for point in np.flatnonzero(own)[distance > limit]:
      far[cropped.position(side, int(point))] = True
  return far


def _window(shown: np.ndarray, axis: int) -> slice:
  found = np.flatnonzero(shown.any(1 - axis))
  return slice(max(int(found[0]) - _MARGIN, 0), int(found[-1]) + 1 + _MARGIN)


def _factors(shape: Sequence[int], sizes: Sequence[float]) -> list[int]:
  """Pixels that a voxel becomes along each axis, so that the picture has the ratio of the body."""
  longest = max(n * s for n, s in zip(shape, sizes, strict=True))
  return [max(1, round(_SIDE * s / longest)) for s in sizes]


def _framed(picture: np.ndarray, starts: Sequence[int], factors: Sequence[int]) -> np.ndarray:
  """A frame two pixels wide around the voxel, as far as it fits."""
  outer = [slice(max(s - 3, 0), s + f + 3) for s, f in zip(starts, factors, strict=True)]
  inner = [slice(max(s - 1, 0), s + f + 1) for s, f in zip(starts, factors, strict=True)]
  kept = picture[tuple(inner)].copy()
  picture[tuple(outer)] = _FRAME
  picture[tuple(inner)] = kept
  return picture
