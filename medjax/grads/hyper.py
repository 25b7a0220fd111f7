r"""Gradient of an outer loss with respect to what shaped the inner loss, through optimiser steps.

One step (Learn2Synth, "Hypergradient Mechanism"), for any optax transformation U with state s:

  g    = grad_phi  L_inner(phi, theta)                  inner gradient
  phi* = phi + U(g, s, phi)                             updated parameters
  v    = grad_phi* L_outer(phi*)                        outer gradient
  w    = (d phi* / d g)^T v                             through the optimiser
  h    = d/d theta <w, grad_phi L_inner(phi, theta)>    mixed second derivative

h is computed forward-over-reverse: the reverse pass of L_inner with respect to (phi, theta) is
linearised once and pushed along w, so that one forward and backward pass serve the update and the
hypergradient. Counting convolutions F a forward pass: plain step 3F, outer gradient 3F, tangent 4F,
10F in all = 3.33 plain steps. Reverse-over-reverse has the same count and is 12-90 times slower on
XLA:CPU, whose transposed weight-gradient convolutions miss the fast path.

K steps are the recursion of `hyper_steps`: 9F a step instead of 3F, and the memory of one step and
of K copies of parameters and optimiser state. phi and the optimiser state that come in are
constants.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from medjax import check, rng, tree
from medjax.grads import hyper_steps
from medjax.grads.batch import batch_mean
from medjax.types import Key, Params, PyTree

InnerLoss = Callable[[Params, PyTree, PyTree, Key], jax.Array]
OuterLoss = Callable[[Params, PyTree, Key], jax.Array]

ZERO_SECOND_MOMENT = (
  "the optimiser has no derivative where gradient and second moment are both zero (Adam and RMSProp"
  " divide by a square root of 0); give it a small root term: optax.adam(rate, eps_root=1e-16)"
)
NO_DERIVATIVE = (
  "the update does not depend on the gradient to first order (sign updates such as Lion's, a step"
  " that MultiSteps only collects, Adam's first), or theta does not reach the inner loss: the"
  " hypergradient is exactly 0; take another optimiser, or hypergradient(..., surrogate='sgd')"
)
Method = Literal["mixed", "reuse", "naive", "fd", "fd_one_sided", "implicit"]


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
  """Hypergradient (tree of theta), updated parameters and optimiser state, and diagnostics."""

  grad: PyTree
  params: Params
  opt_state: PyTree
  aux: HyperAux


def hypergradient(
  inner_loss: InnerLoss,
  outer_loss: OuterLoss,
  tx: optax.GradientTransformation,
  *,
  steps: int = 1,
  method: Method = "mixed",
  carry: Literal["detach", "full"] = "detach",
  surrogate: Literal["sgd"] | None = None,
  solver: Literal["cg", "neumann"] = "cg",
  iterations: int = 10,
  rate: float = 0.1,
) -> Callable[[PyTree, Params, PyTree, PyTree, PyTree, Key], Hyper]:
  """Hypergradient of `outer_loss` with respect to theta through `steps` optimiser steps.

  Args:
    inner_loss: `inner_loss(params, theta, example, key) -> scalar` of ONE example.
    outer_loss: `outer_loss(params, example, key) -> scalar` of ONE example.
    tx: an optax transformation; its update may depend on the parameters (weight decay). Sign
      updates have the derivative 0 and RAdam's first steps none: see `surrogate` and `aux`.
    steps: K, inner steps; the program is unrolled, so that its compilation grows with K.
    method: "mixed": exact, forward over reverse, activations of one step in memory. "reuse": the
      same for one step, named for comparisons. "naive": exact, automatic differentiation of the
      unrolled steps, activations of all steps in memory. "fd", "fd_one_sided": second derivatives
      by differences of two gradients, central or one-sided. "implicit": as if the inner problem
      had converged after the steps, h = -M q with H q = v, H and M of the last batch; wrong
      before it has.
    carry: "detach": the optimiser's state is a constant of each step, as of one step it is; the
      gradient still flows through the parameters over all steps. "full": it flows through moments
      too, and h is the whole derivative.
    surrogate: "sgd": on the way back every update counts as gradient descent whose step is as long
      as the update was.
    solver: of "implicit": "cg" for a positive definite H, or "neumann".
    iterations: of the solver; how far it came is `aux.residual`.
    rate: of "neumann", below 2 / (largest eigenvalue of H).
  Returns:
    `fn(theta, params, opt_state, inner_batches, outer_batch, key) -> Hyper`. `inner_batches` has a
    leading axis of length K; `Hyper.params` are phi* and `Hyper.opt_state` the optimiser state
    after the steps: no further inner step is needed. Batch losses are means weighted by
    `batch.weight` where the batch has one; example keys are those of `rng.example_keys`.
  Raises:
    InputError: an unknown option, "reuse" of several steps, or batches of another leading length.
  Guarantees:
    "mixed", "reuse" and "naive" agree with float64 central differences to 1e-6 for twice
    differentiable networks (with "detach": of a training whose moments stay what they were). Values
    that are not finite are reported in `aux`, never replaced.

  >>> inner = lambda w, theta, x, key: 0.5 * jnp.sum((w - theta * x) ** 2)
  >>> outer = lambda w, x, key: 0.5 * jnp.sum((w - x) ** 2)
  >>> fn = hypergradient(inner, outer, optax.sgd(0.5))
  >>> out = fn(1.0, jnp.zeros(1), optax.sgd(0.5).init(jnp.zeros(1)),
  ...          jnp.ones((1, 1, 1)), jnp.full((1, 1), 2.0), jax.random.key(0))
  >>> float(out.params[0]), float(out.grad)  # phi* = 0.5, (phi* - 2) * 0.5
  (0.5, -0.75)
  """
  check.positive("steps", steps)
  check.one_of("method", method, get_args(Method))
  check.one_of("carry", carry, ("detach", "full"))
  check.one_of("surrogate", surrogate, (None, "sgd"))
  check.one_of("solver", solver, ("cg", "neumann"))
  check.positive("iterations", iterations)
  check.positive("rate", rate)
  if method == "reuse":
    check.require(steps == 1, "steps=1 for method='reuse'", f"{steps=}", "use method='mixed'")
  flow = {"through_state": carry == "full", "as_sgd": surrogate == "sgd"}

  def compute(
    theta: PyTree,
    params: Params,
    opt_state: PyTree,
    inner_batches: PyTree,
    outer_batch: PyTree,
    key: Key,
  ) -> Hyper:
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(inner_batches)}
    check.require(
      lengths == {steps},
      f"inner_batches with a leading axis of length {steps}, a batch for each inner step",
      f"{sorted(lengths)}",
      "stack one batch a step; of one step, jax.tree.map(lambda x: x[None], batch)",
    )
    inner_key, outer_key = rng.streams(key, "inner", "outer")

    def loss_of(number: int) -> hyper_steps.Loss:
      batch = jax.tree.map(lambda x: x[number], inner_batches)
      own = inner_key if steps == 1 else jax.random.fold_in(inner_key, number)
      # The same keys in primal and tangent: one linearisation serves both.
      return lambda p, t: batch_mean(lambda e, k: inner_loss(p, t, e, k), batch, own)

    def outer(p: Params) -> jax.Array:
      return batch_mean(lambda e, k: outer_loss(p, e, k), outer_batch, outer_key)

    losses = [loss_of(number) for number in range(steps)]
    is_exact = method in ("mixed", "reuse")
    taken, new_params, new_state, inner_value, last = hyper_steps.forwards(
      losses, tx, theta, params, opt_state, keeps_last=is_exact
    )
    outer_value, v = jax.value_and_grad(outer)(new_params)
    residual = jnp.zeros(())
    if method == "implicit":
      product = hyper_steps.exact_product(losses[-1], theta, new_params)
      q, residual = hyper_steps.solved(product, v, solver=solver, iterations=iterations, rate=rate)
      ends = hyper_steps.Ends(optax.tree.scale(-1.0, product(q)[1]), q, jnp.zeros((), jnp.int32))
    else:
      products = [
        hyper_steps.exact_product(loss, theta, step.params)
        if is_exact or method == "naive"
        else hyper_steps.difference_product(loss, theta, step.params, is_central=method == "fd")
        for loss, step in zip(losses, taken, strict=True)
      ]
      products = products if last is None else [*products[:-1], last]
      # Of "naive" the backward sweep is automatic; one step of ours gives the diagnostics.
      first = -1 if method == "naive" else 0
      ends = hyper_steps.backwards(taken[first:], products[first:], tx, theta, v, **flow)
      if method == "naive":
        value = hyper_steps.unrolled(losses, tx, outer, params, opt_state, **flow)
        ends = ends._replace(grad=jax.grad(value)(theta))

    g = taken[-1].gradient
    inner_norm, outer_norm = optax.tree.norm(g), optax.tree.norm(v)
    product_of_norms = inner_norm * outer_norm
    is_something = [jnp.any(x != 0) for x in jax.tree.leaves(ends.grad)]  # NaN is no zero
    aux = HyperAux(
      inner_loss=inner_value,
      outer_loss=outer_value,
      inner_norm=inner_norm,
      outer_norm=outer_norm,
      pulled_norm=optax.tree.norm(ends.pulled),
      alignment=jnp.where(
        product_of_norms > 0,
        optax.tree.vdot(g, v) / jnp.where(product_of_norms > 0, product_of_norms, 1.0),
        0.0,
      ),
      zero_second_moment=ends.zero_second_moment,
      is_finite=tree.all_finite((ends.grad, new_params)),
      is_zero=~jnp.any(jnp.stack(is_something)) & (outer_norm != 0),
      residual=residual,
    )
    return Hyper(ends.grad, new_params, new_state, aux)

  return compute
