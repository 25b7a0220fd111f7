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

Other bilevel schemes are the same function with other arguments:

- DARTS (Liu et al., ICLR 2019, Eqs. 7 and 8): `outer_takes_theta=True`, since there the outer loss
  depends on the architecture itself; `method="fd"` for its differences, "first_order" for the
  scheme that alternates and takes the other player for fixed.
- MLDG (Li et al., AAAI 2018), which looks ahead: the gradient of L_1(phi) + beta L_2(phi*) with
  respect to phi is grad L_1(phi) + beta * `Hyper.start`, with `with_start=True`. MAML's is
  `Hyper.start` alone, and first-order MAML's the same with `method="first_order"`.
- Hypergradients only every so often: `methods.learn2synth(..., every=M)`. The outer batch may be
  of any size; a smaller one than the inner batch is the cheapest saving.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from medjax import check, rng
from medjax.grads import hyper_products, hyper_steps
from medjax.grads.batch import batch_mean
from medjax.grads.hyper_result import Hyper, diagnostics
from medjax.types import Key, Params, PyTree

InnerLoss = Callable[[Params, PyTree, PyTree, Key], Any]
OuterLoss = Callable[..., Any]
Method = Literal["mixed", "reuse", "naive", "fd", "fd_one_sided", "implicit", "first_order"]


def hypergradient(
  inner_loss: InnerLoss,
  outer_loss: OuterLoss,
  tx: optax.GradientTransformation,
  *,
  steps: int = 1,
  every: int | None = None,
  method: Method = "mixed",
  carry: Literal["detach", "full"] = "detach",
  surrogate: Literal["sgd"] | None = None,
  solver: Literal["cg", "neumann"] = "cg",
  iterations: int = 10,
  rate: float = 0.1,
  has_aux: bool = False,
  outer_takes_theta: bool = False,
  with_start: bool = False,
) -> Callable[[PyTree, Params, PyTree, PyTree, PyTree, Key], Hyper]:
  """Hypergradient of `outer_loss` with respect to theta through `steps` optimiser steps.

  Args:
    inner_loss: `inner_loss(params, theta, example, key) -> scalar` of ONE example.
    outer_loss: `outer_loss(params, example, key) -> scalar` of ONE example.
    tx: an optax transformation; its update may depend on the parameters (weight decay). Sign
      updates (Lion, sign_sgd, signum, rprop) have the derivative 0, and so has Adam's first
      step; RAdam's steps 3 and 4 give NaN (at b2 = .999): see `surrogate` and `aux`. All others of
      optax and optax.contrib that ask for the gradient alone are tested.
    steps: K, inner steps; the program is unrolled, so that its compilation grows with K.
    every: M, how many inner steps a call takes, of which it differentiates through the last K; the
      ones before are plain steps. None: M = K. One step in M costs (1 + 7 / (3 M)) plain steps a
      step, counted as above.
    method: "mixed": exact, forward over reverse, activations of one step in memory. "reuse": the
      same for one step, named for comparisons. "naive": exact, automatic differentiation of the
      unrolled steps, activations of all steps in memory. "fd", "fd_one_sided": second derivatives
      by differences of two gradients, central or one-sided. "implicit": as if the inner problem
      had converged after the steps, h = -M q with H q = v, H and M of the last batch; wrong
      before it has. "first_order": the steps count as constants, which leaves the direct derivative
      of an outer loss that takes theta, and of `start` the outer gradient at phi*.
    carry: "detach": the optimiser's state is a constant of each step, as of one step it is; the
      gradient still flows through the parameters over all steps. "full": it flows through moments
      too, and h is the whole derivative.
    surrogate: "sgd": on the way back every update counts as gradient descent whose step is as long
      as the update was.
    solver: of "implicit": "cg" for a positive definite H, or "neumann".
    iterations: of the solver; how far it came is `aux.residual`.
    rate: of "neumann", below 2 / (largest eigenvalue of H).
    has_aux: the losses return (scalar, aux); the batch means of both aux are in `Hyper.extra`.
    outer_takes_theta: the outer loss is `outer_loss(params, theta, example, key)`, and h also holds
      its direct derivative, at phi*.
    with_start: also give the gradient of the outer loss with respect to the parameters before the
      steps, for a third more second-derivative work.
  Returns:
    `fn(theta, params, opt_state, inner_batches, outer_batch, key) -> Hyper`. `inner_batches` has a
    leading axis of length M; `Hyper.params` are phi* and `Hyper.opt_state` the optimiser state
    after the steps: no further inner step is needed. Batch losses are means weighted by
    `batch.weight` where the batch has one; example keys are those of `rng.example_keys`.
    Integer leaves of theta and of the optimiser's state are constants: their hypergradient is 0.
  Raises:
    InputError: an unknown option, "reuse" of several steps, `with_start` of "implicit" (the start
      of a converged training has no influence), "first_order" with nothing to derive, a theta
      without floating-point leaves, an optimiser whose update asks for more than gradient, state
      and parameters (Polyak steps, line searches, Sophia), or batches of another leading length.
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
  taken_steps = steps if every is None else every
  check.require(
    taken_steps >= steps,
    "every to be at least steps, the steps that are differentiated",
    f"{every=} and {steps=}",
    "pass a larger every",
  )
  check.one_of("method", method, get_args(Method))
  check.one_of("carry", carry, ("detach", "full"))
  check.one_of("surrogate", surrogate, (None, "sgd"))
  check.one_of("solver", solver, ("cg", "neumann"))
  check.positive("iterations", iterations)
  check.positive("rate", rate)
  if method == "reuse":
    check.require(steps == 1, "steps=1 for method='reuse'", f"{steps=}", "use method='mixed'")
  if method == "implicit":
    check.require(
      not with_start,
      "with_start=False for method='implicit'",
      f"{with_start=}",
      "the start of a converged training has no influence; take method='mixed'",
    )
  if method == "first_order":
    check.require(
      outer_takes_theta or with_start,
      "an outer loss of theta or with_start=True for method='first_order'",
      "neither, which leaves nothing to differentiate",
      "pass outer_takes_theta=True, or take method='mixed'",
    )
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
      lengths == {taken_steps},
      f"inner_batches with a leading axis of length {taken_steps}, a batch for each inner step",
      f"{sorted(lengths)}",
      "stack one batch a step; of one step, jax.tree.map(lambda x: x[None], batch)",
    )
    inner_key, outer_key = rng.streams(key, "inner", "outer")
    theta, whole = _floating(theta)

    def loss_of(number: int) -> hyper_products.Loss:
      batch = jax.tree.map(lambda x: x[number], inner_batches)
      own = inner_key if taken_steps == 1 else jax.random.fold_in(inner_key, number)
      # The same keys in primal and tangent: one linearisation serves both.
      return lambda p, t: _pair(
        batch_mean(lambda e, k: inner_loss(p, whole(t), e, k), batch, own), has_aux
      )

    def outer(p: Params, t: PyTree) -> tuple[jax.Array, Any]:
      of_theta = (whole(t),) if outer_takes_theta else ()
      return _pair(
        batch_mean(lambda e, k: outer_loss(p, *of_theta, e, k), outer_batch, outer_key), has_aux
      )

    plain = [loss_of(number) for number in range(taken_steps - steps)]
    losses = [loss_of(number) for number in range(taken_steps - steps, taken_steps)]
    _, params, opt_state, early, _ = hyper_steps.forwards(
      plain, tx, theta, params, opt_state, keeps_last=False
    )
    is_exact = method in ("mixed", "reuse")
    taken, new_params, new_state, returned, last = hyper_steps.forwards(
      losses, tx, theta, params, opt_state, keeps_last=is_exact
    )
    (outer_value, outer_extra), (v, direct) = jax.value_and_grad(outer, (0, 1), has_aux=True)(
      new_params, theta
    )
    residual = jnp.zeros(())
    if method == "first_order":
      ends = hyper_steps.Ends(jax.tree.map(jnp.zeros_like, theta), v, v, jnp.zeros((), jnp.int32))
    elif method == "implicit":
      product = hyper_products.exact_product(losses[-1], theta, new_params)
      q, residual = hyper_products.solved(
        product, v, solver=solver, iterations=iterations, rate=rate
      )
      ends = hyper_steps.Ends(optax.tree.scale(-1.0, product(q)[1]), v, q, jnp.zeros((), jnp.int32))
    else:
      products = [
        hyper_products.exact_product(loss, theta, step.params)
        if is_exact or method == "naive"
        else hyper_products.difference_product(loss, theta, step.params, is_central=method == "fd")
        for loss, step in zip(losses, taken, strict=True)
      ]
      products = products if last is None else [*products[:-1], last]
      # Of "naive" the backward sweep is automatic; one step of ours gives the diagnostics.
      first = -1 if method == "naive" else 0
      ends = hyper_steps.backwards(taken[first:], products[first:], tx, theta, v, **flow)
    if method == "naive":
      value = hyper_steps.unrolled(losses, tx, outer, opt_state, **flow)
      (grad, start), _ = jax.grad(value, (0, 1), has_aux=True)(theta, params)
      ends = ends._replace(grad=grad, start=start)
    elif outer_takes_theta:
      ends = ends._replace(grad=optax.tree.add(ends.grad, direct))

    inner_values, inner_extra = jax.tree.map(lambda *x: jnp.stack(x), *early, *returned)
    aux = diagnostics(
      ends, taken[-1].gradient, v, new_params, inner_values.mean(), outer_value, residual
    )
    extra = (inner_extra, outer_extra) if has_aux else None
    start = ends.start if with_start else None
    return Hyper(whole.gradient(ends.grad), new_params, new_state, aux, extra, start)

  return compute


def _pair(returned: Any, has_aux: bool) -> tuple[jax.Array, Any]:
  return returned if has_aux else (returned, ())


class _Whole:
  """Puts theta's floating-point leaves back between its other leaves, which are constants."""

  def __init__(self, theta: PyTree):
    self.leaves, self.structure = jax.tree.flatten(theta)
    self.floats = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in self.leaves]

  def __call__(self, found: list[jax.Array]) -> PyTree:
    rest = iter(found)
    leaves = [next(rest) if known else x for x, known in zip(self.leaves, self.floats, strict=True)]
    return jax.tree.unflatten(self.structure, leaves)

  def gradient(self, found: list[jax.Array]) -> PyTree:
    rest = iter(found)
    leaves = [
      next(rest) if known else jnp.zeros_like(x)
      for x, known in zip(self.leaves, self.floats, strict=True)
    ]
    return jax.tree.unflatten(self.structure, leaves)


def _floating(theta: PyTree) -> tuple[list[Any], _Whole]:
  """theta's floating-point leaves, and how they become theta again."""
  whole = _Whole(theta)
  check.require(
    any(whole.floats),
    "a theta with at least one floating-point leaf",
    f"leaves of {sorted({str(jnp.result_type(x)) for x in whole.leaves})}",
    "pass theta as float32",
  )
  return [x for x, known in zip(whole.leaves, whole.floats, strict=True) if known], whole
