"""Overlap of two label maps, per class.

  Dice = 2 |P & T| / (|P| + |T|),   Jaccard = |P & T| / |P | T|

A class found in neither map has no overlap to measure: NaN, so that means count it apart. A class
in only one of them scores 0. Voxels whose target is `types.IGNORE` count in neither map.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from medjax import labels
from medjax.types import Number, Numbers


def dice(
  prediction: Integer[Array | np.ndarray, "*space"],
  target: Integer[Array | np.ndarray, "*target_space"],
  *,
  num_classes: int,
  spacing: Numbers | None = None,
  empty: str = "nan",
  include_background: bool = False,
) -> Float[Array, " classes"]:
  """Dice score in [0, 1] of each class, [num_classes - 1] (background first if included).

  Args:
    prediction, target: class ids on one grid.
    num_classes: K, background included; a value that is no class is refused, or, under jit, makes
      all scores NaN.
    spacing, empty: accepted so that all metrics are called alike; overlap does not depend on them.
    include_background: also score class 0.
  """
  del spacing, empty
  truth, found, counts = _counts(prediction, target, num_classes, include_background)
  both, first, second = counts
  return found.checked(truth.checked(ratio(2 * both, first + second)))


def jaccard(
  prediction: Integer[Array | np.ndarray, "*space"],
  target: Integer[Array | np.ndarray, "*target_space"],
  *,
  num_classes: int,
  spacing: Numbers | None = None,
  empty: str = "nan",
  include_background: bool = False,
) -> Float[Array, " classes"]:
  """Jaccard index (intersection over union) in [0, 1] of each class; arguments as `dice`."""
  del spacing, empty
  truth, found, counts = _counts(prediction, target, num_classes, include_background)
  both, first, second = counts
  return found.checked(truth.checked(ratio(both, first + second - both)))


def _counts(prediction, target, num_classes, include_background):
  classes = jnp.arange(0 if include_background else 1, num_classes)
  truth = labels.of_classes("target", target, num_classes)
  found = labels.of_classes(
    "prediction", prediction, num_classes, shape=truth.ids.shape, other="the target", lowest=0
  )

  def count(k):
    in_prediction, in_target = (found.ids == k) & truth.is_known, truth.ids == k
    # int32 counts are exact up to 2^31 voxels; float32 sums stop at 2^24.
    return (in_prediction & in_target).sum(), in_prediction.sum(), in_target.sum()

  return truth, found, jax.vmap(count)(classes)


def ratio(numerator: Number, denominator: Number) -> jax.Array:
  """Float32 quotient of counts, NaN over 0."""
  value = numerator / jnp.maximum(denominator, 1)
  return jnp.where(denominator > 0, value, jnp.nan).astype(jnp.float32)
