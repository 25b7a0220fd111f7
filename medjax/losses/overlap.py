"""Losses of overlap: soft Dice and Tversky.

Soft Dice (Milletari et al. 2016):
  loss = 1 - mean_k (2 sum_x p_k r_k + s) / (sum_x D(p_k) + sum_x D(r_k) + s)
with p the softmax, r the one-hot label, s the smooth term and D(a) = a ("sum") or a^2 ("squares").
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from medjax import check, labels
from medjax.axes import BATCH_AXIS, require_batch_axis
from medjax.tree import at_least_float32


def soft_dice(
  logits: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  *,
  smooth: float = 1.0,
  denominator: Literal["sum", "squares"] = "sum",
  include_background: bool = True,
  couple_batch: bool = False,
  counted: Bool[Array | np.ndarray, " counted"] | None = None,
) -> Float[Array, ""]:
  """Soft Dice loss in [0, 1], mean over classes; a class absent from label and prediction costs 0.

  Args:
    logits: [*space, class], softmaxed over the last axis here, in float32.
    label: [*space] class ids, `IGNORE` where nothing is known.
    smooth: s above, in voxels; added to numerator and denominator. Learn2Synth uses
      voxels / classes, which makes small structures nearly gradient-free.
    denominator: "sum" (nnU-Net) or "squares" (V-Net, SynthSeg, Learn2Synth).
    include_background: whether class 0 takes part in the mean.
    couple_batch: sum numerator and denominator over the batch before dividing (nnU-Net's batch
      Dice). Examples then share one loss: it must run under
      `jax.vmap(..., axis_name=axes.BATCH_AXIS)` and per-sample methods refuse it. It does not
      know the examples' weights: give it full batches, padding would enter the sums.
    counted: which classes take part in the mean, for partly labelled sets; it may be traced, and
      so differ from example to example. Without any the loss is 0. None: all.
  Raises:
    InputError: fewer than 2 classes, negative smooth, `counted` of another length, or
      `couple_batch` outside such a vmap.
  """
  num_classes = logits.shape[-1]
  check.require(num_classes >= 2, "at least 2 classes", f"{num_classes}", "give one per class")
  check.non_negative("smooth", smooth)
  check.one_of("denominator", denominator, ("sum", "squares"))
  known = labels.of_classes("label", label, num_classes, shape=logits.shape[:-1])
  axes = tuple(range(known.ids.ndim))
  probability = jax.nn.softmax(at_least_float32(logits)) * known.is_known[..., None]
  # IGNORE gives a row of zeros.
  reference = jax.nn.one_hot(known.ids, num_classes, dtype=probability.dtype)
  overlap = (probability * reference).sum(axes)
  if denominator == "squares":
    total = (probability**2).sum(axes) + reference.sum(axes)
  else:
    total = probability.sum(axes) + reference.sum(axes)
  if couple_batch:
    overlap, total = _sum_over_batch((overlap, total))
  first = 0 if include_background else 1
  numerator, total = 2 * overlap[first:] + smooth, total[first:] + smooth
  score = jnp.where(total > 0, numerator / jnp.where(total > 0, total, 1.0), 1.0)
  if counted is None:
    return known.checked(1 - score.mean())
  check.same_shape("counted", counted.shape, "the classes", (num_classes,))
  share = jnp.asarray(counted)[first:].astype(score.dtype)
  return known.checked((share * (1 - score)).sum() / jnp.maximum(share.sum(), 1))


def tversky(
  logits: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  *,
  false_positives: float = 0.3,
  false_negatives: float = 0.7,
  smooth: float = 0.5,
  include_background: bool = True,
) -> Float[Array, ""]:
  """Tversky loss in [0, 1]: soft Dice that weighs its two kinds of error (Salehi et al., 2017).

    loss = 1 - mean_k (TP_k + s) / (TP_k + a FP_k + b FN_k + s)

  with TP = sum p r, FP = sum p (1 - r), FN = sum (1 - p) r. a = b = 1/2 is the soft Dice loss with
  twice the smooth term.

  Args:
    logits, label, include_background: as for `soft_dice`.
    false_positives: a, 0 or more; the paper's .3.
    false_negatives: b, 0 or more; the paper's .7 finds more of small lesions.
    smooth: s, 0 or more, in voxels.
  Raises:
    InputError: fewer than 2 classes, a negative weight, labels as in `soft_dice`.
  """
  num_classes = logits.shape[-1]
  check.require(num_classes >= 2, "at least 2 classes", f"{num_classes}", "give one per class")
  check.non_negative("false_positives", false_positives)
  check.non_negative("false_negatives", false_negatives)
  check.non_negative("smooth", smooth)
  known = labels.of_classes("label", label, num_classes, shape=logits.shape[:-1])
  axes = tuple(range(known.ids.ndim))
  probability = jax.nn.softmax(at_least_float32(logits)) * known.is_known[..., None]
  reference = jax.nn.one_hot(known.ids, num_classes, dtype=probability.dtype)
  overlap = (probability * reference).sum(axes)
  invented, missed = probability.sum(axes) - overlap, reference.sum(axes) - overlap
  first = 0 if include_background else 1
  numerator = (overlap + smooth)[first:]
  total = numerator + (false_positives * invented + false_negatives * missed)[first:]
  score = jnp.where(total > 0, numerator / jnp.where(total > 0, total, 1.0), 1.0)
  return known.checked(1 - score.mean())


def _sum_over_batch(values):
  require_batch_axis(
    f"a vmapped axis named {BATCH_AXIS!r} for couple_batch=True",
    "a loss of one example",
    f"use jax.vmap(..., axis_name={BATCH_AXIS!r}) or couple_batch=False",
  )
  return jax.lax.psum(values, BATCH_AXIS)
