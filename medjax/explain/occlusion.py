"""Occlusion: how far a score falls when a window of the image is covered.

  map(p) = mean over the windows W that hold p of  f(x) - f(x with W covered)

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014), Section 4.2. It
asks for no gradient, so that the network may be anything, also a rule or an ensemble.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.types import Array


def occlusion(
  score_fn: Callable[[Array], Array],
  image: Array,
  *,
  window: int | Sequence[int],
  stride: int | Sequence[int] | None = None,
  fill: Array | float | int = 0.0,
  chunk: int = 32,
) -> Array:
  """The map of ONE image; `jax.vmap` gives those of a batch.

  >>> image = jnp.array([[[1.0], [2.0], [4.0], [8.0]]])  # one row of four places
  >>> occlusion(jnp.sum, image, window=(1, 2)).tolist()  # what each window adds to the sum
  [[3.0, 3.0, 12.0, 12.0]]

  Args:
    score_fn: `score_fn(image) -> scalar`, for example the logit of one class.
    image: [*space, channel].
    window: side of a window in pixels, one number or one an axis of space.
    stride: pixels from a window to the next; None: the window, so that none overlap. The last
      window of an axis is moved back to end with the image, so that every place is covered.
    fill: what stands in a covered place: a number, or an array that broadcasts to the image, such
      as a blurred copy of it. A value that occurs in no image makes a score that means little.
    chunk: windows that are scored at once; more takes more memory.
  Returns:
    [*space], in units of the score: above 0 where the score needs the place, below 0 where it falls
    without it.
  Raises:
    InputError: an image without an axis of space, a window larger than the image, a stride that
      leaves places uncovered, or a window, stride or chunk below 1.
  """
  check.require(image.ndim >= 2, "an image [*space, channel]", f"{image.shape}", "add the axis")
  check.positive("chunk", chunk)
  space = image.shape[:-1]
  sides = _per_axis("window", window, len(space))
  strides = sides if stride is None else _per_axis("stride", stride, len(space))
  for size, side, step in zip(space, sides, strides, strict=True):
    check.require(
      0 < side <= size,
      f"windows of 1 to {size} pixels on an axis of {size}",
      f"{side}",
      "make the window smaller",
    )
    check.require(0 < step <= side, f"a stride of 1 to {side}", f"{step}", "windows have to meet")
  starts = [
    np.minimum(np.arange(0, size - side + step, step), size - side)
    for size, side, step in zip(space, sides, strides, strict=True)
  ]
  corners = np.stack([axis.ravel() for axis in np.meshgrid(*starts, indexing="ij")], axis=-1)

  def covered(corner: Array) -> Array:
    """The score with the window at this corner filled."""
    inside = jnp.array(True)
    for axis, (size, side) in enumerate(zip(space, sides, strict=True)):
      place = jnp.arange(size).reshape([-1 if i == axis else 1 for i in range(len(space))])
      inside = inside & (corner[axis] <= place) & (place < corner[axis] + side)
    return score_fn(jnp.where(inside[..., None], fill, image))

  drops = score_fn(image) - jax.lax.map(covered, jnp.asarray(corners), batch_size=chunk)
  drops = drops.reshape([len(axis) for axis in starts])
  # Which windows hold a place is decided axis by axis, so that the mean over them is too. Each
  # product takes the first axis, one of windows, and puts an axis of places at the end.
  for start, side, size in zip(starts, sides, space, strict=True):
    place = np.arange(size)
    holds = (start[:, None] <= place) & (place < start[:, None] + side)
    mean = jnp.asarray(holds / holds.sum(0), drops.dtype)
    drops = jnp.tensordot(drops, mean, ((0,), (0,)), precision="highest")
  return drops


def _per_axis(name: str, value: int | Sequence[int], num_axes: int) -> tuple[int, ...]:
  found = (value,) * num_axes if isinstance(value, int) else tuple(value)
  check.require(
    len(found) == num_axes, f"{name} for {num_axes} axes of space", f"{found}", "give one an axis"
  )
  return found
