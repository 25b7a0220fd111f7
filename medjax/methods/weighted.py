"""Training on examples that are weighed by what the network makes of them.

phi <- phi + U(grad_phi sum_i w_i L_i / n, s, phi),   w = weigh(statistics of the batch)
"""

from collections.abc import Callable

import jax
import optax

from medjax import rng, tree
from medjax.axes import BATCH_AXIS
from medjax.grads import weights
from medjax.types import Array, Key, Metrics, Params, PyTree, Step, TrainState


def weighted(
  predict: Callable[[Params, PyTree, Key], Array],
  cost: Callable[[Array, PyTree], Array],
  tx: optax.GradientTransformation,
  *,
  weigh: weights.Weigher,
) -> Step:
  """Step of gradient descent on a weighted mean.

  >>> import jax.numpy as jnp
  >>> from medjax import losses
  >>> predict = lambda w, example, key: w * example["image"]
  >>> cost = lambda logits, example: losses.cross_entropy(logits, example["label"])
  >>> step = weighted(predict, cost, optax.sgd(0.1), weigh=weights.low())
  >>> batch = {"image": jnp.eye(2), "label": jnp.array([0, 0])}  # the second one is wrong
  >>> _, metrics = step.update(step.init(jnp.float32(1), jax.random.key(0)), batch,
  ...                          jax.random.key(0))
  >>> round(float(metrics["largest_weight"]), 4)
  2.0

  Args:
    predict: `predict(params, example, key) -> logits` of ONE example.
    cost: `cost(logits, example) -> scalar`.
    tx: any optax transformation.
    weigh: from `medjax.grads.weights`, of the statistics that logits give: `low`, `focal`,
      `self_paced`, `low_entropy`, or your own.
  Returns:
    Step with the metrics "loss" (plain mean), "weighted_loss", "grad_norm", "largest_weight" and
    "unused" (share of the examples with a weight of 0). Weights of the batch of 0 leave examples
    out; others multiply.
  """

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    keys = rng.example_keys(rng.stream(key, "loss"), batch)
    own = tree.entry(batch, "weight")

    def objective(params: Params) -> tuple[Array, Metrics]:
      mapped = jax.vmap(predict, (None, 0, 0), axis_name=BATCH_AXIS)
      logits = mapped(params, batch, keys)
      losses = jax.vmap(cost)(logits, batch)
      fixed = jax.lax.stop_gradient(logits)
      found = weights.of_logits(cost, fixed, batch, own)
      chosen = weigh(found)
      used = chosen if own is None else chosen * own
      total = tree.weighted_mean(losses, used)
      counted = found.is_there
      unused = (counted & (chosen == 0)).sum() / counted.sum().clip(1)
      shown = {
        "loss": tree.weighted_mean(losses, own),
        "weighted_loss": total,
        "largest_weight": chosen.max(),
        "unused": unused,
      }
      return total, shown

    gradient, metrics = jax.grad(objective, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = optax.tree.norm(gradient)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  return Step(init, update)
