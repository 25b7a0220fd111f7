"""Differentiable architecture search: weights and architecture learnt together, as one Step.

With weights omega, architecture alpha, training loss L_tr and validation loss L_val, and
omega* = omega + U(grad L_tr(omega, alpha)) after one step of the optimiser,

  "milenas"   alpha <- alpha - U_a(grad_alpha (L_tr + beta L_val)(omega, alpha))
  "exact"     alpha <- alpha - U_a(d/d alpha L_val(omega*(alpha), alpha))
  "darts"     the same, with second derivatives by differences of two gradients
  "implicit"  the same, as if omega* were the minimum of L_tr

MiLeNAS: He et al. (2020), as FedAutoMRI (Wu et al. 2023), Eq. 6, writes it, where beta stands at
the validation loss. The released code of MiLeNAS has it at the training loss. DARTS: Liu et al.
(2019), Eqs. 7 and 8. The last three are `grads.hypergradient` with an outer loss that takes theta.
"""

from typing import Any, Literal, get_args

import jax
import optax

from medjax import check, grads, rng
from medjax.types import Array, Key, Metrics, Params, PyTree, Step, TrainState

SearchMethod = Literal["milenas", "darts", "exact", "implicit"]
_ENGINE: dict[str, Any] = {"darts": "fd", "exact": "mixed", "implicit": "implicit"}


def architecture_search(
  loss_fn: Any,
  tx: optax.GradientTransformation,
  architecture_tx: optax.GradientTransformation,
  *,
  method: SearchMethod = "milenas",
  beta: float | int = 1.0,
  **options: Any,
) -> Step:
  """Step whose parameters are {"weights": omega, "architecture": alpha}.

  Args:
    loss_fn: `loss_fn(weights, architecture, example, key) -> scalar` of ONE example.
    tx: of the weights; for the hypergradients see `grads.hypergradient` (Adam needs eps_root).
    architecture_tx: of the architecture; the paper has Adam at 3e-3 with weight decay 1e-3.
    method: as above.
    beta: of "milenas", 0 or more; 0 learns alpha on training data alone.
    options: further ones of `grads.hypergradient`, such as `iterations` of "implicit".
  Returns:
    Step over batches {"train": batch, "validation": batch} with metrics "loss", "validation_loss"
    and "grad_norm" (of the architecture). The federation of `federated.local(step)` averages
    weights and architecture alike.
  """
  check.one_of("method", method, get_args(SearchMethod))
  check.non_negative("beta", beta)

  def init(params: Params, key: Key) -> TrainState:
    del key
    state = {
      "weights": tx.init(params["weights"]),
      "architecture": architecture_tx.init(params["architecture"]),
    }
    return TrainState.start(params, state)

  def mixed(
    weights: Params, alpha: PyTree, state: PyTree, batch: PyTree, key: Key
  ) -> tuple[Params, PyTree, PyTree, Array, Array]:
    """MiLeNAS: both gradients at the weights as they are."""
    train_key, validation_key = rng.streams(key, "train", "validation")

    def mean(w: Params, a: PyTree, part: str, own: Key) -> Array:
      return grads.batch_mean(lambda e, k: loss_fn(w, a, e, k), batch[part], own)

    both = jax.value_and_grad(mean, (0, 1))
    loss, (weight_grad, grad) = both(weights, alpha, "train", train_key)
    other = jax.value_and_grad(mean, 1)
    validation, more = other(weights, alpha, "validation", validation_key)
    updates, state = tx.update(weight_grad, state, weights)
    grad = jax.tree.map(lambda a, b: a + beta * b, grad, more)
    return optax.apply_updates(weights, updates), state, grad, loss, validation

  def outer_loss(weights: Params, alpha: PyTree, example: PyTree, key: Key) -> Array:
    return loss_fn(weights, alpha, example, key)

  def through(
    weights: Params, alpha: PyTree, state: PyTree, batch: PyTree, key: Key
  ) -> tuple[Params, PyTree, PyTree, Array, Array]:
    run = grads.hypergradient(
      loss_fn, outer_loss, tx, method=_ENGINE[method], outer_takes_theta=True, **options
    )
    inner = jax.tree.map(lambda x: x[None], batch["train"])
    found = run(alpha, weights, state, inner, batch["validation"], key)
    return found.params, found.opt_state, found.grad, found.aux.inner_loss, found.aux.outer_loss

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    weights, alpha = state.params["weights"], state.params["architecture"]
    run = mixed if method == "milenas" else through
    weights, own, grad, loss, validation = run(
      weights, alpha, state.opt_state["weights"], batch, rng.stream(key, "loss")
    )
    updates, other = architecture_tx.update(grad, state.opt_state["architecture"], alpha)
    params = {"weights": weights, "architecture": optax.apply_updates(alpha, updates)}
    opt_state = {"weights": own, "architecture": other}
    metrics = {
      "loss": loss,
      "validation_loss": validation,
      "grad_norm": optax.tree.norm(grad),
    }
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  return Step(init, update, {"search": method, "beta": beta})
