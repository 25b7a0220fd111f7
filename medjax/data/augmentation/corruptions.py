"""Corruptions of pictures in five severities, to ask how much a network can take.

After Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (2019), written for images [height, width, channel] in [0, 1] of any size. All
randomness is drawn once, and the severity only scales what was drawn. Where the change of every
picture then grows with the severity the corruption is called monotone, and a test holds it to that:

  noise, shot      |clip(x + s n) - x| grows with s at every pixel
  contrast         |m + c (x - m) - x| = (1 - c) |x - m|
  brightness       |clip(x + b) - x| grows with b at every pixel
  pixelation       ||x - P x|| with nested projections P
  blur             each frequency is damped by exp(-(sigma w)^2 / 2), mirrored at the edges
  hairs            those of a severity stand in all higher ones
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medjax import check
from medjax.types import Key

SEVERITIES = (1, 2, 3, 4, 5)


class Corruption(NamedTuple):
  """A way to spoil pictures.

  Attributes:
    draw: `draw(key, shape)` -> whatever is random.
    change: `change(drawn, image, strength)`.
    strengths: of severities 1 to 5.
    is_monotone: whether the change grows with the severity for every picture.
  """

  draw: Callable[[Key, tuple[int, ...]], Any]
  change: Callable[[Any, Array, float], Array]
  strengths: tuple[float, ...]
  is_monotone: bool


@dataclasses.dataclass(frozen=True)
class Corrupted:
  """A transform (see `medjax.transforms`): one corruption at one severity.

  >>> spoil = Corrupted("contrast", 5)
  >>> image = jnp.array([[[0.2], [0.8]]])
  >>> [round(float(v), 2) for v in spoil.apply(spoil.draw(jax.random.key(0), (1, 2, 1)), image)[0, :, 0]]
  [0.46, 0.54]

  Attributes:
    name: of `CORRUPTIONS`.
    severity: 1 to 5.
  Raises:
    InputError: another name or severity.
  """  # noqa: E501

  name: str
  severity: int

  def __post_init__(self):
    check.one_of("corruption", self.name, tuple(CORRUPTIONS))
    check.one_of("severity", self.severity, SEVERITIES)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Any:
    """What is random for an image of `shape` = [h, w, channel]; alike in all severities."""
    return CORRUPTIONS[self.name].draw(key, shape)

  def apply(
    self, parameters: Any, image: Float[Array, "h w channel"]
  ) -> Float[Array, "h w channel"]:
    """The corrupted image in [0, 1]."""
    own = CORRUPTIONS[self.name]
    return own.change(parameters, image, own.strengths[self.severity - 1])


def _nothing(key: Key, shape: tuple[int, ...]) -> tuple[()]:
  del key, shape
  return ()


def _normal(key: Key, shape: tuple[int, ...]) -> Array:
  return jax.random.normal(key, shape)


def _noise(drawn: Array, image: Array, std: float) -> Array:
  return jnp.clip(image + std * drawn, 0, 1)


def _shot(drawn: Array, image: Array, std: float) -> Array:
  """Noise of counted light: its variance is proportional to the brightness."""
  return jnp.clip(image + std * jnp.sqrt(jnp.clip(image, 0, 1)) * drawn, 0, 1)


def _blur(drawn: Any, image: Array, share: float) -> Array:
  """Gaussian blur by cosines, as if the picture were mirrored at its edges."""
  del drawn
  sigma = share * min(image.shape[:2])
  for axis in (0, 1):
    size = image.shape[axis]
    basis = _cosines(size)
    damping = jnp.exp(-0.5 * jnp.square(sigma * np.pi * np.arange(size) / size))
    matrix = basis.T @ (damping[:, None] * basis)
    image = jnp.moveaxis(jnp.tensordot(matrix, image, (1, axis)), 0, axis)
  return image


def _angle(key: Key, shape: tuple[int, ...]) -> Array:
  del shape
  return jax.random.uniform(key, (), maxval=np.pi)


def _motion(angle: Array, image: Array, share: float) -> Array:
  """The mean of the picture over a straight way of `share` of its shorter side."""
  height, width, _ = image.shape
  way = share * min(height, width)
  y, x = jnp.meshgrid(jnp.arange(float(height)), jnp.arange(float(width)), indexing="ij")
  total = jnp.zeros_like(image)
  steps = np.linspace(-0.5, 0.5, 9)
  for step in steps:
    places = [y + step * way * jnp.sin(angle), x + step * way * jnp.cos(angle)]
    sample = lambda c, at=places: jax.scipy.ndimage.map_coordinates(c, at, 1, "nearest")  # noqa: E731
    total = total + jax.vmap(sample, -1, -1)(image)
  return total / len(steps)


def _contrast(drawn: Any, image: Array, kept: float) -> Array:
  del drawn
  mean = image.mean((0, 1), keepdims=True)
  return mean + kept * (image - mean)


def _brightness(drawn: Any, image: Array, added: float) -> Array:
  del drawn
  return jnp.clip(image + added, 0, 1)


def _pixelation(drawn: Any, image: Array, level: float) -> Array:
  """Means of blocks of 2^level pixels; between two whole levels the mean of both.

  Block means are projections, and those of larger blocks lie in the space of smaller ones, so that
  by Pythagoras the distance to the picture grows from level to level.
  """
  del drawn
  below = int(level)
  part = level - below
  low, high = _block_means(image, 2**below), _block_means(image, 2 ** (below + 1))
  return (1 - part) * low + part * high


def _block_means(image: Array, side: int) -> Array:
  """Each pixel's block mean; blocks at the right and lower edge may be smaller."""
  height, width, channels = image.shape
  rows, columns = -(-height // side), -(-width // side)
  pad = ((0, rows * side - height), (0, columns * side - width), (0, 0))
  blocks = (rows, side, columns, side, channels)
  total = jnp.pad(image, pad).reshape(blocks).sum((1, 3), keepdims=True)
  count = jnp.pad(jnp.ones_like(image), pad).reshape(blocks).sum((1, 3), keepdims=True)
  full = jnp.broadcast_to(total / count, blocks).reshape(rows * side, columns * side, channels)
  return full[:height, :width]


def _jpeg(drawn: Any, image: Array, quality: float) -> Array:
  """Quantised cosines of blocks of 8 x 8, each channel as JPEG treats brightness; no entropy code.

  Quality goes to a scale of the standard table as in the library of the Independent JPEG Group.
  """
  del drawn
  scale = 50 / quality if quality < 50 else 2 - quality / 50
  table = jnp.clip(jnp.floor(_LUMINANCE * scale + 0.5), 1, 255)[None, :, None, :, None]
  height, width, channels = image.shape
  rows, columns = -(-height // 8), -(-width // 8)
  pad = ((0, 8 * rows - height), (0, 8 * columns - width), (0, 0))
  padded = jnp.pad(255 * image - 128, pad, mode="edge")
  blocks = padded.reshape(rows, 8, columns, 8, channels)
  basis = _cosines(8)
  found = jnp.einsum("ua,vb,iajbc->iujvc", basis, basis, blocks)
  kept = jnp.round(found / table) * table
  back = jnp.einsum("ua,vb,iujvc->iajbc", basis, basis, kept)
  whole = back.reshape(8 * rows, 8 * columns, channels)[:height, :width]
  return jnp.clip((whole + 128) / 255, 0, 1)


def _hairs(drawn: Array, image: Array, count: float) -> Array:
  """Dark bent lines as hairs on skin; `drawn` [line, 3, 2]: points as shares of the sides."""
  height, width, _ = image.shape
  y, x = jnp.meshgrid(jnp.arange(float(height)), jnp.arange(float(width)), indexing="ij")
  times = jnp.linspace(0, 1, 24)[:, None]
  weights = jnp.concatenate([(1 - times) ** 2, 2 * times * (1 - times), times**2], -1)
  thickness = max(0.6, 0.008 * min(height, width))
  for line in drawn[: int(count)]:
    curve = weights @ line
    down, right = curve[:, 0] * height, curve[:, 1] * width
    # A curve of Bezier; the distance to the straight pieces between its points.
    ay, ax = down[:-1, None, None], right[:-1, None, None]
    dy, dx = down[1:, None, None] - ay, right[1:, None, None] - ax
    along = ((y[None] - ay) * dy + (x[None] - ax) * dx) / jnp.maximum(dy**2 + dx**2, 1e-9)
    along = jnp.clip(along, 0, 1)
    far = jnp.hypot(y[None] - ay - along * dy, x[None] - ax - along * dx).min(0)
    cover = jnp.clip(thickness + 0.5 - far, 0, 1)[..., None]
    image = jnp.minimum(image, (1 - cover) * image + cover * 0.1)
  return image


def _lines(key: Key, shape: tuple[int, ...]) -> Array:
  del shape
  return jax.random.uniform(key, (_MOST_HAIRS, 3, 2))


@functools.cache
def _cosines(size: int) -> np.ndarray:
  """[frequency, pixel] orthonormal cosines (DCT-II)."""
  place = (np.arange(size) + 0.5) / size
  basis = np.sqrt(2 / size) * np.cos(np.pi * np.arange(size)[:, None] * place[None, :])
  basis[0] /= np.sqrt(2)
  return basis.astype(np.float32)


_MOST_HAIRS = 12
_LUMINANCE = np.array(
  [  # ITU T.81, table K.1
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ],
  np.float32,
)

CORRUPTIONS = {
  "noise": Corruption(_normal, _noise, (0.04, 0.08, 0.12, 0.18, 0.26), True),
  "shot": Corruption(_normal, _shot, (0.06, 0.12, 0.18, 0.27, 0.4), True),
  "blur": Corruption(_nothing, _blur, (0.005, 0.01, 0.015, 0.02, 0.03), True),
  "motion": Corruption(_angle, _motion, (0.02, 0.04, 0.06, 0.09, 0.13), False),
  "contrast": Corruption(_nothing, _contrast, (0.7, 0.55, 0.4, 0.25, 0.12), True),
  "brightness": Corruption(_nothing, _brightness, (0.1, 0.2, 0.3, 0.4, 0.5), True),
  "pixelation": Corruption(_nothing, _pixelation, (1.0, 1.5, 2.0, 2.5, 3.0), True),
  "jpeg": Corruption(_nothing, _jpeg, (25.0, 18.0, 12.0, 8.0, 5.0), False),
  "hairs": Corruption(_lines, _hairs, (1.0, 3.0, 5.0, 8.0, 12.0), True),
}
"""The suite, by name."""
