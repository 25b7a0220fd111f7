"""A-GEM (Chaudhry et al. 2019): a step may not raise the loss on the memory.

  g~ = g - (g . g_ref) / (g_ref . g_ref) g_ref     if g . g_ref < 0, else g

with g the gradient on the centre's batch and g_ref that on a batch of the memory: two gradients a
step. Afterwards g~ . g_ref >= 0, so that to first order the memory's loss does not rise. What the
optimiser makes of g~ (moments, weight decay) is not held to it.
"""

import jax
import jax.numpy as jnp
import optax

from medjax import grads, rng
from medjax.types import Key, LossFn, Metrics, Params, PyTree, Step, TrainState


def agem(loss_fn: LossFn, tx: optax.GradientTransformation) -> Step:
  """Step on batches {"current", "memory"}; a memory of weight 0 constrains nothing.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx: any optax transformation; it sees g~.
  Returns:
    Step with metrics "loss" and "grad_norm" of the current batch, "memory_loss", and "projected",
    1 where the gradient was turned.
  """

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    def gradient(part: PyTree) -> tuple[jax.Array, PyTree]:
      return jax.value_and_grad(
        lambda p: grads.batch_mean(lambda e, k: loss_fn(p, e, k), part, rng.stream(key, "loss"))
      )(state.params)

    loss, g = gradient(batch["current"])
    memory_loss, reference = gradient(batch["memory"])
    turned, is_turned = projected(g, reference)
    updates, opt_state = tx.update(turned, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      "loss": loss,
      "grad_norm": optax.tree.norm(g),
      "memory_loss": memory_loss,
      "projected": is_turned.astype(jnp.float32),
    }
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  return Step(init, update)


def projected(gradient: PyTree, reference: PyTree) -> tuple[PyTree, jax.Array]:
  """g~ above, and whether it differs from g."""
  dot = jnp.asarray(optax.tree.vdot(gradient, reference))
  square = jnp.asarray(optax.tree.vdot(reference, reference))
  is_turned = (dot < 0) & (square > 0)
  factor = jnp.where(is_turned, dot / jnp.where(square > 0, square, 1.0), 0.0)
  return jax.tree.map(lambda g, r: g - factor * r, gradient, reference), is_turned
