"""Weights of clients that are learned (Auto-FedAvg, Xia et al., 2021).

  a = softmax(b),   v(b) = sum_i a_i v_i,   b <- b - U(d/db L(theta + v(b)))
  d/db_i L = a_i <v_i - v, grad L(theta + v)>

b starts at log(n_i / n), which is FedAvg, in every round. The paper goes on from the weights of the
round before, and also has the mean of a Dirichlet distribution in place of the softmax.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from medjax import check
from medjax.federated import rows as matrix
from medjax.federated.aggregate.rule import Rule
from medjax.types import Key, Params


def auto_fedavg(
  judge: Callable[[Params, Key], jax.Array],
  tx: optax.GradientTransformation | None = None,
  *,
  iterations: int = 5,
) -> Rule:
  """Mean whose weights lower a loss on cases that no client trains on.

  Args:
    judge: `judge(params, key) -> scalar`, a loss of the joined model. In the paper every client has
      held-out cases and sends the gradient for b, one number a client; here `judge` runs where the
      rule runs, so that it is the mean of those losses in one process.
    tx: optimiser of b, anew in each round; default adam(0.1).
    iterations: updates of b a round, at least 1. They are unrolled: convolutions in a loop are slow
      on CPUs.
  Returns:
    A rule that judges theta + v: with a server optimiser other than sgd(1.0), not the model of the
    next round. A gradient that is not finite leaves b as it is. Where the rule is that of a part,
    the other parts are judged as they were before the round.
  """
  check.positive("iterations", iterations)
  optimiser = optax.adam(0.1) if tx is None else tx

  def join(
    rows: jax.Array,
    weight: jax.Array,
    on: jax.Array,
    *,
    loss_of: Callable[[jax.Array], jax.Array] | None = None,
    **others: object,
  ):
    loss_at = check.given(loss_of, "the loss of a joined vector", "pass loss_of=... to the rule")

    def weights_of(b: jax.Array) -> jax.Array:
      top = jax.lax.stop_gradient(jnp.where(on, b, -jnp.inf).max())  # a softmax does not see it
      return matrix.shared(jnp.exp(jnp.where(on, b - top, 0)), on)

    def loss(b: jax.Array) -> jax.Array:
      return loss_at(weights_of(b) @ rows)

    b = jnp.log(jnp.where(on, matrix.shared(weight, on), 1))
    state = optimiser.init(b)
    for _ in range(iterations):
      gradient = jax.grad(loss)(b)
      updates, new_state = optimiser.update(gradient, state, b)
      is_finite = jnp.isfinite(gradient).all()
      new = (optax.apply_updates(b, updates), new_state)
      b, state = jax.tree.map(lambda a, o, ok=is_finite: jnp.where(ok, a, o), new, (b, state))
    weights = weights_of(b)
    return matrix.combine(weights, rows), weights

  return Rule(f"auto_fedavg({iterations})", join, judge=judge)
