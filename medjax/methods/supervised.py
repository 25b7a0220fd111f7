"""Plain supervised training: the step that every other method is compared with.

phi <- phi + U(grad_phi mean_i w_i L(phi, x_i), s, phi)
"""

import jax
import jax.numpy as jnp
import optax

from medjax import grads, rng
from medjax.types import Key, LossFn, Metrics, Params, PyTree, Step, TrainState


def supervised(
  loss_fn: LossFn, tx: optax.GradientTransformation, *, opt_state: PyTree | None = None
) -> Step:
  """Step of gradient descent on the weighted mean of a per-example loss.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example; random augmentation and
      synthesis draw from `key`.
    tx: any optax transformation.
    opt_state: state to start from instead of `tx.init(params)`: gradient history carried over.
  Returns:
    Step with metrics "loss" and "grad_norm" (L2 norm of the batch gradient before `tx`).
  """

  def init(params: Params, key: Key) -> TrainState:
    del key
    state = tx.init(params) if opt_state is None else opt_state
    return TrainState(jnp.zeros((), jnp.int32), params, state, {}, ())

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    loss, gradient = jax.value_and_grad(
      lambda p: grads.batch_mean(lambda e, k: loss_fn(p, e, k), batch, rng.stream(key, "loss"))
    )(state.params)
    updates, new_opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient)}
    return state.replace(step=state.step + 1, params=params, opt_state=new_opt_state), metrics

  return Step(init, update)
