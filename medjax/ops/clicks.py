"""Clicks of a simulated person who corrects a mask: where the largest error is, and of which kind.

Sofiuk et al., "Reviving Iterative Training with Mask Guidance for Interactive Segmentation" (2022),
whose protocol the papers on interactive segmentation share. With D the distance of a pixel to the
outside of its error region (the border of the picture is outside, too),

  missed = truth without the answer, invented = the answer without truth
  test:      the next click is argmax D over both kinds, positive if the pixel was missed
  training:  one of the pixels of the deeper kind with D > max D / 2, at random

Everything is one program of static shape, so that a whole session of clicks runs under `jax.jit`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from medjax import check
from medjax.ops.connected import largest_component
from medjax.ops.distance_transform import distance_transform
from medjax.types import Key

NO_CLICK = -2
"""Label of a click that was not made; `nets.IGNORED` of a prompt."""
ObjectMask = Bool[Array | np.ndarray, "row column"]
Answer = Bool[Array | np.ndarray, "answer_row answer_column"]  # of the shape that `truth` has


class Click(NamedTuple):
  """One click.

  Attributes:
    place: [2] float32, (x, y) in pixels; the middle of the first pixel is (0, 0).
    label: int32, 1 on the object, 0 beside it, -2 where there was nothing to click at.
  """

  place: Array
  label: Array


def next_click(
  found: Answer, truth: ObjectMask, *, clicked: ObjectMask | None = None, key: Key | None = None,
  largest: bool = False,
) -> Click:  # fmt: skip
  """The click that corrects `found`; by an empty `found` the first click, on the object's middle.

  >>> truth = jnp.zeros((5, 7), bool).at[1:4, 2:5].set(True)
  >>> place, label = next_click(jnp.zeros((5, 7), bool), truth)
  >>> place.tolist(), int(label)
  ([3.0, 2.0], 1)
  >>> int(next_click(truth, truth).label)  # nothing to correct
  -2

  Args:
    found: [row, column] the answer so far.
    truth: [row, column] what is wanted.
    clicked: [row, column] pixels that are not clicked again.
    key: None clicks the deepest pixel (the protocol of tests); a key draws one that is more than
      half as deep, among those of the deeper kind (the protocol of training).
    largest: look at the largest connected error region only, by pixels; else, as in the released
      code, at all of them, which a large but thin region may lose against a small round one.
  Raises:
    InputError: masks of different shapes, or that are not bool.
  Guarantees: a click of label 1 is on a missed pixel, one of label 0 on an invented one. Of equal
    depths a missed pixel comes first, then the one of the first row, then of the first column.
  """
  check.same_shape("found", found.shape, "truth", truth.shape)
  found, truth = jnp.asarray(found), jnp.asarray(truth)
  kinds = jnp.stack([truth & ~found, found & ~truth])
  if largest:
    kinds = jax.vmap(largest_component)(kinds)
    sizes = kinds.sum((1, 2))
    kinds = kinds & (sizes == sizes.max())[:, None, None]
  depths = jax.vmap(depth)(kinds)
  if clicked is not None:
    depths = jnp.where(jnp.asarray(clicked), 0.0, depths)
  deepest = depths.max()
  if key is None:
    chosen = jnp.argmax(depths)
  else:
    is_deeper = depths.max((1, 2)) == deepest
    is_deeper = is_deeper & (jnp.cumsum(is_deeper) == 1)  # of two equal kinds the first
    inner = (depths > deepest / 2) & is_deeper[:, None, None]
    chosen = _drawn(inner, key)
  kind, row, column = jnp.unravel_index(chosen, depths.shape)
  return _click(row, column, 1 - kind, deepest > 0)


def random_click(truth: ObjectMask, key: Key) -> Click:
  """A click anywhere on the object, each of its pixels as likely: the first one of a training."""
  truth = jnp.asarray(truth)
  row, column = jnp.unravel_index(_drawn(truth, key), truth.shape)
  return _click(row, column, jnp.int32(1), truth.any())


def depth(mask: ObjectMask) -> Float[Array, "row column"]:
  """Distance of each pixel of a mask to the outside, in pixels; what the picture cuts off is outside.

  >>> depth(jnp.ones((3, 3), bool)).tolist()
  [[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
  """  # noqa: E501
  outside = ~jnp.pad(jnp.asarray(mask), 1)
  return distance_transform(outside, spacing=(1.0, 1.0))[1:-1, 1:-1]


def _drawn(mask: jax.Array, key: Key) -> jax.Array:
  """Place of a True pixel in the flattened mask, each as likely."""
  return jax.random.categorical(key, jnp.where(mask.ravel(), 0.0, -jnp.inf))


def _click(row: jax.Array, column: jax.Array, label: jax.Array, is_made: jax.Array) -> Click:
  place = jnp.stack([column, row]).astype(jnp.float32)
  label = jnp.where(is_made, label, NO_CLICK).astype(jnp.int32)
  return Click(jnp.where(is_made, place, 0.0), label)
