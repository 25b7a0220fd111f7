"""Normalised focal loss: a mean of cross-entropies whose weights are those of the focal loss.

Sofiuk et al., "AdaptIS" (2019), and the released code of "Reviving Iterative Training with Mask
Guidance" (2022). With p_i the probability of the true label of voxel i,

  NFL = sum_i (1 - p_i)^gamma (-log p_i) / sum_i (1 - p_i)^gamma

The focal loss fades while a network learns, since all its weights do; here they sum to 1. In the
released code no gradient flows through the sum below the line.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from medjax import check, labels
from medjax.tree import at_least_float32


def normalised_focal(
  logits: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  *,
  gamma: float | int = 2.0,
  through_sum: bool = False,
) -> Float[Array, ""]:
  """Mean of -log p(label) in nats, weighted by (1 - p(label))^gamma; 0 if every voxel is ignored.

  >>> logits = jnp.array([[0.0, 0.0], [0.0, 50.0]])  # undecided, and sure of the right class
  >>> round(float(normalised_focal(logits, jnp.array([1, 1]))), 4)  # log 2: only the first counts
  0.6931

  Args:
    logits: [*space, class], 2 classes or more; of one logit z give [0, z].
    label: [*space] class ids or `IGNORE`.
    gamma: 0 or more; 0 is `cross_entropy`; 2 in the released code.
    through_sum: let the gradient flow through the sum of the weights, too. The released code does
      not: the gradient is then that of the focal loss, scaled.
  Raises:
    InputError: fewer than 2 classes, a negative gamma, labels as in `cross_entropy`.
  Guarantees: finite, with a finite gradient, also where every voxel is right beyond rounding: the
    weights are a softmax of gamma log(1 - p).
  """
  num_classes = logits.shape[-1]
  check.require(
    num_classes >= 2, "at least 2 classes", f"{num_classes}", "give [0, z] of a logit z"
  )
  check.non_negative("gamma", gamma)
  known = labels.of_classes("label", label, num_classes, shape=logits.shape[:-1])
  log_probability = jax.nn.log_softmax(at_least_float32(logits))
  is_own = jax.nn.one_hot(jnp.where(known.is_known, known.ids, 0), num_classes, dtype=bool)
  own = jnp.where(is_own, log_probability, 0.0).sum(-1)
  # log(1 - p) from the other classes, since 1 - p rounds to 0 where p is near 1.
  rest = jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, log_probability), axis=-1)
  powers = jnp.where(known.is_known, gamma * rest, -jnp.inf)
  total = jax.nn.logsumexp(jnp.where(known.is_known.any(), powers, 0.0))
  weights = jnp.exp(powers - (total if through_sum else jax.lax.stop_gradient(total)))
  return known.checked(-(weights * own).sum())
