"""Halving and doubling the grid of feature maps [batch, *space, channel], any dimension.

Written with slices, reshapes and sums only: their second derivatives are as cheap as the first.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def _blocks(x: jax.Array, fill: float | None) -> jax.Array:
  """[b, 2n, 2m, c] -> [b, n, 2, m, 2, c]; odd sizes are padded (with `fill`, or the edge)."""
  odd = [(0, 0)] + [(0, size % 2) for size in x.shape[1:-1]] + [(0, 0)]
  if any(after for _, after in odd):
    x = jnp.pad(x, odd, mode="edge") if fill is None else jnp.pad(x, odd, constant_values=fill)
  shape = [x.shape[0]]
  for size in x.shape[1:-1]:
    shape += [size // 2, 2]
  return x.reshape(*shape, x.shape[-1])


def max_pool(x: jax.Array) -> jax.Array:
  """Maximum over 2 x 2 (x 2) blocks, [batch, *ceil(space / 2), channel].

  Pair by pair: the gradient of `jnp.max` divides by how often the maximum is found, which is never
  where XLA computes its operand anew with other rounding, and then it is NaN.
  """
  blocks = _blocks(x, -jnp.inf)
  for axis in range(blocks.ndim - 2, 1, -2):
    first, second = (jax.lax.index_in_dim(blocks, i, axis, keepdims=False) for i in (0, 1))
    blocks = jnp.maximum(first, second)
  return blocks


def mean_pool(x: jax.Array) -> jax.Array:
  """Mean over 2 x 2 (x 2) blocks, [batch, *ceil(space / 2), channel]; odd edges count twice."""
  blocks = _blocks(x, None)
  return blocks.mean(axis=tuple(range(2, blocks.ndim - 1, 2)))


def upsample_nearest(x: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Doubles every spatial axis by repetition, then crops to `shape` (the skip's grid)."""
  for axis in range(1, x.ndim - 1):
    x = jnp.repeat(x, 2, axis=axis)
  return _crop(x, shape)


def upsample_linear(x: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Doubles every spatial axis linearly (samples at voxel centres, edges held), crops to `shape`.

  out[2i] = x[i-1] / 4 + 3 x[i] / 4,  out[2i+1] = 3 x[i] / 4 + x[i+1] / 4
  """
  for axis in range(1, x.ndim - 1):
    size = x.shape[axis]
    held = jnp.concatenate(
      [
        jax.lax.slice_in_dim(x, 0, 1, axis=axis),
        x,
        jax.lax.slice_in_dim(x, size - 1, size, axis=axis),
      ],
      axis=axis,
    )
    left = jax.lax.slice_in_dim(held, 0, size, axis=axis)
    right = jax.lax.slice_in_dim(held, 2, size + 2, axis=axis)
    pair = jnp.stack([0.25 * left + 0.75 * x, 0.75 * x + 0.25 * right], axis=axis + 1)
    x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
  return _crop(x, shape)


def upsample_aligned(x: jax.Array) -> jax.Array:
  """Doubles every spatial axis linearly so that first and last samples stay where they are.

  PyTorch's `UpsamplingBilinear2d` (align_corners=True): sample i of 2n lies at i (n - 1) / (2n - 1)
  of the n old ones. Networks that were trained with it need it.

  >>> upsample_aligned(jnp.array([0.0, 3.0]).reshape(1, 2, 1)).ravel().round(4).tolist()
  [0.0, 1.0, 2.0, 3.0]
  """
  for axis in range(1, x.ndim - 1):
    size = x.shape[axis]
    place = np.arange(2 * size) * (size - 1) / (2 * size - 1)
    # A hat around every old sample: the rows of the matrix of linear interpolation.
    matrix = np.maximum(1 - np.abs(place[:, None] - np.arange(size)), 0).astype(np.float32)
    highest = jax.lax.Precision.HIGHEST
    moved = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), ([axis], [1]), precision=highest)
    x = jnp.moveaxis(moved, -1, axis)
  return x


def depth_to_space(x: jax.Array, shape: Sequence[int]) -> jax.Array:
  """[b, *n, 2^d * c] -> [b, *2n, c], cropped to `shape`; the layout of a transposed convolution."""
  dims = x.ndim - 2
  channels = x.shape[-1] // 2**dims
  x = x.reshape(*x.shape[:-1], *(2,) * dims, channels)
  order = [0]
  for axis in range(dims):
    order += [1 + axis, 1 + dims + axis]
  x = x.transpose(*order, 2 * dims + 1)
  space = [2 * n for n in x.shape[1 : 2 * dims + 1 : 2]]
  return _crop(x.reshape(x.shape[0], *space, channels), shape)


def _crop(x: jax.Array, shape: Sequence[int]) -> jax.Array:
  return x[(slice(None), *(slice(0, size) for size in shape))]
