"""Crops and pads to one shape without losing the place in space."""

from collections.abc import Sequence

import numpy as np

from medjax.check import given, one_of, require
from medjax.types import Example


def fit_to_shape(array: np.ndarray, shape: Sequence[int], fill: float | int = 0) -> np.ndarray:
  """Centre-crops and centre-pads the leading axes to `shape`.

  Args:
    array: [*space] or [*space, channel]; trailing axes are kept.
    shape: wanted size of the first `len(shape)` axes.
    fill: value of padded voxels.
  """
  starts = [_centred(old, new) for old, new in zip(array.shape, shape, strict=False)]
  return _window(array, starts, shape, fill)


def to_shape(
  example: Example,
  shape: Sequence[int],
  *,
  centre: str = "grid",
  image_fill: float | int = 0.0,
  label_fill: int = 0,
) -> Example:
  """Brings image and label to `shape` and moves the affine along.

  Args:
    example: its spatial axes number `len(shape)`.
    shape: voxels per spatial axis.
    centre: "grid" keeps the middle; "foreground" centres the window on the mean position of labels
      above 0 as far as the grid reaches, and on the middle where there are none.
    image_fill: value of padded voxels in the image.
    label_fill: class of padded voxels.
  Raises:
    InputError: another number of axes, or centre="foreground" without a label map.
  """
  one_of("centre", centre, ("grid", "foreground"))
  space = space_of(example)
  require(
    len(space) == len(shape) and min(shape, default=0) > 0,
    f"a shape of {len(space)} positive sizes for case {example.name}",
    f"{tuple(shape)}",
    "give one size per spatial axis",
  )
  starts = [_centred(old, new) for old, new in zip(space, shape, strict=True)]
  if centre == "foreground":
    label = given(example.label, f"a label map in case {example.name}", 'use centre="grid"')
    require(label.ndim > 0, f"a label map in case {example.name}", "a class", 'use centre="grid"')
    where = np.argwhere(label > 0)
    if len(where):
      for axis, middle in enumerate(where.mean(axis=0)):
        old, new = space[axis], shape[axis]
        if new < old:
          starts[axis] = int(np.clip(round(middle - (new - 1) / 2), 0, old - new))
  affine = example.affine
  if affine is not None:
    affine = affine.copy()
    affine[:3, 3] += affine[:3, : len(starts)] @ np.asarray(starts, np.float64)
  image, label = example.image, example.label
  return example.replace(
    image=None if image is None else _window(image, starts, shape, image_fill),
    label=label if label is None or label.ndim == 0 else _window(label, starts, shape, label_fill),
    affine=affine,
  )


def space_of(example: Example) -> tuple[int, ...]:
  """Spatial shape of a case."""
  if example.image is not None:
    return example.image.shape[:-1]
  return () if example.label is None else example.label.shape


def _centred(old: int, new: int) -> int:
  """Start of the window in old voxels; negative where it pads. Odd rests go to the far end."""
  return (old - new) // 2 if old >= new else -((new - old) // 2)


def _window(
  array: np.ndarray, starts: Sequence[int], shape: Sequence[int], fill: float | int
) -> np.ndarray:
  result = np.full((*shape, *array.shape[len(shape) :]), fill, array.dtype)
  source, target = [], []
  for start, new, old in zip(starts, shape, array.shape, strict=False):
    low, high = max(start, 0), min(start + new, old)
    source.append(slice(low, high))
    target.append(slice(low - start, high - start))
  result[tuple(target)] = array[tuple(source)]
  return result
