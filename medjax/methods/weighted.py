"""Training on examples that are weighed by what the network makes of them.

phi <- phi + U(grad_phi sum_i w_i L_i / n, s, phi),   w = weigh(statistics of the batch)
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from medjax import check, rng, tree
from medjax.axes import BATCH_AXIS
from medjax.grads import gramian, weights
from medjax.grads.batch import finite_padding
from medjax.types import Array, Key, Metrics, Params, PyTree, Step, TrainState


def weighted(
  predict: Callable[[Params, PyTree, Key], Array],
  cost: Callable[[Array, PyTree], Array],
  tx: optax.GradientTransformation,
  *,
  weigh: weights.Weigher,
  by: Literal["logits", "gradients"] = "logits",
) -> Step:
  """Step of gradient descent on a weighted mean.

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
    weigh: from `medjax.grads.weights`: `low`, `focal`, `self_paced`, `low_entropy`, `aligned`, or
      your own.
    by: where its statistics come from. "logits" cost nothing, and know no cosines. "gradients" are
      those of all parameters by `grads.gramian`: lengths, and cosines with the batch, which
      `aligned` needs; that is the alignment filter without its privacy.
  Returns:
    Step with the metrics "loss" (plain mean), "weighted_loss", "grad_norm", "largest_weight" and
    "unused" (share of the examples with a weight of 0). Weights of the batch of 0 leave examples
    out; others multiply. "loss" is NaN, so that a training stops, if `weigh` needs a statistic that
    `by` does not give.
  Raises:
    InputError: an unknown `by`; with "gradients" a loss that mixes examples.
  """
  check.one_of("by", by, ("logits", "gradients"))

  def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
    return cost(predict(params, example, key), example)

  products = gramian(loss_fn)

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    keys = rng.example_keys(rng.stream(key, "loss"), batch)
    own = tree.entry(batch, "weight")
    batch = finite_padding(batch, own)
    between = None if by == "logits" else products(state.params, batch, rng.stream(key, "loss"))

    def objective(params: Params) -> tuple[Array, Metrics]:
      mapped = jax.vmap(predict, (None, 0, 0), axis_name=BATCH_AXIS)
      logits = mapped(params, batch, keys)
      losses = jax.vmap(cost)(logits, batch)
      fixed = jax.lax.stop_gradient(logits)
      found = weights.of_logits(cost, fixed, batch, own)
      if between is not None:
        # Who takes no part has no product with anybody, nor a share in the mean.
        there = found.is_there
        clean = jnp.where(there[:, None] & there[None], between, jnp.nan)
        lengths = weights.of_gramian(found.losses, clean)
        found = found._replace(
          norms=lengths.norms, cosines=lengths.cosines, is_there=lengths.is_there
        )
      chosen = weigh(found)
      used = chosen if own is None else chosen * own
      total = tree.weighted_mean(losses, used)
      counted = found.is_there
      unused = (counted & (chosen == 0)).sum() / counted.sum().clip(1)
      shown = {
        "loss": tree.weighted_mean(losses, own) + 0.0 * chosen.sum(),  # NaN stops the loop
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
