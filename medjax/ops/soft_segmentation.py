"""Soft segmentation of one structure: labels in [0, 1], a normalised ReLU, and their Dice loss.

SoftSeg (Gros, Lemay & Cohen-Adad 2021): partial volume stays in the label, and the network ends in

  p = relu(x) / max relu(x)                         0 where nothing is above 0
  loss = 1 - (2 sum p y + s) / (sum p + sum y + s)

The MS replay paper's code takes maximum and sums over the whole batch, so that a patient's
prediction depends on who else is in the batch, and no per-example gradient exists. Here both are
over one example; `couple_batch` gives the published forms.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check
from medjax.axes import BATCH_AXIS, require_batch_axis
from medjax.tree import at_least_float32


def normalised_relu(
  logits: Float[Array, "*any"], *, couple_batch: bool = False
) -> Float[Array, "*any"]:
  """relu(x) over its largest value: in [0, 1], and 1 somewhere unless all of x is 0 or less.

  >>> normalised_relu(jnp.array([-1.0, 1.0, 4.0])).tolist()
  [0.0, 0.25, 1.0]

  Args:
    logits: of ONE example, one structure.
    couple_batch: divide by the maximum of the whole batch, inside a vmap whose axis is "batch".
  """
  positive = jax.nn.relu(at_least_float32(logits))
  flat = positive.reshape(-1)
  largest = flat[flat.argmax()]  # not max(), whose gradient divides by a count, see `ops.pooling`
  if couple_batch:
    _require_batch()
    largest = jax.lax.all_gather(largest, BATCH_AXIS).max()
  return jnp.where(largest > 0, positive / jnp.where(largest > 0, largest, 1.0), 0.0)


def soft_overlap_loss(
  prediction: Float[Array, "*space"],
  label: Float[Array, "*space"],
  *,
  smooth: float | int = 1.0,
  couple_batch: bool = False,
) -> Float[Array, ""]:
  """Dice loss of a soft prediction and a soft label, in [0, 1].

  With labels strictly between 0 and 1 its minimum is not at prediction = label: it pays to predict
  1 wherever the label is above about half the Dice reached. The form is the published one.

  >>> soft_overlap_loss(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0])).item()
  0.0

  Args:
    prediction, label: in [0, 1].
    smooth: s, in voxels, >= 0.
    couple_batch: sums over the whole batch, inside a vmap whose axis is "batch".
  """
  check.non_negative("smooth", smooth)
  prediction, label = at_least_float32(prediction), at_least_float32(label)
  overlap, total = (prediction * label).sum(), prediction.sum() + label.sum()
  if couple_batch:
    _require_batch()
    overlap, total = jax.lax.psum((overlap, total), BATCH_AXIS)
  below = total + smooth
  return jnp.where(below > 0, 1 - (2 * overlap + smooth) / jnp.where(below > 0, below, 1.0), 0.0)


def _require_batch() -> None:
  require_batch_axis(
    f"a vmapped axis named {BATCH_AXIS!r} for couple_batch=True",
    "a function of one example",
    f"use jax.vmap(..., axis_name={BATCH_AXIS!r}) or couple_batch=False",
  )
