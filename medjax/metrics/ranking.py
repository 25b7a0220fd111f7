"""Ranking of examples by their scores: area under the ROC curve.

  AUROC = P(s+ > s-) + P(s+ = s-) / 2

over pairs of a positive and a negative example (the Mann-Whitney statistic with midranks for ties,
Hanley and McNeil, Radiology 1982). Several classes: the mean over classes of one against the rest.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medjax import check
from medjax.tree import at_least_float32
from medjax.types import IGNORE


def auroc(
  scores: Float[Array | np.ndarray, " n"] | Float[Array | np.ndarray, "n classes"],
  labels: Int[Array | np.ndarray, " n"] | Bool[Array | np.ndarray, " n"],
  *,
  weight: Any = None,
) -> Float[Array, ""]:
  """Area under the ROC curve in [0, 1], a scalar; jittable and vmappable.

  >>> scores, labels = jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1])
  >>> float(auroc(scores, labels))  # of 4 pairs 3 are right and 1 is a tie
  0.875

  Args:
    scores: [n], larger for label 1; or [n, class], probabilities or logits that rank the examples
      of one class.
    labels: [n] of 0 and 1; class ids for [n, class]. Examples labelled `types.IGNORE` count
      nowhere.
    weight: [n] >= 0; 0 marks padding, a whole number counts the example so often.
  Returns:
    The area; NaN without a positive or without a negative example (of any class, if several: a mean
    over fewer classes is another quantity), or if the score of a counted example is NaN.
  Raises:
    InputError: shapes that do not fit, or scores of one class.
  """
  scores, labels = at_least_float32(jnp.asarray(scores)), jnp.asarray(labels).astype(jnp.int32)
  weight = jnp.ones(labels.shape, scores.dtype) if weight is None else jnp.asarray(weight)
  check.same_shape("weight", weight.shape, "labels", labels.shape)
  weight = jnp.where(labels == IGNORE, 0.0, weight.astype(scores.dtype))
  if scores.ndim == 1:
    return _area(scores, jnp.where(labels == 1, weight, 0), jnp.where(labels == 0, weight, 0))
  check.require(
    scores.shape[1] > 1,
    "scores [n] or [n, class] with 2 classes or more",
    f"{scores.shape}",
    "pass the scores of the positive class alone as [n]",
  )
  is_class = labels[:, None] == jnp.arange(scores.shape[1])[None]
  positive, rest = (jnp.where(side, weight[:, None], 0) for side in (is_class, ~is_class))
  return jax.vmap(_area, in_axes=1)(scores, positive, rest).mean()


def _area(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
  """Of one class; `positive` and `negative` are weights, at most one of them above 0."""
  order = jnp.argsort(scores)
  ranked = scores[order]
  below = jnp.concatenate([jnp.zeros(1, scores.dtype), jnp.cumsum(negative[order])])
  # Weight of the negatives below each score, and of those at it: half of a tie is won.
  lower = below[jnp.searchsorted(ranked, scores, side="left")]
  upper = below[jnp.searchsorted(ranked, scores, side="right")]
  wins, pairs = (positive * (lower + upper) / 2).sum(), positive.sum() * negative.sum()
  is_known = ~jnp.any(jnp.isnan(scores) & (positive + negative > 0))
  defined = (pairs > 0) & is_known
  return jnp.where(defined, wins / jnp.where(defined, pairs, 1.0), jnp.nan)
