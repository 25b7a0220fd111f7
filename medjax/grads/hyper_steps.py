"""The inner steps of a hypergradient, forwards and backwards.

Forwards, with inner gradient g_k, optimiser state s_k and any optax transformation U:

  g_k = grad_phi L_k(phi_k, theta);   phi_{k+1} = phi_k + U(g_k, s_k, phi_k),   s_{k+1} likewise

Backwards from v_K = grad L_outer(phi_K) and m_K = 0, with A_k the map (g, phi, s) -> (phi', s') of
one update:

  (w_k, a_k, b_k) = A_k'^T (v_{k+1}, m_{k+1})       through the optimiser
  v_k = a_k + H_k w_k,   m_k = b_k                  H_k = d^2 L_k / d phi^2
  h  += M_k w_k                                     M_k = d^2 L_k / d theta d phi

The products are those of `hyper_products`. All that is kept of a step is (phi_k, s_k, g_k) and what
its keys drew: the activations, also those of theta, are computed anew on the way back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import check
from medjax.grads.hyper_products import Loss, Product, gradients
from medjax.types import Params, PyTree


class Taken(NamedTuple):
  """One inner step as it was taken: where it began, and its gradient."""

  params: Params
  opt_state: PyTree
  gradient: Params


class Ends(NamedTuple):
  """What the backward sweep found.

  Attributes:
    grad: h, a tree like theta.
    start: v_0, the gradient of the outer loss with respect to the parameters before the steps.
    pulled: w_{K-1}, the outer gradient pulled through the last update.
    zero_second_moment: entries of all w_k that are not finite where g_k is exactly zero.
  """

  grad: PyTree
  start: Params
  pulled: Params
  zero_second_moment: jax.Array


def forwards(
  losses: list[Loss],
  tx: optax.GradientTransformation,
  theta: PyTree,
  params: Params,
  opt_state: PyTree,
  *,
  keeps_last: bool,
) -> tuple[list[Taken], Params, PyTree, list[tuple[jax.Array, Any]], Product | None]:
  """The steps, parameters and state after them, what each loss returned, the last's products.

  With `keeps_last` the last step's gradient is linearised as it is taken, which costs one forward
  and one backward pass less than to compute it again, and its activations stay in memory.
  """
  taken, values, product = [], [], None
  for number, loss in enumerate(losses):
    if keeps_last and number == len(losses) - 1:
      both = gradients(loss, theta)
      (gradient, _), product, value = jax.linearize(both, params, has_aux=True)
    else:
      value, gradient = jax.value_and_grad(loss, has_aux=True)(params, theta)
    taken.append(Taken(params, opt_state, gradient))
    params, opt_state = applied(tx, gradient, params, opt_state)
    values.append(value)
  return taken, params, opt_state, values, product


def applied(
  tx: optax.GradientTransformation, gradient: Params, params: Params, opt_state: PyTree
) -> tuple[Params, PyTree]:
  """Parameters and optimiser state after one update."""
  try:
    updates, opt_state = tx.update(gradient, opt_state, params)
  except (TypeError, ValueError) as error:  # Sophia's is a ValueError
    if not any(words in str(error) for words in ("required keyword-only", "obj_fn must be")):
      raise
    raise check.InputError(
      "an optimiser whose update needs gradient, state and parameters alone",
      f"one that asks for more ({error})",
      "take one without Polyak steps, a line search or the loss itself",
    ) from error
  return optax.apply_updates(params, updates), opt_state


def backwards(
  taken: list[Taken],
  products: list[Product],
  tx: optax.GradientTransformation,
  theta: PyTree,
  v: Params,
  *,
  through_state: bool,
  as_sgd: bool,
) -> Ends:
  """The recursion on top, from v_K.

  Args:
    taken, products: of every step.
    tx: the optimiser.
    theta: what the hypergradient is a gradient with respect to.
    v: the outer gradient at the last parameters.
    through_state: whether the gradient also flows from step to step through the optimiser's state.
    as_sgd: take each update for a step of gradient descent of the same length.
  """
  grad = jax.tree.map(jnp.zeros_like, theta)
  moments: list[jax.Array] | None = None
  last, zero_second_moment = None, jnp.zeros((), jnp.int32)
  for step, product in zip(reversed(taken), reversed(products), strict=True):
    if as_sgd:
      w, a = _pulled_as_sgd(step, tx, v), v
    else:
      w, a, moments = pulled(step, tx, v, moments if through_state else None)
    zero_second_moment += sum(
      jnp.sum((g == 0) & ~jnp.isfinite(x)).astype(jnp.int32)
      for g, x in zip(jax.tree.leaves(step.gradient), jax.tree.leaves(w), strict=True)
    )
    last = w if last is None else last
    hessian, mixed = product(w)
    grad = optax.tree.add(grad, mixed)
    v = optax.tree.add(a, hessian)
  return Ends(grad, v, last, zero_second_moment)


def pulled(
  step: Taken, tx: optax.GradientTransformation, v: Params, moments: list[jax.Array] | None
) -> tuple[Params, Params, list[jax.Array]]:
  """(w, a, b) of one step; b is of the state's floating-point leaves."""
  leaves, structure = jax.tree.flatten(step.opt_state)
  is_float = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]

  def update(gradient: Params, params: Params, floats: list[Any]) -> tuple[Params, list[Any]]:
    rest = iter(floats)
    state = [next(rest) if known else x for x, known in zip(leaves, is_float, strict=True)]
    new_params, new_state = applied(tx, gradient, params, jax.tree.unflatten(structure, state))
    found = jax.tree.leaves(new_state)
    return new_params, [x for x, known in zip(found, is_float, strict=True) if known]

  floats = [x for x, known in zip(leaves, is_float, strict=True) if known]
  (_, new), pull = jax.vjp(update, step.gradient, step.params, floats)
  w, a, b = pull((v, [jnp.zeros_like(x) for x in new] if moments is None else moments))
  return w, a, b


def _pulled_as_sgd(step: Taken, tx: optax.GradientTransformation, v: Params) -> Params:
  """-rate v, with the rate at which gradient descent would have made a step of this length."""
  updates, _ = tx.update(step.gradient, step.opt_state, step.params)
  rate = rate_of_equal_length(updates, step.gradient)
  return jax.tree.map(lambda x: (-rate * x).astype(x.dtype), v)


def rate_of_equal_length(updates: Params, gradient: Params) -> jax.Array:
  """|updates| / |gradient|, 0 where the gradient is 0."""
  norm = optax.tree.norm(gradient)
  length = optax.tree.norm(updates)
  return jnp.where(norm > 0, length / jnp.where(norm > 0, norm, 1.0), 0.0)


def unrolled(
  losses: list[Loss],
  tx: optax.GradientTransformation,
  outer: Loss,
  opt_state: PyTree,
  *,
  through_state: bool,
  as_sgd: bool,
) -> Callable[[PyTree, Params], tuple[jax.Array, Any]]:
  """(theta, phi_0) -> outer loss after the steps, for automatic differentiation of all of it."""

  def value(theta: PyTree, params: Params) -> tuple[jax.Array, Any]:
    phi, state = params, opt_state
    for loss in losses:
      gradient, _ = jax.grad(loss, has_aux=True)(phi, theta)
      updates, state = tx.update(gradient, state, phi)
      if not through_state:
        state = jax.lax.stop_gradient(state)
      if as_sgd:
        kept, at = jax.lax.stop_gradient((updates, gradient))
        rate = rate_of_equal_length(kept, at)
        updates = jax.tree.map(
          lambda u, g, here, rate=rate: (u - rate * (g - here)).astype(u.dtype), kept, gradient, at
        )
      phi = optax.apply_updates(phi, updates)
    return outer(phi, theta)

  return value
