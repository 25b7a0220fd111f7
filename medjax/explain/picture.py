"""A map in the size of its image and in grey levels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from medjax.types import Array


def picture(values: Array, shape: Sequence[int]) -> Array:
  """A map in the size of the image, from 0 at its least value to 255 at its greatest.

  >>> picture(jnp.array([[1.0, 3.0]]), (1, 2)).tolist()
  [[0.0, 255.0]]

  Args:
    values: [*space] of any units.
    shape: of the image; between the places of the map values are interpolated linearly.
  Returns:
    float32 [*shape] in [0, 255]; a map that is the same everywhere is 0.
  """
  large = jax.image.resize(values.astype(jnp.float32), tuple(shape), "linear")
  low, high = large.min(), large.max()
  return 255 * (large - low) / jnp.where(high > low, high - low, 1.0)
