"""Distances between the surfaces of two label maps, per class, in mm.

With D_p the distances from the points of the prediction's surface to the target's, D_t those back:

  Hausdorff  max(max D_p, max D_t)
  ASSD       mean of D_p and D_t together
  HD95       pooled        95th percentile of D_p and D_t together              (medpy)
             max_directed  the larger of their two 95th percentiles             (MONAI)
             surfel        the same, weighted by the area of the points         (DeepMind)

The three HD95 differ by up to 57 % on one pair of masks, so say which one a table holds.
Percentiles of voxels are interpolated linearly; that of surfels is the least distance within which
95 % of the area lie. Sorting is not needed: order statistics are bisected on the floats' bits.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check
from medjax.metrics.surfaces import (
  LabelMap,
  Side,
  SurfaceKind,
  Surfaces,
  of_missed,
  per_class,
  settle,
)
from medjax.types import Number, Numbers

VARIANTS = ("pooled", "max_directed", "surfel")
_INFINITY = 0x7F800000  # bits of float32 infinity: distances lie below, in the order of their bits
_ROUNDING = 1e-6  # of float32 sums of areas


def hausdorff(
  prediction: LabelMap,
  target: LabelMap,
  *,
  num_classes: int,
  spacing: Numbers,
  empty: str = "nan",
  include_background: bool = False,
) -> Float[Array, " classes"]:
  """Hausdorff distance in mm of each class, [num_classes - 1] (background first if included).

  >>> a, b = jnp.zeros((2, 8, 8), int).at[0, 2, 2].set(1).at[1, 2, 5].set(1)
  >>> hausdorff(a, b, num_classes=2, spacing=(1.0, 0.5))
  Array([1.5], dtype=float32)

  Args:
    prediction, target: class ids on one grid of any number of axes; voxels whose target is
      `types.IGNORE` belong to neither map.
    num_classes: K, background included.
    spacing: voxel size in mm, one an axis; may be traced.
    empty: what stands for the distance of a class in only one of the maps: NaN, inf, or the
      diagonal of the image in mm. A class in neither is NaN always.
    include_background: also measure class 0.
  Raises:
    InputError: shapes that differ, spacing that is not positive, another `empty`.
  Guarantees: symmetric; scales with the spacing; under jit the same as with concrete arrays, which
    are cut to the masks first (see `surfaces`) and are much faster for it.
  """
  return _measured(
    hausdorff_of, prediction, target, num_classes, spacing, empty, include_background, "voxel"
  )


def hd95(
  prediction: LabelMap,
  target: LabelMap,
  *,
  num_classes: int,
  spacing: Numbers,
  variant: str = "pooled",
  empty: str = "nan",
  include_background: bool = False,
) -> Float[Array, " classes"]:
  """95th percentile of the surface distances in mm, see the module for the variants.

  Other arguments, shape and errors as `hausdorff`; "surfel" takes 2 or 3 axes.
  """
  check.one_of("variant", variant, VARIANTS)
  measure = {"pooled": hd95_pooled_of, "max_directed": hd95_max_directed_of}
  kind: SurfaceKind = "surfel" if variant == "surfel" else "voxel"
  return _measured(
    measure.get(variant, hd95_surfel_of),
    *(prediction, target, num_classes, spacing, empty, include_background, kind),
  )


def assd(
  prediction: LabelMap,
  target: LabelMap,
  *,
  num_classes: int,
  spacing: Numbers,
  empty: str = "nan",
  include_background: bool = False,
) -> Float[Array, " classes"]:
  """Average symmetric surface distance in mm; arguments as `hausdorff`."""
  return _measured(
    assd_of, prediction, target, num_classes, spacing, empty, include_background, "voxel"
  )


def _measured(measure, prediction, target, num_classes, spacing, empty, include_background, kind):
  return per_class(
    measure,
    of_missed(empty, prediction.shape, spacing),
    prediction=prediction,
    target=target,
    num_classes=num_classes,
    spacing=spacing,
    kind=kind,
    include_background=include_background,
  )


def hausdorff_of(surfaces: Surfaces, otherwise: Number) -> jax.Array:
  """`hausdorff` of surfaces that are computed already.

  `otherwise` is the value where one of the two surfaces is empty; so it is in all functions here
  whose names end in `_of`.
  """
  # Entries of weight 0 are padding and never the largest.
  largest = [jnp.where(side.weight > 0, side.distance, 0).max() for side in surfaces]
  return settle(jnp.maximum(*largest), surfaces, otherwise)


def assd_of(surfaces: Surfaces, otherwise: Number) -> jax.Array:
  """Mean distance over the points of both surfaces, each weighted by 1 or by its area."""
  side = _together(surfaces)
  total = jnp.where(side.weight > 0, side.distance * side.weight, 0).sum()
  return settle(total / side.weight.sum(), surfaces, otherwise)


def hd95_pooled_of(surfaces: Surfaces, otherwise: Number) -> jax.Array:
  return settle(_interpolated(_together(surfaces)), surfaces, otherwise)


def hd95_max_directed_of(surfaces: Surfaces, otherwise: Number) -> jax.Array:
  # One percentile for each direction, then the larger of the two.
  value = jnp.maximum(*(_interpolated(side) for side in surfaces))
  return settle(value, surfaces, otherwise)


def hd95_surfel_of(surfaces: Surfaces, otherwise: Number) -> jax.Array:
  # The areas are float32 sums: a share a little below 0.95 keeps their rounding from deciding.
  share = 0.95 * (1 - _ROUNDING)
  value = jnp.maximum(*(_within(side, share * side.weight.sum()) for side in surfaces))
  return settle(value, surfaces, otherwise)


def _together(surfaces: Surfaces) -> Side:
  return Side(*(jnp.concatenate(parts) for parts in zip(*surfaces, strict=True)))


def _interpolated(side: Side) -> jax.Array:
  """95th percentile of the distances of n points of weight 1, linear between its neighbours."""
  # NumPy's definition: the percentile stands at the place 0.95 (n - 1) of the sorted distances,
  # counted from 0. In twentieths that is the whole number 19 (n - 1), so no rounding moves it.
  steps = 19 * (side.weight.sum() - 1)
  low, rest = steps // 20, steps % 20
  # The distance at place k is the least within which k + 1 points lie.
  below = _within(side, low + 1)
  above = _within(side, low + 2)
  return jnp.where(rest > 0, below + (above - below) * rest / 20, below)


def _within(side: Side, weight: jax.Array) -> jax.Array:
  """The least distance within which points of at least `weight` together lie.

  It is found by bisection of the bits of the distance in 31 passes, which is much faster than
  sorting on a CPU.
  """
  # Floats that are not negative are in the same order as their bits read as whole numbers.
  bits = jax.lax.bitcast_convert_type(side.distance.astype(jnp.float32), jnp.int32)

  def halve(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = bounds
    middle = low + (high - low) // 2
    enough = jnp.where(bits <= middle, side.weight, 0).sum() >= weight
    return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

  found, _ = jax.lax.fori_loop(0, 31, halve, (jnp.int32(0), jnp.int32(_INFINITY)))
  return jax.lax.bitcast_convert_type(found, jnp.float32)
