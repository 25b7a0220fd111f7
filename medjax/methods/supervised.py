"""Plain supervised training: the step that every other method is compared with.

phi <- phi + U(grad_phi mean_i w_i L(phi, x_i), s, phi)

In chunks, for batches that do not fit on the device at once: with the weights W_c = sum of w_i in
chunk c, the mean over the batch is sum_c W_c mean_c / sum_c W_c, and so is its gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from medjax import grads, rng, sweeps, tree
from medjax.types import (
  AnyLossFn,
  Chunked,
  Key,
  Metrics,
  Params,
  PyTree,
  Step,
  Sweep,
  TrainState,
)


def supervised(
  loss_fn: AnyLossFn,
  tx: optax.GradientTransformation,
  *,
  opt_state: PyTree | None = None,
  model_state: PyTree | None = None,
  in_chunks: bool = False,
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
    in_chunks: streams may give a list of chunks of one shape (see `data.cut`), which is one batch:
      gradient accumulation. The update is that of the whole batch to rounding, with the padding of
      the last chunk left out; sums are kept in float32 or wider. BatchNorm still takes its
      statistics from a chunk.
  Returns:
    Step with metrics "loss" and "grad_norm" (L2 norm of the batch gradient before `tx`).
  """

  def init(params: Params, key: Key) -> TrainState:
    del key
    state = tx.init(params) if opt_state is None else opt_state
    return TrainState.start(params, state, model_state=model_state)

  def mean_of(state: TrainState, batch: PyTree, key: Key) -> tuple[Any, Params]:
    """((loss, kept model state), gradient) of the mean over a batch or a chunk."""

    def mean(params: Params) -> tuple[jax.Array, PyTree]:
      def one(example: PyTree, key: Key) -> tuple[jax.Array, PyTree]:
        if model_state is None:
          return loss_fn(params, example, key), state.model_state
        return loss_fn(params, example, key, state.model_state)

      return grads.batch_mean(one, batch, rng.stream(key, "loss"))

    return jax.value_and_grad(mean, has_aux=True)(state.params)

  def updated(state: TrainState, loss: jax.Array, kept: PyTree, gradient: Params) -> Any:
    kept = tree.cast_like(kept, state.model_state)
    updates, new_opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient)}
    new = state.replace(
      step=state.step + 1, params=params, opt_state=new_opt_state, model_state=kept
    )
    return new, metrics

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    (loss, kept), gradient = mean_of(state, batch, key)
    return updated(state, loss, kept, gradient)

  if not in_chunks:
    return Step(init, update)

  def begin(state: TrainState) -> PyTree:
    def zero(x: jax.Array) -> jax.Array:
      return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))

    return jnp.zeros(()), jnp.zeros(()), *jax.tree.map(zero, (state.model_state, state.params))

  def accumulate(
    state: TrainState, acc: PyTree, chunk: PyTree, carry: PyTree, key: Key
  ) -> tuple[PyTree, PyTree]:
    (loss, kept), gradient = mean_of(state, chunk, key)
    weight = tree.entry(chunk, "weight")
    size = jnp.float32(len(jax.tree.leaves(chunk)[0])) if weight is None else jnp.sum(weight)
    sums = jax.tree.map(
      lambda total, mean: total + (size * mean).astype(total.dtype), acc[1:], (loss, kept, gradient)
    )
    return (acc[0] + size, *sums), carry

  def finish(state: TrainState, acc: PyTree, key: Key) -> tuple[TrainState, PyTree, Metrics]:
    del key
    size = jnp.where(acc[0] > 0, acc[0], 1.0)
    loss, kept, gradient = jax.tree.map(lambda total: total / size, acc[1:])
    gradient = tree.cast_like(gradient, state.params)
    state, metrics = updated(state, loss, kept, gradient)
    return state, (), metrics

  chunked = Chunked(begin, (Sweep(accumulate, finish),))
  return Step(init, sweeps.on_one_chunk(chunked), chunked=chunked)
