"""What the numbers of a label array mean, whatever their integer type: one check for all rooms.

A label is a class id in 0..K-1, or `types.IGNORE` (-1) where nothing is known. Unsigned arrays hold
no -1, so that 255 in a uint8 mask is the class 255 and nothing else; a label that is no class of
the K is refused, as 255 and -100 are, by which other libraries mark what is unknown.

Values can be looked at where the array is there. Under `jit`, `grad` and `vmap` it is not: results
then become NaN (`Labels.checked`), which a training stops on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.types import IGNORE, Leaf, PyTree


class Labels(NamedTuple):
  """Labels whose shape was checked.

  Attributes:
    ids: int32, of the shape of the labels.
    is_known: bool, False where the label is `IGNORE`.
    is_valid: scalar bool, whether all of them are class ids or `IGNORE`; True where this was seen.
  """

  ids: Leaf
  is_known: Leaf
  is_valid: Leaf

  def checked(self, results: PyTree) -> PyTree:
    """The results, all NaN (gradients too) if a label that was only seen under jit is no class."""
    if self.is_valid is True:
      return results
    factor = jnp.where(self.is_valid, 1.0, jnp.nan)
    return jax.tree.map(lambda x: x * factor.astype(x.dtype), results)


def of_classes(
  name: str,
  label: Leaf,
  num_classes: int,
  *,
  shape: Sequence[int] | None = None,
  other: str = "logits without the class axis",
  lowest: int = IGNORE,
) -> Labels:
  """Labels as int32 class ids.

  >>> of_classes("label", np.array([0, 2, -1], np.int8), 3).is_known.tolist()
  [True, True, False]

  Args:
    name: of the labels, for messages.
    label: integers or bools of any width and shape.
    num_classes: K.
    shape: which they must have; None does not ask.
    other: what has that shape, for messages.
    lowest: 0 refuses `IGNORE` too.
  Raises:
    InputError: another shape, numbers that are no integers, or, unless traced, values that are
      neither a class id nor `IGNORE`.
  """
  if not isinstance(label, jax.Array):
    label = np.asarray(label)
  if shape is not None and tuple(label.shape) != tuple(shape):
    remedy = "give one label an element"
    for what, longer, shorter in ((name, label.shape, shape), (other, shape, label.shape)):
      if tuple(longer) == (*shorter, 1):
        remedy = f"drop the last axis of {what}: [..., 0]"
    raise check.InputError(
      f"{name} of the shape of {other}, {tuple(shape)}", f"{tuple(label.shape)}", remedy
    )
  kind = np.dtype(label.dtype).kind
  check.require(kind in "iub", f"integers as {name}", f"{label.dtype}", "pass class ids")
  ids = _int32(label)
  is_valid = ((ids >= lowest) & (ids < num_classes)).all()
  if isinstance(is_valid, jax.core.Tracer):
    return Labels(ids, ids != IGNORE, is_valid)
  if not bool(is_valid):
    ignored = f" or {IGNORE}" if lowest < 0 else ""
    raise check.InputError(
      f"class ids 0..{num_classes - 1}{ignored} as {name}",
      f"values {int(label.min())}..{int(label.max())}",
      f"give one class for each value, and mark what is unknown in a target by {IGNORE}",
    )
  return Labels(ids, ids != IGNORE, True)


def _int32(label: Any) -> Any:
  """The same numbers, those beyond int32 at its ends: they are no class ids either way."""
  xp = jnp if isinstance(label, jax.Array) else np
  if label.dtype == bool or np.iinfo(label.dtype).bits < 32 or label.dtype == np.int32:
    return label.astype(np.int32)
  ends, own = np.iinfo(np.int32), np.iinfo(label.dtype)
  return xp.clip(label, max(own.min, ends.min), min(own.max, ends.max)).astype(np.int32)
