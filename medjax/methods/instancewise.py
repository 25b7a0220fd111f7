"""Every example is a task: the gradients of a batch are combined instead of averaged.

  phi <- phi + U(sum_i c_i w_i g_i, s, phi),   c = combine(<w_i g_i, w_j g_j>)

Instance-wise risk minimisation (Quinton & Rey 2024, Section 5), for any combiner.
"""

import jax
import jax.numpy as jnp
import optax

from medjax import grads, rng, tree
from medjax.grads.combine import Combiner, conflicts
from medjax.types import Key, LossFn, Metrics, Params, PyTree, Step, TrainState


def instancewise(loss_fn: LossFn, tx: optax.GradientTransformation, *, combine: Combiner) -> Step:
  """Step along a combination of the gradients of the examples.

  >>> step = instancewise(lambda w, x, key: w @ x, optax.sgd(1.0), combine=grads.combine.mgda())
  >>> batch = jnp.array([[2.0, 0.0], [0.0, 1.0], [jnp.nan, 0.0]])
  >>> state, metrics = step.update(step.init(jnp.zeros(2), jax.random.key(0)), batch,
  ...                              jax.random.key(0))
  >>> [round(float(x), 4) for x in state.params], float(metrics["skipped"])
  ([-0.4, -0.8], 1.0)

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example; batch statistics are refused.
    tx: any optax transformation.
    combine: from `medjax.grads.combine`. One with `.weights` needs the matrix of inner products
      alone, by `grads.gramian`: no gradient of an example is formed where the engine can do
      without, and the direction is one more backward pass. The others (`graddrop`) form all rows.
  Returns:
    Step with the metrics "loss" (weighted mean of the examples that took part; NaN if none did),
    "grad_norm" of the combined gradient, "skipped" (examples of a weight above 0 whose gradient is
    not finite: the others go on), "conflicts" (share of pairs that point apart) and
    "lowest_cosine".
  """

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    params, own = state.params, rng.stream(key, "loss")
    matrix = grads.gramian(loss_fn)(params, batch, own)
    weight = tree.entry(batch, "weight")
    weight = jnp.ones(len(matrix)) if weight is None else jnp.asarray(weight)
    is_there = jnp.isfinite(jnp.diagonal(matrix)) & (weight > 0)
    # Not finite is a combiner's mark of a row that takes no part.
    both = jnp.where(is_there[:, None] & is_there[None], weight[:, None] * weight[None], jnp.nan)
    matrix = matrix * both
    # In the place of an example that takes no part a sound one is differentiated, times zero: its
    # own derivative may be NaN, which zero does not remove.
    place = jnp.where(is_there, jnp.arange(len(weight)), jnp.argmax(is_there))
    sound = jax.tree.map(lambda x: jnp.asarray(x)[place], batch)
    keys = rng.example_keys(own, batch)[place]
    key_of_rule = rng.stream(key, "combine")
    if combine.weights is None:
      rows = jax.vmap(jax.grad(loss_fn), (None, 0, 0))(params, sound, keys)
      leaves, structure = jax.tree.flatten(rows)
      table = jnp.concatenate([x.reshape(len(weight), -1) for x in leaves], axis=1)
      table = jnp.where(is_there[:, None], table * weight[:, None], jnp.nan)
      direction = combine(table, key_of_rule)
      sizes = [x[0].size for x in leaves]
      parts = jnp.split(direction, [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)])
      shaped = [p.reshape(x.shape[1:]) for p, x in zip(parts, leaves, strict=True)]
      gradient = jax.tree.unflatten(structure, shaped)
      losses = jax.vmap(loss_fn, (None, 0, 0))(params, sound, keys)
    else:
      coefficients = combine.weights(matrix, key_of_rule) * weight
      losses, pull = jax.vjp(lambda p: jax.vmap(loss_fn, (None, 0, 0))(p, sound, keys), params)
      (gradient,) = pull(jnp.where(is_there, coefficients, 0.0).astype(losses.dtype))
    gradient = jax.tree.map(lambda g: jnp.where(is_there.any(), g, 0.0), gradient)
    updates, opt_state = tx.update(gradient, state.opt_state, params)
    found = conflicts(matrix)
    mean = tree.weighted_mean(losses, jnp.where(is_there, weight, 0.0))
    metrics = {
      "loss": jnp.where(is_there.any(), mean, jnp.nan),
      "grad_norm": optax.tree.norm(gradient),
      "skipped": ((weight > 0) & ~is_there).sum(),
      "conflicts": found.share,
      "lowest_cosine": found.lowest,
    }
    new_params = optax.apply_updates(params, updates)
    return state.replace(step=state.step + 1, params=new_params, opt_state=opt_state), metrics

  return Step(init, update)
