"""The loss of a mask decoder that gives one mask a class and rates each of them.

Zhang et al., "SAM-Path: A Segment Anything Model for Semantic Segmentation in Digital Pathology"
(2023), Eq. 3, as the released code has it. With z the logits of the masks, mask 0 of the
background, q the decoder's own estimates of the intersection over union (IoU) and y the truth,

  L = (1 - a) Dice(softmax z, y) + a Focal(sigmoid z, y) + b mean_k (q_k - IoU(softmax z_k >= 1/2, y_k))^2

each over the classes without the background, a = .125 and b = 0 on glands, .25 and .0625 on four
kinds of tissue. The paper prints a sum over classes, the code takes means.

What the paper measures is to be read with care. Of one mask IoU = Dice / (2 - Dice), which is never
above the Dice; yet its table of glands has a Dice of .8414 with an IoU of .8451. The Dice would give
.726, so the two columns are averages of two kinds, and their gains do not compare.
"""  # noqa: E501

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from medjax import check, labels
from medjax.losses.overlap import soft_dice
from medjax.tree import at_least_float32

_GAMMA = 2.0
_SMOOTH = 1e-5


def class_masks(
  logits: Float[Array, "*space classes"],
  quality: Float[Array, " rated"],
  label: Integer[Array, "*label_space"],
  *,
  focal_fraction: float | int = 0.25,
  quality_weight: float | int = 0.0625,
) -> Float[Array, ""]:
  """Dice, focal loss and the squared error of the rating of ONE picture.

  >>> logits = jnp.array([[9.0, -9.0], [-9.0, 9.0]])  # two pixels, right and sure of it
  >>> label = jnp.array([0, 1])
  >>> round(float(class_masks(logits, jnp.array([0.0, 1.0]), label)), 4)
  0.0
  >>> round(float(class_masks(logits, jnp.array([0.0, 0.5]), label, quality_weight=1.0)), 4)  # .5^2
  0.25

  Args:
    logits: [*space, class] of a `nets.MaskDecoder` whose masks are the classes, background first,
      on the grid of the label.
    quality: [class] its estimates, of which that of the background is not looked at.
    label: [*space] class ids or `IGNORE`.
    focal_fraction: a, in [0, 1].
    quality_weight: b, 0 or more.
  Raises:
    InputError: fewer than 2 classes, settings out of range, labels as in `cross_entropy`.
  Guarantees: no gradient flows through the true IoU. DEVIATION: pixels without a label count in no
    sum; the released code makes their logits 0 and calls them background. A class that is neither
    in truth nor answer has an IoU of 0, as there, and a Dice loss of 0.
  """
  num_classes = logits.shape[-1]
  check.require(num_classes >= 2, "at least 2 classes", f"{num_classes}", "count the background")
  check.same_shape("quality", quality.shape, "the classes", (num_classes,))
  check.in_interval("focal_fraction", focal_fraction, 0, 1)
  check.non_negative("quality_weight", quality_weight)
  known = labels.of_classes("label", label, num_classes, shape=logits.shape[:-1])
  logits = at_least_float32(logits)
  dice = soft_dice(logits, label, smooth=_SMOOTH, include_background=False)
  truth = jax.nn.one_hot(known.ids, num_classes, dtype=logits.dtype)[..., 1:]  # IGNORE: zeros
  # Each class by itself: with z the logit towards what is true, p = sigmoid(z).
  towards = jnp.where(truth > 0, logits[..., 1:], -logits[..., 1:])
  costs = jax.nn.sigmoid(-towards) ** _GAMMA * jax.nn.softplus(-towards)
  is_known = known.is_known[..., None]
  count = jnp.maximum(is_known.sum() * (num_classes - 1), 1)
  focal = jnp.where(is_known, costs, 0.0).sum() / count
  axes = tuple(range(logits.ndim - 1))
  said = (jax.nn.softmax(logits)[..., 1:] >= 0.5) & is_known
  both, either = (said * truth).sum(axes), jnp.maximum(said, truth).sum(axes)
  error = jnp.square(at_least_float32(quality)[1:] - both / jnp.maximum(either, 1.0)).mean()
  total = (1 - focal_fraction) * dice + focal_fraction * focal + quality_weight * error
  return known.checked(total)
