"""Fish: gradients of domains that point in one direction (Shi et al. 2022).

  theta~ = theta;   for d in a random order:  theta~ <- theta~ - alpha grad R_d(theta~)
  theta <- theta + epsilon (theta~ - theta)                                          (Alg. 2)

To second order in alpha and in the mean over orders of D domains
  theta~ - theta = -alpha sum_d g_d + (alpha^2 / 2) grad sum_{d < e} <g_d, g_e>,
so that the products of the domains' gradients grow without a second derivative being formed.
"""

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, rng
from medjax.axes import BATCH_AXIS
from medjax.grads.domains import UNKNOWN_DOMAINS
from medjax.types import Key, LossFn, Metrics, Params, PyTree, Step, TrainState


def fish(
  loss_fn: LossFn, tx: optax.GradientTransformation, num_domains: int, *, rate: float = 0.5
) -> Step:
  """Step that walks through the domains of a batch and goes a part of the way.

  >>> step = fish(lambda w, x, key: w * x["x"], optax.sgd(0.1), 2)
  >>> batch = {"x": jnp.array([1.0, 3.0]), "domain": jnp.array([0, 1])}
  >>> state, _ = step.update(step.init(jnp.float32(0), jax.random.key(0)), batch,
  ...                        jax.random.key(0))
  >>> round(float(state.params), 3)  # half of -0.1 (1 + 3)
  -0.2

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx: of the walk, with alpha its rate; its state goes on from update to update, as in DomainBed.
    num_domains: of all sources that train; domains are 0 .. num_domains - 1.
    rate: epsilon, in (0, 1]; DomainBed's 0.5.
  Returns:
    Step over `batch.domain`. Metrics: "loss" (mean of the risks as the walk met them),
    "worst_loss", "grad_norm" (of the mean of the gradients that it met) and "unknown_domains". A
    domain without an example in the batch is passed by. DEVIATION: the order is drawn, as in the
    paper; DomainBed goes by number. Each of the walk's steps runs the whole batch, of which one
    domain counts: an update costs num_domains plain ones.
  """
  check.positive("rate", rate)
  check.in_interval("rate", rate, 0.0, 1.0)

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    keys = rng.example_keys(rng.stream(key, "loss"), batch)
    of = grads.domains(batch, num_domains)

    def risk(params: Params, domain: jax.Array) -> jax.Array:
      losses = jax.vmap(loss_fn, (None, 0, 0), axis_name=BATCH_AXIS)(params, batch, keys)
      return of.mean(losses)[domain]

    order = jax.random.permutation(rng.stream(key, "order"), num_domains)
    params, opt_state = state.params, state.opt_state
    risks = jnp.zeros(num_domains)
    total = jax.tree.map(jnp.zeros_like, params)
    for place in range(num_domains):
      domain = order[place]
      value, gradient = jax.value_and_grad(risk)(params, domain)
      updates, moved = tx.update(gradient, opt_state, params)
      new = optax.apply_updates(params, updates)
      is_there = of.is_there[domain]
      params, opt_state = jax.tree.map(
        lambda a, b, is_there=is_there: jnp.where(is_there, a, b), (new, moved), (params, opt_state)
      )
      risks = risks.at[domain].set(value)
      total = jax.tree.map(jnp.add, total, gradient)
    walked = jax.tree.map(
      lambda start, end: start + (rate * (end - start)).astype(start.dtype), state.params, params
    )
    number = jnp.maximum(of.is_there.sum(), 1)
    metrics = {
      "loss": of.checked(of.over(risks)),
      "worst_loss": of.worst(risks),
      "grad_norm": optax.tree.norm(total) / number,
      "unknown_domains": of.num_unknown,
    }
    return state.replace(step=state.step + 1, params=walked, opt_state=opt_state), metrics

  return Step(init, update, hints={"unknown_domains": UNKNOWN_DOMAINS})
