"""Learn2Synth: tune a synthesiser so that a network trained on its images does well on real ones.

Hu et al., "Learn2Synth: Learning Optimal Data Synthesis Using Hypergradients for Brain Image
Segmentation", ICCV 2025, arXiv:2411.16719.

  synthetic pass   phi*   = phi + U(grad_phi L_synth(phi, theta), s, phi)      theta frozen
  real pass        theta <- theta + U'(d L_real(phi*) / d theta, s', theta)    phi* frozen

The segmentation network phi sees real images through theta alone: no term of its update contains a
gradient on real data. Both passes are one call of `grads.hypergradient`.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import grads
from medjax.grads import hyper, hyper_result
from medjax.types import Key, Metrics, Params, PyTree, Step, TrainState


class SynthState(NamedTuple):
  """What Learn2Synth keeps beside the network: the synthesiser and its optimiser's state."""

  theta: PyTree
  theta_opt_state: PyTree


def learn2synth(
  inner_loss: hyper.InnerLoss,
  outer_loss: hyper.OuterLoss,
  tx: optax.GradientTransformation,
  theta: PyTree,
  theta_tx: optax.GradientTransformation,
  *,
  steps: int = 1,
  every: int | None = None,
  method: hyper.Method = "mixed",
  carry: Literal["detach", "full"] = "detach",
  surrogate: Literal["sgd"] | None = None,
  describe: Callable[[PyTree], Mapping[str, jax.Array]] | None = None,
) -> Step:
  """Step that alternates the synthetic and the real pass, one of each an update.

  Args:
    inner_loss: `inner_loss(params, theta, example, key)`; synthesises from the example's label map
      under `key`, augments with theta, and compares the network's output with the label.
    outer_loss: `outer_loss(params, example, key)` on one real, labelled example.
    tx: optimiser of the network. The released code differentiates through Adam's current moments,
      as happens here; Adam needs `eps_root` where a gradient can be exactly zero.
    theta: initial parameters of the augmentation, unconstrained.
    theta_tx: optimiser of theta. DEVIATION: the released code shares the network's optimiser and
      rate; theta has another scale and gets its own.
    steps: K, inner steps that the hypergradient goes through; the paper takes one.
    every: M >= K, synthetic steps an update, of which the last K are differentiated; None: K. theta
      moves once an update, which makes it cheaper the larger M is.
    method, carry, surrogate: those of `grads.hypergradient`.
    describe: theta -> natural parameters by name, logged as "theta/<name>" before each update.
  Returns:
    Step over batches `{"inner": batch, "outer": batch}`, of several steps with a leading axis of
    length M before the inner batch's own; theta lives in `state.extra.theta`.
    Metrics: "loss" (synthetic), "outer_loss" (real, after the step), "grad_norm", "hyper_norm",
    "alignment" (cosine of the real and the synthetic gradient), "zero_second_moment",
    "no_derivative" (1 where the hypergradient is exactly 0, of which the loop warns), and
    "not_differentiable" (1 where it is not finite for another reason; the loop stops and says so).
  """
  compute = grads.hypergradient(
    inner_loss,
    outer_loss,
    tx,
    steps=steps,
    every=every,
    method=method,
    carry=carry,
    surrogate=surrogate,
  )
  is_single = (every or steps) == 1

  def init(params: Params, key: Key) -> TrainState:
    del key
    # Adam's first update is rate * sign(gradient), whose derivative is zero: the hypergradient of
    # step 0 is rounding noise. theta's optimiser moves by at most its rate there, once.
    extra = SynthState(theta, theta_tx.init(theta))
    return TrainState.start(params, tx.init(params), extra=extra)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    theta, theta_opt_state = state.extra
    out = compute(
      theta,
      state.params,
      state.opt_state,
      jax.tree.map(lambda x: x[None], batch["inner"]) if is_single else batch["inner"],
      batch["outer"],
      key,
    )
    updates, theta_opt_state = theta_tx.update(out.grad, theta_opt_state, theta)
    extra = SynthState(optax.apply_updates(theta, updates), theta_opt_state)
    metrics = {
      "loss": out.aux.inner_loss,
      "outer_loss": out.aux.outer_loss,
      "grad_norm": out.aux.inner_norm,
      "hyper_norm": optax.tree.norm(out.grad),
      "alignment": out.aux.alignment,
      "zero_second_moment": out.aux.zero_second_moment.astype(jnp.float32),
      "no_derivative": out.aux.is_zero.astype(jnp.float32),
      "not_differentiable": (
        ~out.aux.is_finite
        & jnp.isfinite(out.aux.inner_loss + out.aux.outer_loss)
        & (out.aux.zero_second_moment == 0)
      ).astype(jnp.float32),
    }
    if describe is not None:
      metrics |= {f"theta/{name}": value for name, value in describe(theta).items()}
    new_state = state.replace(
      step=state.step + 1, params=out.params, opt_state=out.opt_state, extra=extra
    )
    return new_state, metrics

  hints = {
    "zero_second_moment": hyper_result.ZERO_SECOND_MOMENT,
    "no_derivative": hyper_result.NO_DERIVATIVE,
    "not_differentiable": hyper_result.NOT_DIFFERENTIABLE,
  }
  return Step(init, update, hints=hints)
