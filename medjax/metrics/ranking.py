"""Ranking of examples by their scores: area under the ROC curve, and average precision.

  AUROC = P(s+ > s-) + P(s+ = s-) / 2,   AP = mean over positives of precision(s >= s+)

over pairs of a positive and a negative example (the Mann-Whitney statistic with midranks for ties,
Hanley and McNeil, Radiology 1982), and the precision of calling positive whatever scores at least
as high as each positive. Several classes: the mean over classes of one against the rest.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from medjax import check
from medjax import labels as label_checks
from medjax.tree import at_least_float32


def auroc(
  scores: Float[Array | np.ndarray, " n"] | Float[Array | np.ndarray, "n classes"],
  labels: Integer[Array | np.ndarray, "*labels"] | Bool[Array | np.ndarray, "*labels"],
  *,
  weight: ArrayLike | None = None,
) -> Float[Array, ""]:
  """Area under the ROC curve in [0, 1], a scalar; jittable and vmappable.

  >>> scores, labels = jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1])
  >>> float(auroc(scores, labels))  # of 4 pairs 3 are right and 1 is a tie
  0.875

  Args:
    scores: [n], larger for label 1; or [n, class] probabilities, of which each ranks the examples
      of one class. Logits do not: they have an offset in every example that softmax takes away, so
      that a classifier which is always right ranks wrongly by them.
    labels: [n] of 0 and 1; class ids for [n, class]. Examples labelled `types.IGNORE` count
      nowhere.
    weight: [n] >= 0; 0 marks padding, a whole number counts the example so often.
  Returns:
    The area; NaN without a positive or without a negative example (of any class, if several: a mean
    over fewer classes is another quantity), if the score of a counted example is NaN, and, under
    jit, for labels that are no class and rows of scores that are no probabilities.
  Raises:
    InputError: shapes that do not fit, labels that are no class, scores of one class, or rows of
      scores that are no probabilities.
  """
  return _of_classes(_area, scores, labels, weight)


def average_precision(
  scores: Float[Array | np.ndarray, " n"] | Float[Array | np.ndarray, "n classes"],
  labels: Integer[Array | np.ndarray, "*labels"] | Bool[Array | np.ndarray, "*labels"],
  *,
  weight: ArrayLike | None = None,
) -> Float[Array, ""]:
  """Average precision in [0, 1], the area under the precision-recall curve in steps; jittable.

  The precision is not interpolated (Davis and Goadrich, ICML 2006, on why), and equal scores are
  called positive together. A ranking by chance has the share of positives.

  >>> scores, labels = jnp.array([0.9, 0.8, 0.7, 0.6]), jnp.array([1, 0, 1, 0])
  >>> round(float(average_precision(scores, labels)), 4)  # (1 / 1 + 2 / 3) / 2
  0.8333

  Args, Returns, Raises: as for `auroc`.
  """
  return _of_classes(_precision, scores, labels, weight)


def _of_classes(
  measure: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  scores: Array | np.ndarray,
  labels: Array | np.ndarray,
  weight: ArrayLike | None,
) -> jax.Array:
  """`measure(scores, positive, negative)` of label 1, or its mean over classes."""
  scores = at_least_float32(jnp.asarray(scores))
  num_classes = 2 if scores.ndim == 1 else scores.shape[-1]
  truth = label_checks.of_classes(
    "labels", labels, num_classes, shape=scores.shape[:1], other="scores without a class axis"
  )
  labels = truth.ids
  weight = jnp.ones(labels.shape, scores.dtype) if weight is None else jnp.asarray(weight)
  check.same_shape("weight", weight.shape, "labels", labels.shape)
  weight = jnp.where(truth.is_known, weight.astype(scores.dtype), 0.0)
  if scores.ndim == 1:
    positive, negative = (jnp.where(labels == side, weight, 0) for side in (1, 0))
    return truth.checked(measure(scores, positive, negative))
  check.require(
    scores.shape[1] > 1,
    "scores [n] or [n, class] with 2 classes or more",
    f"{scores.shape}",
    "pass the scores of the positive class alone as [n]",
  )
  is_distribution = check_probabilities(scores, weight)
  is_class = labels[:, None] == jnp.arange(scores.shape[1])[None]
  positive, rest = (jnp.where(side, weight[:, None], 0) for side in (is_class, ~is_class))
  mean = jax.vmap(measure, in_axes=1)(scores, positive, rest).mean()
  return truth.checked(jnp.where(is_distribution, mean, jnp.nan))


def check_probabilities(scores: Array | np.ndarray, weight: Array | np.ndarray) -> Any:
  """Whether the rows that count are in [0, 1] and sum to 1 as far as half precision does.

  Raises:
    InputError: where the scores are no tracers and they are not.
  """
  is_row = (scores >= 0).all(1) & (abs(scores.sum(1) - 1) < 1e-2)
  found = (is_row | (weight == 0) | (scores != scores).any(1)).all()  # NaN is reported elsewhere
  if not isinstance(found, jax.core.Tracer):
    check.require(
      bool(found),
      "probabilities as scores [n, class]",
      f"rows that sum to {float(scores.sum(1).min()):.3g}..{float(scores.sum(1).max()):.3g}",
      "pass jax.nn.softmax(logits), or the scores of one class against the rest as [n]",
    )
  return found


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


def _precision(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
  """Of one class, arguments as for `_area`."""
  order = jnp.argsort(scores)
  ranked = scores[order]

  def at_least(weight: jax.Array) -> jax.Array:
    """Weight of the examples that score at least as high as each."""
    below = jnp.concatenate([jnp.zeros(1, scores.dtype), jnp.cumsum(weight[order])])
    return weight.sum() - below[jnp.searchsorted(ranked, scores, side="left")]

  hits, called = at_least(positive), at_least(positive + negative)
  precision = jnp.where(positive > 0, hits / jnp.where(positive > 0, called, 1.0), 0.0)
  is_known = ~jnp.any(jnp.isnan(scores) & (positive + negative > 0))
  defined = (positive.sum() > 0) & (negative.sum() > 0) & is_known
  mean = (positive * precision).sum() / jnp.where(defined, positive.sum(), 1.0)
  return jnp.where(defined, mean, jnp.nan)
