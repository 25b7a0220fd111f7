"""Connected components of a mask on the device: one program, whatever the mask holds.

Each True pixel starts with a label of its own, its place in the flattened mask. In turns it takes
the lowest label of its neighbours, and then the label of the pixel that this label names (pointer
jumping), until nothing changes: every pixel of a component then has the lowest place in it. A
component as long as a snake needs about the logarithm of its length in turns.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from medjax import check


def connected_components(
  mask: Bool[Array | np.ndarray, "*space"], *, corners: bool = False
) -> Int[Array, "*space"]:
  """The number of its component at every pixel: 1 + the lowest place in it, 0 outside.

  >>> connected_components(jnp.array([[True, True, False, True]])).tolist()
  [[1, 1, 0, 4]]

  Args:
    mask: [*space] bool, of any number of axes; `jax.vmap` adds others.
    corners: whether pixels that touch at an edge or a corner are connected; else faces only.
  Returns:
    [*space] int32. Numbers are not consecutive: no shape depends on what the mask holds.
  Raises:
    InputError: a mask that is not bool.
  """
  check.require(
    mask.dtype == bool and mask.ndim, "a bool mask", f"{mask.dtype} {mask.shape}",
    "compare labels with a class",
  )  # fmt: skip
  return _components(jnp.asarray(mask), corners)


def largest_component(
  mask: Bool[Array | np.ndarray, "*space"], *, corners: bool = False
) -> Bool[Array, "*space"]:
  """The component of most pixels, of equals the first; nothing of an empty mask.

  >>> largest_component(jnp.array([True, False, True, True])).tolist()
  [False, False, True, True]
  """
  numbers = connected_components(mask, corners=corners)
  sizes = jnp.zeros(numbers.size + 1, jnp.int32).at[numbers.ravel()].add(1).at[0].set(0)
  return (numbers == jnp.argmax(sizes)) & jnp.asarray(mask)


def _components(mask: jax.Array, corners: bool) -> jax.Array:
  nowhere = mask.size  # a label above all others, outside of the mask
  start = jnp.where(mask, jnp.arange(mask.size, dtype=jnp.int32).reshape(mask.shape), nowhere)

  def along(labels: jax.Array, axis: int) -> jax.Array:
    """The lowest of a pixel and its two neighbours along an axis."""
    pad = [(int(a == axis), int(a == axis)) for a in range(mask.ndim)]
    wide, size = jnp.pad(labels, pad, constant_values=nowhere), mask.shape[axis]
    parts = [jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(3)]
    return jnp.minimum(jnp.minimum(parts[0], parts[1]), parts[2])

  def turn(both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    labels, _ = both
    lowest = labels
    for axis in range(mask.ndim):
      # With corners the axes are taken one after another, which reaches the diagonals.
      lowest = along(lowest, axis) if corners else jnp.minimum(lowest, along(labels, axis))
    lowest = jnp.where(mask, lowest, nowhere)
    named = jnp.append(lowest.ravel(), nowhere)
    return named[named[lowest]], (lowest != labels).any()

  labels, _ = jax.lax.while_loop(lambda both: both[1], turn, (start, jnp.bool_(True)))
  return jnp.where(mask, labels + 1, 0)
