"""Which example of the inner batch helped: the outer loss as a function of each one's weight.

The inner loss of a batch is sum_i p_i L_i(phi), with p_i = weight_i / sum_j weight_j. With v the
outer gradient at phi* = phi + U(g, s, phi) and w = (d phi* / d g)^T v,

  d L_outer / d log p_i = p_i <w, grad L_i>            the other p_j as they are

This is the hypergradient of one more theta, a multiplier of every example's loss, and costs no
second derivative: one forward pass with tangents along w gives the products of all examples.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import rng
from medjax.grads import hyper, hyper_steps
from medjax.grads.batch import batch_mean
from medjax.grads.clipping import clipped_sum
from medjax.grads.per_sample import per_sample_dot
from medjax.tree import entry
from medjax.types import Key, Params, PyTree


class SampleEffect(NamedTuple):
  """What each example of the inner batch did to the outer loss.

  Attributes:
    effect: [batch] d L_outer / d log p_i in units of the outer loss; negative where more of this
      example would lower the outer loss. 0 for padding.
    cosine: [batch] between the outer gradient at phi* and the example's own gradient at phi,
      whatever the optimiser makes of it; positive where descent on the example descends on the
      outer loss. 0 for padding and where a gradient is 0.
  """

  effect: jax.Array
  cosine: jax.Array


def sample_effect(
  inner_loss: hyper.InnerLoss, outer_loss: hyper.OuterLoss, tx: optax.GradientTransformation
) -> Callable[[PyTree, Params, PyTree, PyTree, PyTree, Key], SampleEffect]:
  """Effect of each inner example on the outer loss after one optimiser step.

  Args:
    inner_loss: `inner_loss(params, theta, example, key) -> scalar` of one example.
    outer_loss: `outer_loss(params, example, key) -> scalar` of one example.
    tx: optimiser of the step; the effect passes through it, the cosine does not.
  Returns:
    `fn(theta, params, opt_state, inner_batch, outer_batch, key) -> SampleEffect`. The batch has no
    axis of steps; keys are those of `hypergradient` of one step, so that an example is drawn alike.
  Guarantees:
    `effect` is the derivative with respect to a multiplier of the example's loss (checked against
    `hypergradient` and float64 central differences).

  >>> inner = lambda w, theta, x, key: 0.5 * (w - x) ** 2
  >>> outer = lambda w, x, key: 0.5 * (w - x) ** 2
  >>> fn = sample_effect(inner, outer, optax.sgd(0.5))
  >>> out = fn((), jnp.zeros(()), optax.sgd(0.5).init(0.0), jnp.array([1.0, -1.0]),
  ...          jnp.array([2.0]), jax.random.key(0))
  >>> out.effect.tolist(), out.cosine.tolist()  # v = -2, w = 1, gradients -1 and 1
  ([-0.5, 0.5], [1.0, -1.0])
  """

  def compute(
    theta: PyTree,
    params: Params,
    opt_state: PyTree,
    inner_batch: PyTree,
    outer_batch: PyTree,
    key: Key,
  ) -> SampleEffect:
    inner_key, outer_key = rng.streams(key, "inner", "outer")

    def own(p: Params, example: PyTree, k: Key) -> jax.Array:
      return inner_loss(p, theta, example, k)

    gradient = jax.grad(lambda p: batch_mean(lambda e, k: own(p, e, k), inner_batch, inner_key))(
      params
    )
    step = hyper_steps.Taken(params, opt_state, gradient)
    new_params, _ = hyper_steps.applied(tx, gradient, params, opt_state)
    v = jax.grad(lambda p: batch_mean(lambda e, k: outer_loss(p, e, k), outer_batch, outer_key))(
      new_params
    )
    w = hyper_steps.pulled(step, tx, v, None)[0]
    along = per_sample_dot(own)(params, inner_batch, inner_key, w)
    weight = entry(inner_batch, "weight")
    weight = jnp.ones_like(along) if weight is None else jnp.asarray(weight, along.dtype)
    share = weight / jnp.where(weight.sum() > 0, weight.sum(), 1.0)
    # Norms and products with v come from one backward pass over all examples.
    found = clipped_sum(own, 1.0)(params, inner_batch, inner_key, weights=weight, direction=v)
    scale = found.norms * optax.tree.norm(v)
    is_there = (weight > 0) & (scale > 0)
    return SampleEffect(
      jnp.where(weight > 0, share * along, 0.0),
      jnp.where(is_there, found.dots / jnp.where(is_there, scale, 1.0), 0.0),
    )

  return compute
