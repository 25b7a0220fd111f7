"""Losses of ONE example: logits [*space, class] and label map in, scalar out; findings of images.

Soft Dice (Milletari et al. 2016):
  loss = 1 - mean_k (2 sum_x p_k r_k + s) / (sum_x D(p_k) + sum_x D(r_k) + s)
with p the softmax, r the one-hot label, s the smooth term and D(a) = a ("sum") or a^2 ("squares").
Voxels labelled `types.IGNORE` count in no sum; labels that are no class are refused, see
`medjax.labels`.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from medjax import check, labels
from medjax.axes import BATCH_AXIS, require_batch_axis
from medjax.tree import at_least_float32

SegmentationLoss: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


def soft_dice(
  logits: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  *,
  smooth: float = 1.0,
  denominator: Literal["sum", "squares"] = "sum",
  include_background: bool = True,
  couple_batch: bool = False,
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
  Raises:
    InputError: fewer than 2 classes, negative smooth, or `couple_batch` outside such a vmap.
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
  return known.checked(1 - score.mean())


def cross_entropy(
  logits: Float[Array, "*space classes"], label: Integer[Array, "*label_space"]
) -> Float[Array, ""]:
  """Mean of -log p(label) over the known voxels, in nats; 0 where every voxel is ignored.

  Scalars label one classified image: logits [class], label [].
  """
  log_probability = jax.nn.log_softmax(at_least_float32(logits))
  known = labels.of_classes("label", label, logits.shape[-1], shape=logits.shape[:-1])
  row = jnp.where(known.is_known, known.ids, 0)[..., None]
  chosen = jnp.take_along_axis(log_probability, row, axis=-1, mode="clip")[..., 0]
  total = jnp.where(known.is_known, chosen, 0.0).sum()
  return known.checked(-total / jnp.maximum(known.is_known.sum(), 1))


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


def focal(
  logits: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  *,
  gamma: float = 2.0,
  class_weights: tuple[float, ...] | None = None,
) -> Float[Array, ""]:
  """Focal loss: cross-entropy that counts what is right already for less (Lin et al., ICCV 2017).

    loss = mean of -w_y (1 - p_y)^gamma log p_y over the known voxels, in nats

  Args:
    logits, label: as for `cross_entropy`, 2 classes or more.
    gamma: 0 or more; 0 is `cross_entropy`, the paper's 2.
    class_weights: w of each class, 0 or more (the paper's alpha); None: 1.
  Raises:
    InputError: fewer than 2 classes, settings out of range, labels as in `cross_entropy`.
  """
  num_classes = logits.shape[-1]
  check.require(num_classes >= 2, "at least 2 classes", f"{num_classes}", "give one per class")
  check.non_negative("gamma", gamma)
  weights = (1.0,) * num_classes if class_weights is None else class_weights
  check.same_shape("class_weights", (len(weights),), "the classes", (num_classes,))
  check.non_negative("the smallest of class_weights", min(weights))
  known = labels.of_classes("label", label, num_classes, shape=logits.shape[:-1])
  log_probability = jax.nn.log_softmax(at_least_float32(logits))
  is_own = jax.nn.one_hot(jnp.where(known.is_known, known.ids, 0), num_classes, dtype=bool)
  own = jnp.where(is_own, log_probability, 0.0).sum(-1)
  # log(1 - p_y) from the other classes: finite, with a finite gradient, also where p_y rounds to 1.
  rest = jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, log_probability), axis=-1)
  weight = jnp.where(is_own, jnp.asarray(weights, own.dtype), 0.0).sum(-1)
  total = jnp.where(known.is_known, -weight * jnp.exp(gamma * rest) * own, 0.0).sum()
  return known.checked(total / jnp.maximum(known.is_known.sum(), 1))


def binary_cross_entropy(
  logits: Float[Array, " classes"], label: Integer[Array, "*label_space"]
) -> Float[Array, ""]:
  """Mean over the known findings of -log p(label), in nats; 0 where every finding is ignored.

  Args:
    logits: [class], one for each finding; p = sigmoid.
    label: [class] of 1, 0 or `IGNORE`.
  """
  logits = at_least_float32(logits)
  known = labels.of_classes("label", label, 2, shape=logits.shape, other="logits")
  costs = jax.nn.softplus(jnp.where(known.ids == 1, -logits, logits))
  mean = jnp.where(known.is_known, costs, 0.0).sum() / jnp.maximum(known.is_known.sum(), 1)
  return known.checked(mean)


def weighted_sum(*terms: tuple[float, SegmentationLoss]) -> SegmentationLoss:
  """One loss from (weight, loss) pairs.

  >>> import functools
  >>> dice_and_ce = weighted_sum((1.0, soft_dice), (1.0, cross_entropy))
  >>> squared = weighted_sum((1.0, functools.partial(soft_dice, denominator="squares")))
  """
  check.require(terms, "at least one (weight, loss) pair", "none", "pass (1.0, soft_dice)")

  def loss(logits: jax.Array, label: jax.Array) -> jax.Array:
    total = jnp.zeros(())
    for weight, term in terms:
      total = total + weight * term(logits, label)
    return total

  return loss


def deep_supervision(
  loss: SegmentationLoss, weights: tuple[float, ...] | None = None
) -> Callable[[jax.Array | tuple[jax.Array, ...], jax.Array], jax.Array]:
  """Weighted mean of a loss over logits at several resolutions (nnU-Net; Isensee et al. 2021).

  Args:
    loss: of one pair of logits and label map.
    weights: one a resolution, finest first; they are divided by their sum. None: 1, 1/2, 1/4, ...
  Returns:
    `loss(logits, label)` for a tuple of logits, finest first, the i-th at ceil(space / 2^i), or for
    one array, which it hands on. The label map of level i is every 2^i-th voxel of the finest.
  Raises:
    InputError: weights that do not match the logits or sum to 0.
  """

  def total(logits: jax.Array | tuple[jax.Array, ...], label: jax.Array) -> jax.Array:
    if not isinstance(logits, tuple):
      return loss(logits, label)
    shares = weights or tuple(0.5**level for level in range(len(logits)))
    check.require(
      len(shares) == len(logits) and sum(shares) > 0,
      f"{len(logits)} weights with a positive sum",
      f"{shares}",
      "give one weight a resolution, finest first",
    )
    strides = [(slice(None, None, 2**level),) * label.ndim for level in range(len(logits))]
    parts = [
      share / sum(shares) * loss(output, label[stride])
      for share, output, stride in zip(shares, logits, strides, strict=True)
    ]
    return jnp.stack(parts).sum()

  return total


def _sum_over_batch(values):
  require_batch_axis(
    f"a vmapped axis named {BATCH_AXIS!r} for couple_batch=True",
    "a loss of one example",
    f"use jax.vmap(..., axis_name={BATCH_AXIS!r}) or couple_batch=False",
  )
  return jax.lax.psum(values, BATCH_AXIS)
