"""Losses that sum negative log-probabilities: cross-entropy and what weighs its terms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from medjax import check, labels
from medjax.tree import at_least_float32


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
