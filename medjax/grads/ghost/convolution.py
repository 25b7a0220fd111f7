"""Gradient of one example with respect to the kernel of a convolution, and its norm without it.

  G[k] = sum_t  x[place of output t under kernel offset k]  (outer)  b[t]
  |G|^2 = sum_{t,t'}  <b[t], b[t']>  sum_k <x[place of t under k], x[place of t' under k]>

XLA computes a batch of such gradients as one grouped convolution, which is slow on CPUs and no
faster than matrix products on accelerators. 1D, 2D and 3D; strided, dilated, grouped, transposed.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from medjax.grads.ghost.program import Operation

_SHARE_INSIDE = 0.9
"""Above this share of places that lie inside the image, the image is padded once, with zeros, and
all offsets of the kernel meet all outputs: the copies of the cotangent that this saves, one an
offset, cost more than the products with zeros. Below, as in small images, both are cut."""


def is_supported(operation: Operation) -> bool:
  """Whether `kernel_gradient` knows the operation: a convolution without batch groups."""
  return (
    operation.primitive.name == "conv_general_dilated"
    and operation.params["batch_group_count"] == 1
  )


def kernel_gradient(
  operation: Operation, kernel: Sequence[int], image: jax.Array, cotangent: jax.Array
) -> jax.Array:
  """Gradient with respect to the kernel of one example.

  Args:
    operation: a `conv_general_dilated` that `is_supported`.
    kernel: shape of the kernel, in the layout of the operation.
    image: its first operand, in the layout of the operation.
    cotangent: of its result, in the layout of the operation.
  Returns:
    In the layout of the kernel.
  """
  p = operation.params
  numbers, groups = p["dimension_numbers"], p["feature_group_count"]
  x = jnp.transpose(image, _last(numbers.lhs_spec))  # [batch, *space, channel]
  y = jnp.transpose(cotangent, _last(numbers.out_spec))
  space = tuple(kernel[i] for i in numbers.rhs_spec[2:])
  x = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
  y = y.reshape(*y.shape[:-1], groups, y.shape[-1] // groups)
  strides, dilation, count = p["window_strides"], p["rhs_dilation"], y.shape[1:-2]
  offsets = tuple(itertools.product(*map(range, space)))
  take = _Windows(x.shape[1:-2], count, strides, p["padding"], p["lhs_dilation"], dilation)
  is_spread = any(spread > 1 for spread in p["lhs_dilation"])
  is_tiled = tuple(strides) == space and not is_spread and all(d == 1 for d in dilation)
  if is_spread or not (is_tiled or take.share_inside(space) >= _SHARE_INSIDE):
    stacked = jnp.stack([_product(*take(x, y, offset)) for offset in offsets])
  else:
    ends = [(0, 0, 0), *((*low_high, 0) for low_high in p["padding"]), *2 * [(0, 0, 0)]]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ends)
    if is_tiled:
      tiles, rows = _tiles(x, count, space), y.reshape(-1, *y.shape[-2:])
      stacked = jnp.einsum("tkgi,tgo->kgio", tiles, rows, preferred_element_type=jnp.float32)
    else:
      starts = [[d * k for d, k in zip(dilation, own, strict=True)] for own in offsets]
      stacked = jnp.stack([_product(_window(x, s, count, strides), y) for s in starts])
  # stacked: [offset, group, in / group, out / group]
  num_in, num_out = stacked.shape[2], groups * stacked.shape[3]
  gradient = stacked.transpose(0, 2, 1, 3).reshape(*space, num_in, num_out)
  inverse = [0] * len(kernel)  # rhs_spec is (out, in, *space)
  for axis, place in enumerate((*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])):
    inverse[place] = axis
  return jnp.transpose(gradient, inverse)


def summed_gradient(
  operation: Operation, kernel: Sequence[int], image: jax.Array, cotangent: jax.Array
) -> jax.Array:
  """Sum of `kernel_gradient` over examples, [example, ...]: they are one longer batch."""
  numbers = operation.params["dimension_numbers"]

  def joined(x: jax.Array, batch: int) -> jax.Array:
    x = jnp.moveaxis(x, 0, batch)
    return x.reshape(*x.shape[:batch], -1, *x.shape[batch + 2 :])

  image, cotangent = joined(image, numbers.lhs_spec[0]), joined(cotangent, numbers.out_spec[0])
  return kernel_gradient(operation, kernel, image, cotangent)


def has_pair_norm(operation: Operation) -> bool:
  """Whether `pair_norm` knows the operation: neither grouped nor transposed."""
  p = operation.params
  return p["feature_group_count"] == 1 and all(d == 1 for d in p["lhs_dilation"])


def pair_norm_cost(
  operation: Operation, image: Sequence[int], kernel: Sequence[int], output: Sequence[int]
) -> int:
  """Multiplications of `pair_norm`."""
  numbers = operation.params["dimension_numbers"]
  places = image[numbers.lhs_spec[0]]
  for axis, (low, high) in zip(numbers.lhs_spec[2:], operation.params["padding"], strict=True):
    places *= max(image[axis] + low + high, 0)
  channels_in, channels_out = image[numbers.lhs_spec[1]], output[numbers.out_spec[1]]
  offsets = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
  rows = math.prod(output) // channels_out
  return places**2 * channels_in + rows**2 * (channels_out + offsets)


def pair_norm(
  operation: Operation, kernel: Sequence[int], image: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Squared norm of `kernel_gradient` from the inner products of places and of cotangents.

  With it (sum_t |patch t| |b[t]|)^2, the size of the numbers that may have cancelled.
  """
  p = operation.params
  numbers = p["dimension_numbers"]
  x = jnp.transpose(image, _last(numbers.lhs_spec)).astype(jnp.float32)
  y = jnp.transpose(cotangent, _last(numbers.out_spec)).astype(jnp.float32)
  x = jax.lax.pad(x, jnp.float32(0), [(0, 0, 0), *((a, b, 0) for a, b in p["padding"]), (0, 0, 0)])
  space, out_space = x.shape[:-1], y.shape[:-1]
  flat, rows = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
  highest = jax.lax.Precision.HIGHEST
  between_places = jnp.matmul(flat, flat.T, precision=highest).reshape(*space, *space)
  between_rows = jnp.matmul(rows, rows.T, precision=highest).reshape(*out_space, *out_space)
  offsets = itertools.product(*(range(kernel[axis]) for axis in numbers.rhs_spec[2:]))
  total = jnp.zeros_like(between_rows)
  for offset in offsets:
    seen = [slice(None)]
    for k, count, stride, dilation in zip(
      offset, out_space[1:], p["window_strides"], p["rhs_dilation"], strict=True
    ):
      start = k * dilation
      seen.append(slice(start, start + (count - 1) * stride + 1, stride))
    total = total + between_places[(*seen, *seen)]
  count = math.prod(out_space)
  lengths = [jnp.diagonal(x.reshape(count, count)) for x in (total, between_rows)]
  scale = jnp.sum(jnp.sqrt(lengths[0] * lengths[1])) ** 2
  return jnp.sum(total * between_rows), scale


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
  """[group, in, out] sum over all places of the outer products of two [*places, group, channel]."""
  x, y = x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:])
  return jnp.einsum("tgi,tgo->gio", x, y, preferred_element_type=jnp.float32)


def _window(
  x: jax.Array, start: Sequence[int], count: Sequence[int], strides: Sequence[int]
) -> jax.Array:
  """Every stride-th place of a padded image from `start` on, as many as there are outputs."""
  ends = [s + (n - 1) * step + 1 for s, n, step in zip(start, count, strides, strict=True)]
  return jax.lax.slice(
    x, (0, *start, 0, 0), (x.shape[0], *ends, *x.shape[-2:]), (1, *strides, 1, 1)
  )


def _tiles(x: jax.Array, count: Sequence[int], kernel: Sequence[int]) -> jax.Array:
  """[batch and place, offset, group, channel]: an image in tiles of the kernel's size."""
  batch, *_, groups, channels = x.shape
  axes = len(kernel)
  for axis, (number, size) in enumerate(zip(count, kernel, strict=True), start=1):
    x = jax.lax.slice_in_dim(x, 0, number * size, axis=axis)
  pairs = [extent for pair in zip(count, kernel, strict=True) for extent in pair]
  x = x.reshape(batch, *pairs, groups, channels)
  order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1, 2 * axes + 2)
  return x.transpose(order).reshape(-1, math.prod(kernel), groups, channels)


class _Windows:
  """Which image voxels meet which outputs under one kernel offset k.

  Output o reads the place  o * stride + k * rhs_dilation - padding  of the image whose voxels lie
  lhs_dilation apart. Neither padding nor the zeros between voxels are formed: along axes without
  lhs_dilation the image is sliced, along the others the output.
  """

  def __init__(
    self,
    image: Sequence[int],
    output: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    spread: Sequence[int],
    dilation: Sequence[int],
  ):
    self._axes = list(zip(image, output, strides, padding, spread, dilation, strict=True))

  def share_inside(self, kernel: Sequence[int]) -> float:
    """Of the pairs of an offset and an output, those that meet a voxel; without lhs_dilation."""
    share = 1.0
    for size, (length, count, stride, (low, _), _, dilation) in zip(
      kernel, self._axes, strict=True
    ):
      spans = [_span(k * dilation - low, length, count, stride) for k in range(size)]
      share *= sum(max(last - first + 1, 0) for first, last in spans) / max(size * count, 1)
    return share

  def __call__(
    self, x: jax.Array, y: jax.Array, offset: Sequence[int]
  ) -> tuple[jax.Array, jax.Array]:
    for axis, (k, (size, count, stride, (low, _), spread, dilation)) in enumerate(
      zip(offset, self._axes, strict=True), start=1
    ):
      shift = k * dilation - low  # place of output 0
      if spread > 1 and stride > 1:
        x, size, spread = _spread(x, axis, spread), (size - 1) * spread + 1, 1
      if spread == 1:
        first, last = _span(shift, size, count, stride)
        x = _strided(x, axis, first * stride + shift, last - first + 1, stride)
        y = _strided(y, axis, first, last - first + 1, 1)
      else:
        # voxel i lies at place i * spread: output i * spread - shift
        first = max(0, math.ceil(shift / spread))
        last = min(size - 1, math.floor((count - 1 + shift) / spread))
        x = _strided(x, axis, first, last - first + 1, 1)
        y = _strided(y, axis, first * spread - shift, last - first + 1, spread)
    return x, y


def _span(shift: int, size: int, count: int, stride: int) -> tuple[int, int]:
  """First and last output whose place, output * stride + shift, lies inside an image of `size`."""
  first = max(0, math.ceil(-shift / stride))
  return first, min(count - 1, math.floor((size - 1 - shift) / stride))


def _strided(x: jax.Array, axis: int, start: int, count: int, stride: int) -> jax.Array:
  if count <= 0:
    return jax.lax.slice_in_dim(x, 0, 0, axis=axis)
  return jax.lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)


def _spread(x: jax.Array, axis: int, factor: int) -> jax.Array:
  config = [(0, 0, factor - 1 if i == axis else 0) for i in range(x.ndim)]
  return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


def _last(spec: Sequence[int]) -> tuple[int, ...]:
  """Axes in the order batch, *space, channel; `spec` is (batch, channel, *space)."""
  return (spec[0], *spec[2:], spec[1])
