"""Gradient descent on a function of the domains' risks: what V-REx, IRM, GroupDRO and Fishr share.

  phi <- phi + U(grad_phi [mean_d R_d + beta(t) P], s, phi),   R_d = mean loss of domain d

They differ in the penalty P, or in the weights of the mean.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import optax

from medjax import grads, rng
from medjax.grads.domains import UNKNOWN_DOMAINS, Domains
from medjax.types import Key, Metrics, Params, PyTree, Step, TrainState

Strength: TypeAlias = Callable[[jax.Array], jax.Array | float] | float
"""Of a penalty: a number, or a function of the step."""


class Objective(NamedTuple):
  """What is minimised on one batch.

  Attributes:
    total: scalar that is differentiated.
    risks: [domain] mean losses.
    metrics: shown beside "loss", "worst_loss" and "grad_norm".
    extra: what the method keeps for its next update.
  """

  total: jax.Array
  risks: jax.Array
  metrics: Metrics
  extra: PyTree


Minimised: TypeAlias = Callable[[Params, PyTree, Key, Domains, PyTree], Objective]
"""`(params, batch, keys [batch], domains, extra) -> Objective`."""


def descent(
  objective: Callable[[jax.Array], Minimised],
  tx: optax.GradientTransformation,
  num_domains: int,
  extra: PyTree = (),
) -> Step:
  """Step of gradient descent on an objective that sees a batch by domains.

  Args:
    objective: `objective(step)` gives the function of this step.
    tx: any optax transformation.
    num_domains: of all sources that train.
    extra: what the method keeps, at the start.
  Returns:
    Step with the metrics "loss" (mean of the risks of the domains that are there), "worst_loss",
    "grad_norm", "unknown_domains" (examples of a domain out of range: the loss is then NaN, and the
    loop stops) and the objective's own.
  """

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params), extra=extra)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    keys = rng.example_keys(rng.stream(key, "loss"), batch)
    of = grads.domains(batch, num_domains)
    minimised = objective(state.step)

    def total(params: Params) -> tuple[jax.Array, Objective]:
      found = minimised(params, batch, keys, of, state.extra)
      return of.checked(found.total), found

    gradient, found = jax.grad(total, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    metrics = {
      "loss": of.checked(of.over(found.risks)),
      "worst_loss": of.worst(found.risks),
      "grad_norm": optax.tree.norm(gradient),
      "unknown_domains": of.num_unknown,
      **found.metrics,
    }
    new = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      extra=found.extra,
    )
    return new, metrics

  return Step(init, update, hints={"unknown_domains": UNKNOWN_DOMAINS})


def at_step(strength: Strength, step: jax.Array) -> jax.Array | float:
  """The strength at a step."""
  return strength(step) if callable(strength) else strength
