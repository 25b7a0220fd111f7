"""Making a federation forget one client, from what its history holds.

Compared in Fraboni et al., "Validation of federated unlearning on collaborative prostate
segmentation" (2023). With Delta_i^t what client i sent in round t, p_i its weight, c the client to
be forgotten:

  FedAccum    theta^0 + sum_t mean_{i != c} Delta_i^t
  FedEraser   from theta^0, with updates |Delta_i^t| U_i / |U_i|, U_i trained anew
  UKD         theta^T - p_c sum_t Delta_c^t, then distilled from theta^T on data of the server
  PGA         from theta^T up the loss of c, within a ball around (n theta^T - theta_c) / (n - 1)
  IFU         from theta^t + noise, t the last round with sum_{s < t} |Delta_c^s| <= Psi, without c:
              `federated.restart`
  influence   theta^T - (H + lambda I)^-1 grad, of the mean loss of all but c: one Newton step

All of them take the mean for the joining rule and sgd(1) for the server, as FedAvg does. The paper
prints norms of parameters where FedEraser and UKD need those of updates. Whether anything was
forgotten is another question: `federated.membership_ratio` asks it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from medjax import check
from medjax.federated.history import History
from medjax.federated.state import Received
from medjax.types import Params, PyTree

MeanLoss = Callable[[Params], jax.Array]
"""A mean loss over some data as a function of the parameters."""


class Past(NamedTuple):
  """What a walk through the history says of one client.

  Attributes:
    replayed: parameters of FedAccum.
    subtracted: parameters of UKD before it distils.
    drift: [rounds + 1] sum of the norms of the client's updates before each round, IFU's Psi.
    norms: [rounds, clients] norm of every update, 0 for clients that were absent.
    others: weighted mean of the other clients' models of the last round, the centre of PGA's ball.
  """

  replayed: Params
  subtracted: Params
  drift: np.ndarray
  norms: np.ndarray
  others: Params


def recollect(history: History, client: int, num_rounds: int) -> Past:
  """Walks through a training once and keeps what the methods above need of it.

  Args:
    history: of the training.
    client: id of the client to be forgotten.
    num_rounds: that the training had.
  Raises:
    InputError: a federation with parts of its own rules, an unknown client, one that never took
      part, or a round in which nobody else did.
  """
  _check(history, client)
  check.positive("num_rounds", num_rounds)
  number = int(history.step.manifest["num_clients"])
  norms = np.zeros((num_rounds, number))
  first, unravel = ravel_pytree(history.state(0).params)
  replayed = np.array(first, np.float64)
  own, last = np.zeros_like(replayed), history.state(0)
  for t, (state, received) in enumerate(history.walk(num_rounds)):
    last = state
    ids, weights, rows = _present(received)
    norms[t, ids] = np.linalg.norm(rows, axis=1)
    mine = ids == client
    _require_others(mine, t)
    replayed += weights[~mine] / weights[~mine].sum() @ rows[~mine]
    own += weights[mine] / weights.sum() @ rows[mine]
  check.require(
    norms[:, client].any(),
    f"a round with client {client}",
    "none",
    "it has nothing to be forgotten",
  )
  ids, weights, rows = _present(history.received_from(last, num_rounds - 1))
  start, mine = np.array(ravel_pytree(last.params)[0], np.float64), ids == client
  end = start + weights / weights.sum() @ rows
  others = start + weights[~mine] / weights[~mine].sum() @ rows[~mine]

  def tree(row: np.ndarray) -> Params:
    return unravel(jnp.asarray(row, first.dtype))

  drift = np.concatenate([[0.0], np.cumsum(norms[:, client])])
  return Past(tree(replayed), tree(end - own), drift, norms, tree(others))


def erased(history: History, past: Past, client: int, num_rounds: int, *, every: int = 2) -> Params:
  """FedEraser (Liu et al., IWQoS 2021): new directions of the others, lengths of the old updates.

  Args:
    history: of the training.
    past: from `recollect`.
    client: to be forgotten; its data are not used.
    num_rounds: that the training had.
    every: Delta t, rounds of the training for one of this; the paper has 1 and 2.
  Returns:
    Parameters after ceil(num_rounds / every) rounds of the other clients.
  """
  _check(history, client)
  check.positive("every", every)
  state = history.state(0)
  unravel = ravel_pytree(state.params)[1]
  for t in range(0, num_rounds, every):
    ids, weights, rows = _present(history.received_from(state, t))
    others = ids != client
    _require_others(~others, t)
    lengths = np.linalg.norm(rows, axis=1)
    scale = past.norms[t, ids] / np.maximum(lengths, 1e-30)
    share = np.where(others, weights, 0) / weights[others].sum()
    moved = np.array(ravel_pytree(state.params)[0], np.float64) + (share * scale) @ rows
    state = state.replace(params=unravel(jnp.asarray(moved, jnp.float32)))
  return state.params


def ascended(
  loss: MeanLoss,
  params: Params,
  centre: Params,
  *,
  radius: float | int,
  rate: float | int,
  num_steps: int = 100,
) -> Params:
  """PGA (Halimi et al. 2022): steps up the forgotten client's loss, each drawn back into a ball.

  Args:
    loss: mean loss over the forgotten client's data.
    params: where it starts, theta^T.
    centre: of the ball, such as the mean of the other clients' last models.
    radius: of the ball, above 0.
    rate: of the ascent, above 0.
    num_steps: 100 in the comparison; it also stops early, which this does not.
  """
  for name, value in {"radius": radius, "rate": rate, "num_steps": num_steps}.items():
    check.positive(name, value)

  def climb(_: jax.Array, now: PyTree) -> PyTree:
    up = jax.tree.map(lambda p, g: p + rate * g, now, jax.grad(loss)(now))
    away = jax.tree.map(jnp.subtract, up, centre)
    shrink = jnp.minimum(1, radius / jnp.maximum(optax.tree.norm(away), 1e-30))
    return jax.tree.map(lambda c, a: c + shrink * a, centre, away)

  return jax.lax.fori_loop(0, num_steps, climb, params)


def influence_removed(
  loss: MeanLoss, params: Params, *, damping: float | int = 0.0, num_iterations: int = 50
) -> Params:
  """One Newton step on the loss that is left when a client leaves (influence functions).

  theta - (H + damping I)^-1 grad L(theta), solved by conjugate gradients on Hessian-vector products
  (forward over reverse), so that H is never formed. At the optimum of all clients grad L is minus
  the gradient of the one that left, over the number of the others.

  Args:
    loss: mean loss over the data of all clients but the forgotten one.
    params: theta^T.
    damping: 0 or more; a network's Hessian has eigenvalues below 0, which it must outweigh.
    num_iterations: of conjugate gradients at most.
  Guarantees: on a quadratic loss, without damping, the result is its optimum.
  """
  check.non_negative("damping", damping)
  check.positive("num_iterations", num_iterations)
  slope = jax.grad(loss)

  def product(direction: PyTree) -> PyTree:
    bent = jax.jvp(slope, (params,), (direction,))[1]
    return jax.tree.map(lambda h, d: h + damping * d, bent, direction)

  step, _ = cg(product, slope(params), tol=1e-6, maxiter=num_iterations)
  return jax.tree.map(jnp.subtract, params, step)


def _present(received: Received) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ids, weights and rows of the clients that are there, in float64."""
  weight = np.asarray(received.weight, np.float64)
  here = weight > 0
  rows = np.asarray(received.rows, np.float64)[here]
  return np.asarray(received.client)[here], weight[here], rows


def _require_others(is_forgotten: np.ndarray, t: int) -> None:
  check.require(
    not is_forgotten.all(),
    f"another client in round {t}",
    "none but the forgotten one, or none at all",
    "ask more clients a round",
  )


def _check(history: History, client: int) -> None:
  manifest = history.step.manifest
  number = int(manifest["num_clients"])
  check.in_interval("client", client, 0, number - 1, f"there are {number} clients")
  check.require(
    not manifest["parts"] and manifest["aggregate"] == "mean",
    "a federation joined by the mean, without parts",
    f"parts={manifest['parts']!r}, aggregate={manifest['aggregate']!r}",
    "forget by training anew without the client",
  )
