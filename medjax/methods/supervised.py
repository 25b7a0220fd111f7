"""Plain supervised training: the step that every other method is compared with.

phi <- phi + U(grad_phi mean_i w_i L(phi, x_i), s, phi)
"""

import jax
import optax

from medjax import grads, rng, tree
from medjax.types import AnyLossFn, Key, Metrics, Params, PyTree, Step, TrainState


def supervised(
  loss_fn: AnyLossFn,
  tx: optax.GradientTransformation,
  *,
  opt_state: PyTree | None = None,
  model_state: PyTree | None = None,
) -> Step:
  """Step of gradient descent on the weighted mean of a per-example loss.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example; random augmentation and
      synthesis draw from `key`.
    tx: any optax transformation.
    opt_state: state to start from instead of `tx.init(params)`: gradient history carried over.
    model_state: what the network keeps beside its parameters, such as running statistics. With it
      the loss is `loss_fn(params, example, key, model_state) -> (scalar, new model_state)`, and the
      mean of the new ones over the batch is kept. BatchNorm takes its batch over the vmapped axis
      "batch"; examples of weight 0 then still enter its statistics: give it full batches.
  Returns:
    Step with metrics "loss" and "grad_norm" (L2 norm of the batch gradient before `tx`).
  """

  def init(params: Params, key: Key) -> TrainState:
    del key
    state = tx.init(params) if opt_state is None else opt_state
    return TrainState.start(params, state, model_state=model_state)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    def mean(params: Params) -> tuple[jax.Array, PyTree]:
      def one(example: PyTree, key: Key) -> tuple[jax.Array, PyTree]:
        if model_state is None:
          return loss_fn(params, example, key), state.model_state
        return loss_fn(params, example, key, state.model_state)

      return grads.batch_mean(one, batch, rng.stream(key, "loss"))

    (loss, kept), gradient = jax.value_and_grad(mean, has_aux=True)(state.params)
    kept = tree.cast_like(kept, state.model_state)
    updates, new_opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient)}
    new = state.replace(
      step=state.step + 1, params=params, opt_state=new_opt_state, model_state=kept
    )
    return new, metrics

  return Step(init, update)
