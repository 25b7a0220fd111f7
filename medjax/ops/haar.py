"""Haar wavelet pyramid of one image in any dimension, and its exact inverse.

Along every axis, for neighbours (a, b):   low = (a + b) / sqrt2,   high = (b - a) / sqrt2

which is orthonormal: the inverse is the transpose, and energy is kept. Over d axes a level has one
low band, which the next level splits, and 2^d - 1 detail bands.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check


class Pyramid(NamedTuple):
  """Bands of an image.

  Attributes:
    low: [*space / 2^levels, channel].
    details: one [*space / 2^level, 2^d - 1, channel] a level, finest first. Band k is high along
      those axes whose bits are set in k + 1, the first axis being the lowest bit.
  """

  low: Float[Array, "*grid channel"]
  details: tuple[Float[Array, "*grid band channel"], ...]


def split(image: Float[Array, "*space channel"]) -> Float[Array, "*half band channel"]:
  """One level: [*space / 2, 2^d, channel], the low band first; sides must be even."""
  ndim = image.ndim - 1
  odd = any(size % 2 for size in image.shape[:-1])
  check.require(not odd, "even sides", f"{image.shape[:-1]}", "pad first, as `analysis` does")
  bands = image[..., None, :]
  for axis in range(ndim):
    shape = bands.shape
    pairs = bands.reshape(*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :])
    # Sums of neighbours along this axis, then their differences: half the side, twice the bands.
    first = jax.lax.index_in_dim(pairs, 0, axis + 1, keepdims=False)
    second = jax.lax.index_in_dim(pairs, 1, axis + 1, keepdims=False)
    bands = jnp.concatenate([first + second, second - first], axis=-2)
  return bands * 0.5 ** (ndim / 2)  # 1 / sqrt2 for each axis


def merge(bands: Float[Array, "*half band channel"]) -> Float[Array, "*space channel"]:
  """Inverse of `split`."""
  ndim = bands.ndim - 2
  check.require(
    bands.shape[-2] == 2**ndim,
    f"{2**ndim} bands",
    f"{bands.shape[-2]}",
    "give all bands of a level",
  )
  for axis in reversed(range(ndim)):
    # From low = a + b and high = b - a: 2 a = low - high and 2 b = low + high. The factor 2 meets
    # the two factors 1 / sqrt2 of splitting and merging.
    low, high = jnp.split(bands, 2, axis=-2)
    pairs = jnp.stack([low - high, low + high], axis=axis + 1)
    shape = low.shape
    bands = pairs.reshape(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
  return bands[..., 0, :] * 0.5 ** (ndim / 2)


def analysis(image: Float[Array, "*space channel"], levels: int) -> Pyramid:
  """Splits the low band `levels` times.

  Args:
    image: [*space, channel]; sides that 2^levels does not divide are continued by their last voxel.
    levels: 1 or more; a level that would leave less than one voxel is refused.
  Raises:
    InputError: no level, or a side shorter than 2^levels.

  >>> analysis(jnp.ones((2, 2, 1)), 1).low.tolist()
  [[[2.0]]]
  """
  check.require(levels >= 1, "levels >= 1", f"{levels=}", "pass 1 or more")
  space = image.shape[:-1]
  check.require(
    min(space) >= 2**levels,
    f"images of at least {2**levels} voxels a side for {levels} levels",
    f"{'x'.join(map(str, space))}",
    "pass fewer levels",
  )
  spare = [(0, -size % 2**levels) for size in space]
  low = jnp.pad(image, [*spare, (0, 0)], mode="edge") if any(n for _, n in spare) else image
  details = []
  for _ in range(levels):
    bands = split(low)
    low, detail = bands[..., 0, :], bands[..., 1:, :]
    details.append(detail)
  return Pyramid(low, tuple(details))


def synthesis(pyramid: Pyramid, space: tuple[int, ...]) -> Float[Array, "*space channel"]:
  """The image of a pyramid, cropped to `space`; inverts `analysis` up to rounding."""
  low = pyramid.low
  for detail in reversed(pyramid.details):
    low = merge(jnp.concatenate([low[..., None, :], detail], axis=-2))
  return low[tuple(slice(0, size) for size in space)]
