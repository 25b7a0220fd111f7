"""From two label maps to the distances between their surfaces, each class once.

The surface of a mask is either of
  voxel   its voxels with a face neighbour outside; beyond the image is outside (medpy, MONAI);
  surfel  the elements between voxels with their area, see `surfels` (DeepMind's surface-distance).

and a distance is that from one point of a surface to the nearest point of the other, in mm.

Under jit or vmap the distances are maps over the whole image. With concrete arrays each class is
cut to the box that holds both masks, the box is rounded up to one of few shapes so that few
programs are compiled, and distances are taken at the points of the surfaces only.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer

from medjax import check, labels
from medjax.metrics import surfels
from medjax.ops.distance_transform import distance_at, distance_transform
from medjax.types import IGNORE, Number, Numbers

SurfaceKind = Literal["voxel", "surfel"]
LabelMap = Integer[Array | np.ndarray, "..."]
EMPTY = ("nan", "inf", "diagonal")


class Side(NamedTuple):
  """Points of one surface.

  Attributes:
    distance: [point] mm to the other surface, inf where that is empty.
    weight: [point] 1 (voxel, int32) or size in mm^(d - 1) (surfel, float32); 0 marks filling.
  """

  distance: jax.Array | np.ndarray
  weight: jax.Array | np.ndarray


class Surfaces(NamedTuple):
  """Both directions: points of the prediction to the target and back."""

  prediction: Side
  target: Side


class Cropped(NamedTuple):
  """`Surfaces` of one class, and where their points lie.

  Attributes:
    surfaces: both directions.
    points: [2, point] positions in the flattened box, of prediction and target.
    shape: shape of the box, axes in `order`.
    order: axis of the image that each axis of the box is.
    origin: origin of the box in the image.
    counts: voxels in prediction, target and both.
  """

  surfaces: Surfaces
  points: np.ndarray
  shape: tuple[int, ...]
  order: tuple[int, ...]
  origin: tuple[int, ...]
  counts: tuple[int, int, int]

  def position(self, side: int, point: int) -> tuple[int, ...]:
    """Of a point (side 0: prediction): voxel of the image, or cell that ends at this voxel."""
    place = np.unravel_index(self.points[side, point], self.shape)
    found = dict(zip(self.order, place, strict=True))
    return tuple(int(found[axis]) + start for axis, start in enumerate(self.origin))


def per_class(
  measure: Callable[..., jax.Array],
  *args: Any,
  prediction: Array | np.ndarray,
  target: Array | np.ndarray,
  num_classes: int,
  spacing: Numbers,
  kind: SurfaceKind,
  include_background: bool,
) -> jax.Array:
  """`measure(surfaces, *args)` of every class, [class] float32.

  Raises:
    InputError: shapes that differ, labels that are no class (NaN under jit), spacing without one
      positive length an axis.
  """
  truth = labels.of_classes("target", target, num_classes)
  found = labels.of_classes(
    "prediction", prediction, num_classes, shape=target.shape, other="the target", lowest=0
  )
  prediction, target = found.ids, truth.ids
  check_spacing(spacing, prediction.ndim)
  first = 0 if include_background else 1
  if any(isinstance(x, jax.core.Tracer) for x in (prediction, target, *jax.tree.leaves(spacing))):

    def of_class(k: jax.Array) -> jax.Array:
      masks = (prediction == k) & (target != IGNORE), target == k
      return measure(_whole(masks, spacing, kind), *args)

    values = jax.lax.map(of_class, jnp.arange(first, num_classes))
    return found.checked(truth.checked(values))
  compiled = _jitted(measure)
  masks = class_masks(prediction, target, range(first, num_classes))
  values = [compiled(crop(pair, spacing, kind).surfaces, *args) for pair in masks]
  return jnp.stack(values) if values else jnp.zeros(0)


def check_spacing(spacing: Numbers, axes: int) -> None:
  """Raises InputError unless there is one length an axis, positive where it is known."""
  check.require(
    jnp.asarray(spacing).shape == (axes,),
    f"spacing in mm of {axes} axes",
    f"{spacing}",
    "give one length an axis",
  )
  if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(spacing)):
    check.require(
      all(0 < float(s) < math.inf for s in spacing),
      "positive spacing in mm",
      f"{spacing}",
      "read it from the header of the image",
    )


def class_masks(
  prediction: Array | np.ndarray, target: Array | np.ndarray, classes: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Masks of each class on the host; voxels to be ignored are in neither."""
  # In int32 an unsigned 255 is no IGNORE, and IGNORE can be written into an unsigned prediction.
  prediction, target = np.asarray(prediction, np.int32), np.asarray(target, np.int32)
  unknown = target == IGNORE
  if unknown.any():
    prediction = np.where(unknown, IGNORE, prediction)
  for k in classes:
    yield prediction == k, target == k


def settle(value: jax.Array, surfaces: Surfaces, otherwise: Number) -> jax.Array:
  """`value` where both surfaces exist, `otherwise` where one does, NaN where none does."""
  has = [(side.weight > 0).any() for side in surfaces]
  either = jnp.where(has[0] | has[1], otherwise, jnp.nan)
  return jnp.where(has[0] & has[1], value, either).astype(jnp.float32)


def of_missed(empty: str, shape: Sequence[int], spacing: Numbers) -> jax.Array:
  """Distance in mm that stands for a mask that is missing; the diagonal is the image's."""
  check.one_of("empty", empty, EMPTY)
  if empty != "diagonal":
    return jnp.float32(jnp.nan if empty == "nan" else jnp.inf)
  lengths = jnp.asarray(spacing, jnp.float32) * jnp.asarray(shape, jnp.float32)
  return jnp.sqrt((lengths**2).sum())


def crop(masks: tuple[np.ndarray, np.ndarray], spacing: Numbers, kind: SurfaceKind) -> Cropped:
  """Surfaces of two masks on the host, at their points."""
  either = masks[0] | masks[1]
  axes = either.ndim
  slices = [_extent(either, axis) for axis in range(axes)]
  # The order that the transform works in; one for all images, so that they share programs.
  by_size = sorted(range(axes), key=lambda axis: slices[axis].stop - slices[axis].start)
  order = (by_size[-1], *by_size[:-1])
  parts = [mask[tuple(slices)].transpose(order) for mask in masks]
  lengths = [float(spacing[axis]) for axis in order]
  found = [_points(np.pad(part, 1), lengths, kind) for part in parts]
  shape = tuple(_bucket(n) for n in found[0].where.shape)
  box = np.zeros((2, *shape), bool)
  points = np.zeros((2, _power(max(len(own.weight) for own in found))), np.int32)
  weights = np.zeros(points.shape, found[0].weight.dtype)
  for side, own in enumerate(found):
    box[side][tuple(slice(n) for n in own.where.shape)] = own.where
    points[side, : len(own.weight)] = np.flatnonzero(box[side])
    weights[side, : len(own.weight)] = own.weight
  spacing = jnp.asarray(lengths, jnp.float32)
  distances = [distance_at(box[1 - side], points[side], spacing=spacing) for side in (0, 1)]
  sides = [Side(d, w) for d, w in zip(distances, weights, strict=True)]
  first, second = (int(np.count_nonzero(part)) for part in parts)
  counts = first, second, int(np.count_nonzero(parts[0] & parts[1]))
  origin = tuple(s.start for s in slices)
  return Cropped(Surfaces(*sides), points, shape, order, origin, counts)


class _Points(NamedTuple):
  """A surface: `where` it is, [*box], and the weight of its points in the order of the box."""

  where: np.ndarray
  weight: np.ndarray


def _points(padded: np.ndarray, spacing: Sequence[float], kind: SurfaceKind) -> _Points:
  if kind == "voxel":
    where = boundary(padded)
    return _Points(where, np.ones(np.count_nonzero(where), np.int32))
  code = surfels.corner_codes(padded.astype(np.uint8))
  where = (code > 0) & (code < 2 ** (2**padded.ndim) - 1)
  return _Points(where, np.asarray(_sizes_by_code(padded.ndim, jnp.asarray(spacing)))[code[where]])


def _whole(masks: Sequence[jax.Array], spacing: Numbers, kind: SurfaceKind) -> Surfaces:
  """Surfaces of two masks as maps over all of the image."""
  weights = [_weights(mask, spacing, kind) for mask in masks]
  return Surfaces(
    *(
      Side(distance_transform(other > 0, spacing=spacing).ravel(), own.ravel())
      for own, other in zip(weights, weights[::-1], strict=True)
    )
  )


def _weights(mask: jax.Array, spacing: Numbers, kind: SurfaceKind) -> jax.Array:
  """Weight of the surface at each voxel or cell."""
  if kind == "surfel":
    return surfels.surfel_sizes(mask, spacing=spacing)
  return boundary(jnp.pad(mask, 1)).astype(jnp.int32)


def boundary(padded: Any) -> Any:
  """Voxels of a mask with a face neighbour outside, from the mask with one voxel more around it.

  Works on NumPy and JAX arrays alike.
  """
  middle = (slice(1, -1),) * padded.ndim
  inner = padded[middle]
  for axis in range(padded.ndim):
    for neighbour in (slice(None, -2), slice(2, None)):
      inner = inner & padded[(*middle[:axis], neighbour, *middle[axis + 1 :])]
  return padded[middle] & ~inner


_sizes_by_code = jax.jit(surfels.sizes_by_code, static_argnums=0)
_jitted = functools.cache(jax.jit)


def _extent(mask: np.ndarray, axis: int) -> slice:
  """From the first to the last voxel of a mask along an axis; one voxel if it is empty."""
  other = tuple(a for a in range(mask.ndim) if a != axis)
  found = np.flatnonzero(mask.any(other))
  return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 1)


def _bucket(size: int) -> int:
  """Next of few sizes: 8, 16, 32, 48, 64, 96, 128, 192, ...: two an octave from 32 on.

  Every box shape is a program of some seconds to compile. Of 1,000 random boxes of 5 to 200 voxels
  an axis there are 127 shapes, with 1.7 voxels computed for each that is needed; four sizes an
  octave gave 284 shapes and 1.3 voxels.
  """
  above = _power(size, 8)
  between = above * 3 // 4
  return between if above > 32 and size <= between else above


def _power(size: int, least: int = 4096) -> int:
  """Next power of two."""
  return max(least, 1 << (size - 1).bit_length())
