"""Sampling an array at arbitrary coordinates: nearest for labels, linear for images and fields.

  output(x) = array(coordinates(x))                                   (pull-back)

Coordinates are in voxels, voxel centres at integers. Labels outside the array are background.
"""

import itertools
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from medjax import check


def identity_coordinates(shape: tuple[int, ...]) -> Float[Array, "*space ndim"]:
  """Coordinates of every voxel of a grid, [*shape, len(shape)] float32."""
  axes = [jnp.arange(size, dtype=jnp.float32) for size in shape]
  return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)


def sample_nearest(
  array: Shaped[Array, "*space"], coordinates: Float[Array, "*out ndim"], *, fill: int | float = 0
) -> Shaped[Array, "*out"]:
  """Values of the nearest voxels; halves round up.

  Args:
    array: [*space], usually an integer label map.
    coordinates: [*out, ndim] in voxels of `array`.
    fill: value where the nearest voxel lies outside the array; background by default.
  Returns:
    [*out] in the type of `array`; holds no value that `array` and `fill` do not hold.

  >>> sample_nearest(jnp.array([5, 6, 7]), jnp.array([[0.4], [0.6], [9.0]])).tolist()
  [5, 6, 0]
  """
  _check(array.ndim, coordinates)
  flat_index, inside = 0, True
  for axis, (size, stride) in enumerate(zip(array.shape, _strides(array.shape), strict=True)):
    # Clipping before the cast keeps far coordinates from overflowing the integer.
    position = jnp.clip(jnp.floor(coordinates[..., axis] + 0.5), -1, size).astype(jnp.int32)
    inside = inside & (position >= 0) & (position < size)
    flat_index = flat_index + jnp.clip(position, 0, size - 1) * stride
  values = array.reshape(-1).at[flat_index].get(mode="promise_in_bounds")
  return jnp.where(inside, values, jnp.asarray(fill, array.dtype))


def sample_linear(
  array: Float[Array, "*space channel"],
  coordinates: Float[Array, "*out ndim"],
  *,
  fill: float | None = None,
) -> Float[Array, "*out channel"]:
  """Multilinear interpolation; differentiable in the array and in the coordinates.

  Args:
    array: [*space, channel].
    coordinates: [*out, ndim] in voxels of `array`.
    fill: value of the world outside the array; None continues the border voxels (for fields).
  Returns:
    [*out, channel]; equals `array` at integer coordinates.
  """
  ndim = array.ndim - 1
  _check(ndim, coordinates)
  space = array.shape[:-1]
  flat = array.reshape(-1, array.shape[-1])
  lower, weight = [], []
  for axis, size in enumerate(space):
    # One voxel of margin is enough: further out every corner is filled or clamped alike.
    bounds = (0, size - 1) if fill is None else (-1, size)
    position = jnp.clip(coordinates[..., axis], *bounds)
    lower.append(jnp.floor(position).astype(jnp.int32))
    weight.append(position - lower[-1])
  result = jnp.zeros((*coordinates.shape[:-1], array.shape[-1]), array.dtype)
  for corner in itertools.product((0, 1), repeat=ndim):
    flat_index, corner_weight, inside = 0, 1.0, True
    for axis, offset in enumerate(corner):
      position = lower[axis] + offset
      inside = inside & (position >= 0) & (position < space[axis])
      flat_index = flat_index + jnp.clip(position, 0, space[axis] - 1) * _strides(space)[axis]
      corner_weight = corner_weight * (weight[axis] if offset else 1 - weight[axis])
    values = flat.at[flat_index].get(mode="promise_in_bounds")
    if fill is not None:
      values = jnp.where(jnp.asarray(inside)[..., None], values, fill)
    result = result + values * jnp.asarray(corner_weight)[..., None]
  return result


def _strides(shape: tuple[int, ...]) -> list[int]:
  """Row-major strides in elements."""
  return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _check(ndim: int, coordinates: Array) -> None:
  check.require(
    coordinates.shape[-1] == ndim,
    f"coordinates of {ndim} components for an array with {ndim} spatial axes",
    f"{coordinates.shape[-1]}",
    "give one coordinate per spatial axis, in the last axis",
  )
