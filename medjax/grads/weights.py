"""Weights of examples from what is known of each: `weights = f(statistics)`.

A `Weigher` gives weights [batch] of 0 or more. They sum to the number of examples that take part,
so that a rate which fits plain training fits it too, and no gradient flows through them. A weigher
that needs a statistic which is not known (NaN) gives weights of NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from medjax import check
from medjax.types import Array, PyTree


class Statistics(NamedTuple):
  """What is known of the examples of a batch, each [batch].

  Attributes:
    losses: of each example.
    norms: lengths of gradients: of the logits (`of_logits`), or of the parameters (`of_gramian`).
    entropies: of the predictions, in nats, the mean over an image; NaN where no logits were seen.
    cosines: between an example's gradient and the mean of the batch; NaN where only logits were.
    is_there: whether an example takes part.
  """

  losses: Any
  norms: Any
  entropies: Any
  cosines: Any
  is_there: Any


Weigher: TypeAlias = Callable[[Statistics], Array]


def of_logits(
  cost: Callable[[Array, PyTree], Array], logits: Array, batch: PyTree, weight: Any = None
) -> Statistics:
  """Statistics from the logits of a batch.

  >>> cost = lambda z, label: -jax.nn.log_softmax(z)[label]
  >>> found = of_logits(cost, jnp.zeros((1, 2)), jnp.array([1]))
  >>> float(found.norms[0]).__round__(4), float(found.entropies[0]).__round__(4)  # |p - 1_y|, ln 2
  (0.7071, 0.6931)

  Args:
    cost: `cost(logits, example) -> scalar` of ONE example.
    logits: [batch, *space, class]; [batch] of a regression, whose entropies are NaN.
    batch: examples.
    weight: [batch], 0 for examples that take no part; None: all do.
  """
  losses, slopes = jax.vmap(jax.value_and_grad(cost))(logits, batch)
  size = len(losses)
  norms = jnp.sqrt((slopes.reshape(size, -1) ** 2).sum(1))
  entropies = jnp.full(size, jnp.nan)
  if logits.ndim > 1:
    log_p = jax.nn.log_softmax(logits)
    entropies = -(jnp.exp(log_p) * log_p).sum(-1).reshape(size, -1).mean(1)
  is_there = jnp.ones(size, bool) if weight is None else jnp.asarray(weight) > 0
  return Statistics(losses, norms, entropies, jnp.full(size, jnp.nan), is_there)


def of_gramian(losses: Array, gramian: Array) -> Statistics:
  """Statistics from `grads.gramian`; an example whose gradient is not finite takes no part.

  >>> found = of_gramian(jnp.zeros(2), jnp.array([[4.0, 0.0], [0.0, 4.0]]))
  >>> found.norms.tolist(), [round(float(x), 4) for x in found.cosines]  # at 45 degrees to the mean
  ([2.0, 2.0], [0.7071, 0.7071])
  """
  square = jnp.diagonal(gramian)
  is_there = jnp.isfinite(square)
  clean = jnp.where(is_there[:, None] & is_there[None], gramian, 0.0)
  share = is_there / jnp.maximum(is_there.sum(), 1)
  along = jnp.matmul(clean, share, precision="highest")  # <g_i, mean>
  norms = jnp.sqrt(jnp.where(is_there, square, 0.0))
  size = norms * jnp.sqrt(jnp.maximum(share @ along, 0.0))
  cosines = jnp.where(size > 0, along / jnp.where(size > 0, size, 1.0), 0.0)
  return Statistics(losses, norms, jnp.full(len(square), jnp.nan), cosines, is_there)


def low(strength: float = 0.1) -> Weigher:
  """LOW: the weights that a batch would learn most by (Santiago et al. 2021).

    min over w >= 0, sum w = n  of  strength |w|^2 - sum_i (g_i^2 + strength) w_i

  for lengths g_i of logit gradients. Up to a constant that is strength |w - g^2 / (2 strength)|^2:
  its solution is the projection of g^2 / (2 strength) on a simplex, and needs no QP solver.

  >>> norms = jnp.array([0.3, 0.2, 0.1])
  >>> nan = jnp.full(3, jnp.nan)
  >>> w = low(0.1)(Statistics(nan, norms, nan, nan, jnp.ones(3, bool)))
  >>> [round(float(x), 4) for x in w]  # 0.45, 0.2, 0.05 moved by one number to a sum of 3
  [1.2167, 0.9667, 0.8167]

  Args:
    strength: lambda, above 0: large ones weigh all alike. The released code has 0.1.
  """
  check.positive("strength", strength)

  def weigh(found: Statistics) -> Array:
    values = found.norms**2 / (2 * strength)
    number = found.is_there.sum()
    # An entry that lies further below the largest than the sum is 0 in every projection.
    largest = jnp.max(jnp.where(found.is_there, values, -jnp.inf))
    values = jnp.where(found.is_there, values, largest - 2 * number - 1)
    scale = jnp.maximum(number, 1).astype(values.dtype)
    return _ready(optax.projections.projection_simplex(values, scale), found)

  return weigh


def focal(gamma: float = 2.0) -> Weigher:
  """(1 - p)^gamma with p = exp(-loss), the probability of the label under cross-entropy.

  The weights of the focal loss (Lin et al. 2017), here scaled to a sum of n and without their
  gradient.

  >>> nan = jnp.full(2, jnp.nan)
  >>> losses = -jnp.log(jnp.array([0.9, 0.7]))
  >>> w = focal(1.0)(Statistics(losses, nan, nan, nan, jnp.ones(2, bool)))
  >>> [round(float(x), 4) for x in w]  # 0.1 and 0.3, times 2 / 0.4
  [0.5, 1.5]

  Args:
    gamma: 0 or more; 0 weighs all alike.
  """
  check.non_negative("gamma", gamma)
  return lambda found: _scaled(jnp.maximum(-jnp.expm1(-found.losses), 0.0) ** gamma, found)


def self_paced(threshold: float) -> Weigher:
  """Examples whose loss is below a threshold (Kumar et al. 2010).

  >>> nan = jnp.full(3, jnp.nan)
  >>> w = self_paced(1.0)(Statistics(jnp.array([0.5, 2, 0.9]), nan, nan, nan, jnp.ones(3, bool)))
  >>> w.tolist()
  [1.5, 0.0, 1.5]

  Args:
    threshold: in units of the loss; raise it while training. No example below: all weights are 0.
  """
  return lambda found: _scaled((found.losses < threshold).astype(found.losses.dtype), found)


def low_entropy(fraction: float) -> Weigher:
  """The examples with the most certain predictions (as test-time adaptation chooses them).

  >>> nan = jnp.full(4, jnp.nan)
  >>> e = jnp.array([0.1, 0.6, 0.2, 0.5])
  >>> low_entropy(0.5)(Statistics(nan, nan, e, nan, jnp.ones(4, bool))).tolist()
  [2.0, 0.0, 2.0, 0.0]

  Args:
    fraction: of the examples that are kept, rounded up; equal entropies are kept together.
  """
  check.in_interval("fraction", fraction, 0.0, 1.0)

  def weigh(found: Statistics) -> Array:
    entropies = jnp.where(found.is_there, found.entropies, jnp.inf)
    number = jnp.ceil(fraction * found.is_there.sum()).astype(jnp.int32)
    border = jnp.sort(entropies)[jnp.maximum(number - 1, 0)]
    return _scaled(_known((entropies <= border) & (number > 0), entropies), found)

  return weigh


def aligned(threshold: float = 0.0) -> Weigher:
  """Examples whose gradient has a cosine above a threshold with the mean of the batch.

  >>> nan = jnp.full(2, jnp.nan)
  >>> aligned()(Statistics(nan, nan, nan, jnp.array([0.8, -0.1]), jnp.ones(2, bool))).tolist()
  [2.0, 0.0]

  Args:
    threshold: in [-1, 1].
  """
  check.in_interval("threshold", threshold, -1.0, 1.0)
  return lambda found: _scaled(_known(found.cosines > threshold, found.cosines), found)


def _known(is_chosen: Array, statistic: Array) -> Array:
  """1 for examples that are chosen, NaN where what they are chosen by is not known."""
  return jnp.where(jnp.isnan(statistic), jnp.nan, is_chosen.astype(statistic.dtype))


def _scaled(weights: Array, found: Statistics) -> Array:
  """The weights with a sum of n; all 0 where all are 0."""
  own = jnp.where(found.is_there, weights, 0.0)
  total = own.sum()
  return _ready(own * found.is_there.sum() / jnp.where(total > 0, total, 1.0), found)


def _ready(weights: Array, found: Statistics) -> Array:
  return jax.lax.stop_gradient(jnp.where(found.is_there, weights, 0.0))
