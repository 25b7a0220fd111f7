"""What a hypergradient call returns, its diagnostics, and what they mean in words."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import tree
from medjax.grads.hyper_steps import Ends
from medjax.types import Params, PyTree

ZERO_SECOND_MOMENT = (
  "the optimiser has no derivative where gradient and second moment are both zero (Adam and RMSProp"
  " divide by a square root of 0); give it a small root term: optax.adam(rate, eps_root=1e-16)"
)
NOT_DIFFERENTIABLE = (
  "the hypergradient is not finite although both losses are: the optimiser's update has no"
  " derivative here (RAdam's third and fourth steps are such); take another optimiser, or"
  " hypergradient(..., surrogate='sgd')"
)
NO_DERIVATIVE = (
  "the update does not depend on the gradient to first order (sign updates such as Lion's, a step"
  " that MultiSteps only collects, Adam's first), or theta does not reach the inner loss: the"
  " hypergradient is exactly 0; take another optimiser, or hypergradient(..., surrogate='sgd')"
)


class HyperAux(NamedTuple):
  """What one hypergradient call saw, all scalars.

  Attributes:
    inner_loss, outer_loss: batch means; the inner one is the mean over the steps, the outer one is
      that at the updated parameters.
    inner_norm: |g|, outer_norm: |v|, pulled_norm: |w|, all of the last step.
    alignment: cosine between v and g; negative where the synthetic step hurts real accuracy.
    zero_second_moment: entries of w that are not finite although g is exactly zero there - the
      derivative of a square root at 0 inside the optimiser (`ZERO_SECOND_MOMENT`).
    is_finite: hypergradient and updated parameters hold no NaN and no infinity.
    is_zero: whether the hypergradient is exactly 0 although the outer gradient is not
      (`NO_DERIVATIVE`).
    residual: |H q - v| / |v| of the linear system of "implicit", 0 for the other methods.
  """

  inner_loss: jax.Array
  outer_loss: jax.Array
  inner_norm: jax.Array
  outer_norm: jax.Array
  pulled_norm: jax.Array
  alignment: jax.Array
  zero_second_moment: jax.Array
  is_finite: jax.Array
  is_zero: jax.Array
  residual: jax.Array


class Hyper(NamedTuple):
  """What one call returns.

  Attributes:
    grad: the hypergradient, a tree like theta.
    params, opt_state: after the inner steps.
    aux: diagnostics.
    extra: with `has_aux`, (inner, outer): what the losses returned beside their value, averaged
      over the batch; the inner one has a leading axis of all inner steps.
    start: with `with_start`, the gradient of the outer loss with respect to the parameters before
      the steps that are differentiated.
  """

  grad: PyTree
  params: Params
  opt_state: PyTree
  aux: HyperAux
  extra: tuple[PyTree, PyTree] | None = None
  start: Params | None = None


def diagnostics(
  ends: Ends,
  inner_gradient: Params,
  outer_gradient: Params,
  new_params: Params,
  inner_loss: jax.Array,
  outer_loss: jax.Array,
  residual: jax.Array,
) -> HyperAux:
  """`HyperAux` of the last step's inner gradient and of the outer one at the new parameters."""
  inner_norm, outer_norm = optax.tree.norm(inner_gradient), optax.tree.norm(outer_gradient)
  product_of_norms = inner_norm * outer_norm
  is_something = [jnp.any(x != 0) for x in jax.tree.leaves(ends.grad)]  # NaN is no zero
  return HyperAux(
    inner_loss=inner_loss,
    outer_loss=outer_loss,
    inner_norm=inner_norm,
    outer_norm=outer_norm,
    pulled_norm=optax.tree.norm(ends.pulled),
    alignment=jnp.where(
      product_of_norms > 0,
      optax.tree.vdot(inner_gradient, outer_gradient)
      / jnp.where(product_of_norms > 0, product_of_norms, 1.0),
      0.0,
    ),
    zero_second_moment=ends.zero_second_moment,
    is_finite=tree.all_finite((ends.grad, new_params)),
    is_zero=~jnp.any(jnp.stack(is_something)) & (outer_norm != 0),
    residual=residual,
  )
