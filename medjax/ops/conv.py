"""The convolution that every network of medjax calls, chosen by the device of its arrays.

XLA:CPU runs 3D convolutions through a generic path at a quarter of the speed of its 2D one. A 3D
convolution is a sum over the kernel's depth of 2D convolutions whose batch is batch x depth:

  y[b, d] = sum_k  conv2d(x[b, stride * d + dilation * k - pad], w[k])

which is the same arithmetic (and the same count of multiplications) on the fast path: 3-4 times
faster forward and backward at 16 channels. Accelerators have native 3D convolutions and keep them.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from medjax import check
from medjax.devices import platform_of
from medjax.ops import conv_tiles

Implementation = Literal["auto", "native", "slices", "product"]


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  precision: Any = None,
  preferred_element_type: Any = None,
  *,
  implementation: Implementation = "auto",
) -> jax.Array:
  """`lax.conv_general_dilated` in 1D, 2D and 3D; Linen's `Conv(conv_general_dilated=...)` takes it.

  Args:
    lhs, rhs, ...: as in `lax.conv_general_dilated`; channels-last layouts are accelerated.
    implementation: "native" (XLA's own), "slices" (sum of 2D convolutions, 3D channels-last only)
      or "auto": slices for 3D on a CPU, native elsewhere; see `devices.platform_of`. "auto"
      forms the weight gradients of 2D convolutions in tiles on a CPU, see `conv_tiles`.
      "product" is one matrix product with all shifted copies of the image beside each other: its
      memory grows by the size of the kernel, but inside `lax.scan` and `lax.map`, where XLA:CPU
      runs convolutions ten times slower than outside, a product is as fast as anywhere.
  Returns:
    The convolution; all implementations agree to float32 rounding.
  """
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  can_slice = (
    lhs.ndim == 5
    and numbers.lhs_spec == (0, 4, 1, 2, 3)
    and numbers.rhs_spec == (4, 3, 0, 1, 2)
    and numbers.out_spec == (0, 4, 1, 2, 3)
    and (lhs_dilation is None or all(d == 1 for d in lhs_dilation))
  )
  if implementation == "slices" and not can_slice:
    raise ValueError(
      f"implementation='slices' needs [batch, d, h, w, channel] and no lhs_dilation, got lhs"
      f" {lhs.shape} with {dimension_numbers}; use implementation='native'"
    )
  if implementation == "slices" or (
    implementation == "auto" and can_slice and platform_of(lhs, rhs) == "cpu"
  ):
    return _sum_of_slices(
      lhs,
      rhs,
      tuple(window_strides),
      padding,
      tuple(rhs_dilation or (1, 1, 1)),
      feature_group_count,
      precision,
      preferred_element_type,
    )
  if implementation == "product":
    ndim = lhs.ndim - 2
    last = (0, ndim + 1, *range(1, ndim + 1))
    check.require(
      numbers.lhs_spec == last
      and numbers.out_spec == last
      and numbers.rhs_spec == (ndim + 1, ndim, *range(ndim))
      and (lhs_dilation is None or all(d == 1 for d in lhs_dilation))
      and feature_group_count == 1,
      "channels last, one group of channels and no lhs_dilation for implementation='product'",
      f"{dimension_numbers}, {feature_group_count=}, {lhs_dilation=}",
      "use implementation='native'",
    )
    dilation = tuple(rhs_dilation or (1,) * ndim)
    return _product(
      lhs, rhs, tuple(window_strides), padding, dilation, precision, preferred_element_type
    )
  run = lax.conv_general_dilated if implementation == "native" else conv_tiles.convolve
  return run(
    lhs,
    rhs,
    window_strides=window_strides,
    padding=padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    precision=precision,
    preferred_element_type=preferred_element_type,
  )


def _sum_of_slices(
  lhs: jax.Array,
  rhs: jax.Array,
  strides: tuple[int, ...],
  padding: str | Sequence[tuple[int, int]],
  dilation: tuple[int, ...],
  groups: int,
  precision: Any,
  element_type: Any,
) -> jax.Array:
  batch, depth = lhs.shape[:2]
  if isinstance(padding, str):
    window = [(k - 1) * d + 1 for k, d in zip(rhs.shape[:3], dilation, strict=True)]
    padding = lax.padtype_to_pads(lhs.shape[1:4], window, strides, padding)
  before, after = padding[0]
  padded = jnp.pad(lhs, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)))
  out_depth = (depth + before + after - (rhs.shape[0] - 1) * dilation[0] - 1) // strides[0] + 1

  def part(k: int) -> jax.Array:
    """What row k of the kernel's depth adds: a 2D convolution of the planes that it meets."""
    start = k * dilation[0]
    planes = padded[:, start : start + (out_depth - 1) * strides[0] + 1 : strides[0]]
    plane_batch = planes.reshape(batch * out_depth, *lhs.shape[2:])
    return lax.conv_general_dilated(
      plane_batch,
      rhs[k],
      window_strides=strides[1:],
      padding=padding[1:],
      rhs_dilation=dilation[1:],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
      precision=precision,
      preferred_element_type=element_type,
    )

  total = functools.reduce(operator.add, map(part, range(rhs.shape[0])))
  return total.reshape(batch, out_depth, *total.shape[1:])


def _product(
  lhs: jax.Array,
  rhs: jax.Array,
  strides: tuple[int, ...],
  padding: str | Sequence[tuple[int, int]],
  dilation: tuple[int, ...],
  precision: Any,
  element_type: Any,
) -> jax.Array:
  """Patches [batch, *out, kernel x channel] times the kernel as a matrix."""
  space, kernel = lhs.shape[1:-1], rhs.shape[:-2]
  window = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(space, window, strides, padding)
  padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
  reach = [
    size + low + high - own + 1
    for size, (low, high), own in zip(space, padding, window, strict=True)
  ]

  def shifted(place: tuple[int, ...]) -> jax.Array:
    """What one entry of the kernel meets."""
    start = [k * d for k, d in zip(place, dilation, strict=True)]
    own = zip(start, reach, strides, strict=True)
    return padded[:, *(slice(low, low + size, stride) for low, size, stride in own)]

  patches = jnp.concatenate([shifted(place) for place in np.ndindex(*kernel)], axis=-1)
  matrix = rhs.reshape(-1, rhs.shape[-1])
  return jnp.matmul(patches, matrix, precision=precision, preferred_element_type=element_type)
