"""Differentiable Siamese augmentation: one random change, the same for real and distilled images.

Zhao and Bilen, "Dataset condensation with differentiable Siamese augmentation" (2021): every
iteration draws one operation of colour, crop, cutout, flip, scale or rotation and its parameters,
and both sets undergo it. Since a transform here draws first and applies afterwards, that is
`drawn = siamese().draw(key, shape)` and `apply(drawn, image)` for every image of both sets.
Gradients with respect to the image pass through all of it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax import check
from medjax.data.augmentation.intensity import Brightness, Contrast
from medjax.data.augmentation.spatial import Spatial, SpatialParameters
from medjax.transforms import OneOf, one_of
from medjax.types import Key


@dataclasses.dataclass(frozen=True)
class Moved:
  """`Spatial` of an image alone, of the image's own shape."""

  spatial: Spatial

  def draw(self, key: Key, shape: tuple[int, ...]) -> SpatialParameters:
    return self.spatial.draw(key, shape[:-1])

  def apply(
    self, parameters: SpatialParameters, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return self.spatial.apply(parameters, image, None, image.shape[:-1])[0]


@dataclasses.dataclass(frozen=True)
class Translated:
  """Moved by whole voxels along every axis; 0 comes in from outside.

  Attributes:
    fraction: largest shift over the side, in [0, 1).
  """

  fraction: float = 0.125

  def __post_init__(self):
    check.in_interval("fraction", self.fraction, 0.0, 0.999)

  def _most(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(self.fraction * side) for side in shape[:-1])

  def draw(self, key: Key, shape: tuple[int, ...]) -> Int[Array, " ndim"]:
    """Shifts in voxels."""
    most = np.array(self._most(shape), np.int32)
    return jax.random.randint(key, most.shape, -most, most + 1)

  def apply(
    self, shift: Int[Array, " ndim"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    most = self._most(image.shape)
    padded = jnp.pad(image, [(m, m) for m in most] + [(0, 0)])
    start = [m - shift[axis] for axis, m in enumerate(most)] + [jnp.int32(0)]
    return jax.lax.dynamic_slice(padded, start, image.shape)


@dataclasses.dataclass(frozen=True)
class Cutout:
  """A box of zeros, its middle anywhere in the image.

  Attributes:
    fraction: side of the box over that of the image, in [0, 1].
  """

  fraction: float = 0.5

  def __post_init__(self):
    check.in_interval("fraction", self.fraction, 0.0, 1.0)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Int[Array, " ndim"]:
    """The middle of the box."""
    sides = np.array(shape[:-1], np.int32)
    return jax.random.randint(key, sides.shape, 0, sides)

  def apply(
    self, middle: Int[Array, " ndim"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    is_out = jnp.ones(image.shape, bool)
    for axis, side in enumerate(image.shape[:-1]):
      width = round(self.fraction * side)
      first = middle[axis] - width // 2
      place = jnp.arange(side)
      along = (place >= first) & (place < first + width)
      is_out &= along.reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    return jnp.where(is_out, 0.0, image)


def siamese() -> OneOf:
  """One of the operations of DSA, each as likely, with the paper's ranges.

  DEVIATION: colour is brightness or contrast of each channel, as factors; the released code adds
  brightness and changes saturation. Scale changes both axes alike.
  """
  rotated = Spatial(
    rotation_degrees=15.0,
    rotation_probability=1.0,
    scaling_probability=0.0,
    mirror_probability=0.0,
  )
  scaled = dataclasses.replace(
    rotated, rotation_probability=0.0, scaling=(1 / 1.2, 1.2), scaling_probability=1.0
  )
  flipped = dataclasses.replace(
    rotated, rotation_probability=0.0, mirror_axes=(1,), mirror_probability=0.5
  )
  return one_of(
    brightness=Brightness((0.5, 1.5)),
    contrast=Contrast((0.5, 1.5)),
    crop=Translated(0.125),
    cutout=Cutout(0.5),
    flip=Moved(flipped),
    scale=Moved(scaled),
    rotate=Moved(rotated),
  )
