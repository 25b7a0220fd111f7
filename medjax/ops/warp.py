"""Sampling an array at arbitrary coordinates: linear for images, nearest or by majority for labels.

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
  # Of the 2^ndim voxels around a point, each has the product of its weights along the axes: w
  # towards the upper neighbour, 1 - w towards the lower one.
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


def sample_majority(
  array: Shaped[Array, "*space"], coordinates: Float[Array, "*out ndim"], *, fill: int = 0
) -> Shaped[Array, "*out"]:
  """The label that holds most of the weight of multilinear interpolation.

  Where `sample_linear` of the mask of a label exceeds 1/2, that label is taken, so that labels move
  exactly as an image does; where none does (junctions of three labels, ties), the nearest voxel's.
  It finds the label by a majority vote with one candidate (Boyer & Moore 1991), weighted, and so
  costs the same for any number of labels: about as much as `sample_linear` of one channel.

  Args:
    array: [*space] label map.
    coordinates: [*out, ndim] in voxels of `array`.
    fill: label of the world outside the array.
  Returns:
    [*out] in the type of `array`.

  >>> sample_majority(jnp.array([5, 6, 7]), jnp.array([[0.4], [1.0], [2.7]]), fill=-1).tolist()
  [5, 6, -1]
  """
  _check(array.ndim, coordinates)
  # A margin of one voxel of `fill` makes every corner a voxel of the array.
  padded = jnp.pad(array, 1, constant_values=fill)
  flat, strides = padded.reshape(-1), _strides(padded.shape)
  weight, first, nearest = [], 0, 0
  for axis, size in enumerate(array.shape):
    position = jnp.clip(coordinates[..., axis], -1, size) + 1
    lower = jnp.minimum(jnp.floor(position), size).astype(jnp.int32)
    weight.append(position - lower)
    first = first + lower * strides[axis]
    nearest = nearest + jnp.where(weight[axis] >= 0.5, strides[axis], 0)
  corners = []
  for corner in itertools.product((0, 1), repeat=array.ndim):
    offset = sum(step * stride for step, stride in zip(corner, strides, strict=True))
    share = math.prod(w if step else 1 - w for step, w in zip(corner, weight, strict=True))
    corners.append((flat.at[first + offset].get(mode="promise_in_bounds"), share))
  # Boyer and Moore: a corner with another label than the candidate takes its weight off the lead;
  # below 0 the candidate loses its place. A label with more than half of all weight cannot lose.
  candidate, lead = corners[0]
  for label, share in corners[1:]:
    lead = jnp.where(label == candidate, lead + share, lead - share)
    candidate = jnp.where(lead < 0, label, candidate)
    lead = jnp.abs(lead)
  # The candidate holds a majority only if there is one: its weight is counted.
  held = sum(jnp.where(label == candidate, share, 0.0) for label, share in corners)
  return jnp.where(held > 0.5, candidate, flat.at[first + nearest].get(mode="promise_in_bounds"))


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
