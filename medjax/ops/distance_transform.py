"""Exact Euclidean distances to the nearest voxel of a mask, in mm.

The squared distance separates over the axes (Saito and Toriwaki, 1994). With s the spacing,

  f0[x, y, z] = min over seeds (x', y, z) of  ((x - x') sx)^2
  f1[x, y, z] = min over y' of  f0[x, y', z] + ((y - y') sy)^2
  f2[x, y, z] = min over z' of  f1[x, y, z'] + ((z - z') sz)^2

The first axis, in any case the longest, costs a few operations a voxel: it is packed to bits, 32
voxels a word, and the nearest set bits are found by counting zeros. The others are (min, +)
products (`kernels.min_plus`) of N n operations for n voxels along the axis and N in all. Nothing
is approximated, no shape depends on the data, and the spacing is an array like any other.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from kernels.min_plus import min_plus
from medjax import check
from medjax.types import Numbers

_POINTS = 4096  # taken together by `distance_at`, which bounds its memory
_PROGRAMS = 64  # of `distance_at` that are kept
_seen: set[tuple[tuple[int, ...], ...]] = set()


def distance_transform(
  mask: Bool[Array | np.ndarray, "*space"], *, spacing: Numbers
) -> Float[Array, "*space"]:
  """Distance of every voxel to the nearest True voxel.

  >>> distance_transform(jnp.array([[True, False, False]]), spacing=(1.0, 0.5)).tolist()
  [[0.0, 0.5, 1.0]]

  Args:
    mask: [*space] bool of one, two or three axes; `jax.vmap` adds others.
    spacing: voxel size in mm, positive, one an axis; numbers or an array, may be traced.
  Returns:
    mm, [*space] float32; inf everywhere if no voxel is True.
  Raises:
    InputError: a mask that is not bool or of no or too many axes; spacing that does not fit.
  Guarantees: 0 on the mask; correct to float32 rounding (relative 1e-6); memory of a few times N;
    one program for all spacings. No gradient flows: that of the spacing is zero.
  """
  lengths = _check(mask, spacing)
  return _transform(jnp.asarray(mask), lengths)


def distance_at(
  mask: Bool[Array | np.ndarray, "*space"],
  points: Int[Array | np.ndarray, " point"],
  *,
  spacing: Numbers,
) -> Float[Array, " point"]:
  """`distance_transform(mask, spacing=spacing).ravel()[points]`, without the rest.

  The last of three axes, or of two, is taken at the points only, which halves the work if they are
  few, as those of a surface.

  >>> distance_at(jnp.array([[True, False, False]]), jnp.array([2]), spacing=(1.0, 0.5)).tolist()
  [1.0]

  Args:
    mask, spacing: as in `distance_transform`.
    points: [point] places in the flattened mask, from 0 to mask.size - 1.
  Returns:
    mm, [point] float32.
  Raises:
    InputError: as `distance_transform`.
  """
  lengths = _check(mask, spacing)
  if not any(isinstance(x, jax.core.Tracer) for x in (mask, points)):
    _forget_if_many((mask.shape, points.shape))
  return _at(jnp.asarray(mask), jnp.asarray(points), lengths)


def _forget_if_many(shapes: tuple[tuple[int, ...], ...]) -> None:
  """Drops the programs of `distance_at` when shapes were many: a report of thousands of cases
  would keep a program of some megabytes for each shape that it ever met."""
  if shapes not in _seen and len(_seen) >= _PROGRAMS:
    programs: Any = _at  # jax.jit's own type does not tell of its cache
    programs.clear_cache()
    _seen.clear()
  _seen.add(shapes)


def _check(mask: Array | np.ndarray, spacing: Numbers) -> jax.Array:
  """Spacing as an array through which no gradient flows."""
  check.require(
    mask.dtype == bool and 1 <= mask.ndim <= 3 and mask.size,
    "a bool mask of 1, 2 or 3 axes",
    f"{mask.dtype} {mask.shape}",
    "compare labels with a class, and use jax.vmap for batches",
  )
  lengths = lax.stop_gradient(jnp.asarray(spacing, jnp.float32))
  check.require(
    lengths.shape == (mask.ndim,),
    f"spacing in mm of {mask.ndim} axes",
    f"spacing of shape {lengths.shape}",
    "give one length an axis",
  )
  if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(spacing)):
    known = np.asarray(spacing)
    check.require(
      (known > 0).all() and np.isfinite(known).all(),
      "positive spacing in mm",
      f"{known.tolist()}",
      "read it from the header of the image",
    )
  return lengths


@jax.jit
def _transform(mask: jax.Array, spacing: jax.Array) -> jax.Array:
  order = _order(mask.shape)
  squared = _along_first(mask.transpose(order), spacing[order[0]])
  for axis in range(1, mask.ndim):
    # The axis before the last is worked on, the last one fills the vector units.
    squared = jnp.moveaxis(squared, axis, -2)
    squared = min_plus(_squared_offsets(squared.shape[-2], spacing[order[axis]]), squared)
    squared = jnp.moveaxis(squared, -2, axis)
  return jnp.sqrt(squared).transpose(np.argsort(order))


@jax.jit
def _at(mask: jax.Array, points: jax.Array, spacing: jax.Array) -> jax.Array:
  order = _order(mask.shape)
  squared = _along_first(mask.transpose(order), spacing[order[0]])
  if mask.ndim == 3:
    squared = min_plus(_squared_offsets(squared.shape[1], spacing[order[1]]), squared)
  if mask.ndim == 1:
    return jnp.sqrt(squared[points])

  def of_point(place: tuple[jax.Array, ...]) -> jax.Array:
    offsets = jnp.arange(squared.shape[-1]) - place[-1]
    return jnp.sqrt((squared[place[:-1]] + (offsets * spacing[order[-1]]) ** 2).min())

  places = jnp.unravel_index(points, mask.shape)
  return lax.map(of_point, tuple(places[axis] for axis in order), batch_size=_POINTS)


def _order(shape: Sequence[int]) -> tuple[int, ...]:
  """Axes as they are worked on: the longest, the shortest, the remaining one."""
  by_size = sorted(range(len(shape)), key=lambda axis: shape[axis])
  return (by_size[-1], *by_size[:-1])


def _squared_offsets(size: int, spacing: jax.Array) -> jax.Array:
  """((i - j) spacing)^2, [size, size]."""
  index = jnp.arange(size, dtype=jnp.float32)
  return ((index[:, None] - index[None]) * spacing) ** 2


def _along_first(mask: jax.Array, spacing: jax.Array) -> jax.Array:
  """Squared distance in mm^2 to the nearest True voxel with the same later indices."""
  size, *others = mask.shape
  words = -(-size // 32)
  axes = (1,) * len(others)
  bit = jnp.arange(32, dtype=jnp.uint32).reshape(1, 32, *axes)
  start = 32 * jnp.arange(words).reshape(words, 1, *axes)
  padded = jnp.pad(mask, [(0, 32 * words - size)] + [(0, 0)] * len(others))
  # 32 voxels along the axis become the bits of one word.
  bits = padded.reshape(words, 32, *others).astype(jnp.uint32) << bit
  word = bits.sum(1, dtype=jnp.uint32, keepdims=True)

  # Seeds before and after, in the voxel's own word or else in the nearest one that has any.
  far = 64 * words
  highest = jnp.where(word > 0, start + _highest_bit(word), -far)
  lowest = jnp.where(word > 0, start + _lowest_bit(word), far)
  before = _shifted(lax.cummax(highest, axis=0), 1, -far)
  after = _shifted(lax.cummin(lowest, axis=0, reverse=True), -1, far)
  # In the voxel's own word: the bits up to its own place, and those from it on.
  up_to = word & (jnp.uint32(0xFFFFFFFF) >> (31 - bit))
  from_on = (word >> bit) << bit
  before = jnp.where(up_to > 0, start + _highest_bit(up_to), before)
  after = jnp.where(from_on > 0, start + _lowest_bit(from_on), after)

  place = start + bit.astype(jnp.int32)
  voxels = jnp.minimum(place - before, after - place).reshape(32 * words, *others)[:size]
  length = voxels.astype(jnp.float32) * spacing
  return jnp.where(voxels < size, length**2, jnp.inf)


def _highest_bit(word: jax.Array) -> jax.Array:
  return 31 - lax.clz(word).astype(jnp.int32)


def _lowest_bit(word: jax.Array) -> jax.Array:
  return _highest_bit(word & (~word + 1))  # x & -x keeps the lowest bit alone


def _shifted(x: jax.Array, by: int, fill: int) -> jax.Array:
  """One step along the first axis; what comes in is `fill`."""
  padding = [(by, -by, 0)] + [(0, 0, 0)] * (x.ndim - 1)
  return lax.pad(x, jnp.array(fill, x.dtype), padding)
