"""How much of a map lies in a box that an expert drew."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from medjax.types import Array


class AttentionInBox(NamedTuple):
  """Two measures of one map.

  Attributes:
    published: sum of the map in the box over its sum outside, where in the box only grey levels
      above the threshold count; grows with the box, also of a map that shows nothing.
    by_area: mean in the box over the sum of the means in it and outside, in [0, 1]: .5 for a map
      that knows nothing of the box, whatever its size, and for an empty map.
  """

  published: Any
  by_area: Any


def attention_in_box(
  attention: Array, box: Array, *, threshold: float | int = 100
) -> AttentionInBox:
  """Measures a map in grey levels against a box.

    published = sum_{in box, a > threshold} a / sum_{outside} a

  Ketabi et al., "Multimodal Learning for Improving Performance and Explainability of Chest X-Ray
  Classification" (2023), Section 2.2.

  >>> box = jnp.array([[True, False, False, False]])
  >>> found = attention_in_box(jnp.array([[120.0, 120.0, 120.0, 120.0]]), box)
  >>> round(float(found.published), 4), float(found.by_area)  # a third of it lies in the box
  (0.3333, 0.5)

  Args:
    attention: [*space] in [0, 255], see `explain.picture`.
    box: [*space] of bool, with places inside and outside.
    threshold: grey levels that count inside lie above it; the paper's 100.
  Returns:
    Two scalars. Sums outside are taken as 1 at least, so that a map in the box alone has a number.
  """
  inside = jnp.asarray(box, bool)
  high = jnp.where(inside & (attention > threshold), attention, 0.0).sum()
  outside = jnp.where(inside, 0.0, attention).sum()
  mean_in = jnp.where(inside, attention, 0.0).sum() / jnp.maximum(inside.sum(), 1)
  mean_out = outside / jnp.maximum((~inside).sum(), 1)
  both = mean_in + mean_out
  by_area = jnp.where(both > 0, mean_in / jnp.where(both > 0, both, 1.0), 0.5)
  return AttentionInBox(high / jnp.maximum(outside, 1.0), by_area)
