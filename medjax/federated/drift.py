"""Clients that correct their drift from the global model: FedProx and SCAFFOLD."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from medjax import check, rng
from medjax.federated.client import Broadcast, Client, ClientReport, checked, local, repeat
from medjax.tree import entry
from medjax.types import AnyLossFn, Key, Params, PyTree, Step

MakeStep = Callable[[AnyLossFn], Step]
"""`make(loss_fn) -> Step`, such as `lambda loss: methods.supervised(loss, optax.sgd(0.1))`."""


def fedprox(make: MakeStep, loss_fn: AnyLossFn, mu: float | int, **options: Any) -> Client:
  """Local training held near the global model (FedProx, Li et al., MLSys 2020).

  L(phi) + mu / 2 |phi - theta|^2

  Args:
    make: from a loss to the client's Step.
    loss_fn: of ONE example, with or without model state, as `make` wants it.
    mu: weight >= 0; 0 is FedAvg. The paper tries 0.001 to 1.
    options: of `local`.
  """
  check.non_negative("mu", mu)

  def step(broadcast: Broadcast) -> Step:
    def extra(params: Params) -> jax.Array:
      away = jax.tree.map(jnp.subtract, params, broadcast.params)
      return mu / 2 * optax.tree.norm(away, squared=True)

    return make(_plus(loss_fn, extra))

  client = local(step, **options)
  return client._replace(manifest={**client.manifest, "fedprox_mu": mu})


def scaffold(
  make: MakeStep,
  loss_fn: AnyLossFn,
  *,
  learning_rate: float | int,
  metrics: Sequence[str] = ("loss",),
  max_unrolled: int = 16,
) -> Client:
  """Control variates against client drift (SCAFFOLD, Karimireddy et al., ICML 2020, option II).

  phi <- phi - r (g(phi) - c_i + c)  for K local steps;   c_i <- c_i - c + (theta - phi) / (K r)

  c is the mean of all c_i, which is what the paper's server keeps by adding 1/N of the sum of their
  changes. Clients send their change of c_i too: the traffic is double.

  Args:
    make: from a loss to the client's Step; plain descent at `learning_rate`, for which the formulas
      hold. The correction is a linear term of the loss.
    loss_fn: of ONE example, with or without model state, as `make` wants it.
    learning_rate: r of `make`'s optimiser.
    metrics, max_unrolled: as for `local`.
  """
  check.positive("learning_rate", learning_rate)

  def init(params: Params, key: Key) -> tuple[PyTree, PyTree]:
    return jax.tree.map(jnp.zeros_like, params), make(loss_fn).init(params, key).model_state

  def run(broadcast: Broadcast, control: PyTree, batches: PyTree, key: Key) -> ClientReport:
    correction = jax.tree.map(jnp.subtract, broadcast.shared, control)

    def extra(params: Params) -> jax.Array:
      value = jnp.asarray(optax.tree.vdot(correction, params))
      return value - jax.lax.stop_gradient(value)  # a gradient without a value: "loss" stays

    step = checked(make(_plus(loss_fn, extra)))
    state = step.init(broadcast.params, rng.stream(key, "init"))
    state = state.replace(model_state=broadcast.model_state)
    update_key = rng.stream(key, "update")
    state, means = repeat(step, state, batches, update_key, metrics, max_unrolled)
    delta = jax.tree.map(jnp.subtract, state.params, broadcast.params)
    scale = 1 / (jnp.maximum(_num_steps(batches), 1) * learning_rate)
    new = jax.tree.map(lambda x, d: -x - scale * d, correction, delta)
    is_asked = _num_steps(batches) > 0
    new = jax.tree.map(lambda a, b: jnp.where(is_asked, a, b), new, control)
    return ClientReport(delta, new, state.model_state, means)

  def shared(kept: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.mean(0), kept)

  return Client(init, run, tuple(metrics), shared, {"scaffold": float(learning_rate)})


def _plus(loss_fn: AnyLossFn, extra: Callable[[Params], jax.Array]) -> AnyLossFn:
  """The loss with a term of the parameters alone; losses with model state keep it."""

  def loss(params: Params, *others: Any) -> Any:
    found = loss_fn(params, *others)
    if isinstance(found, tuple):
      return found[0] + extra(params), *found[1:]
    return found + extra(params)

  return loss


def _num_steps(batches: PyTree) -> jax.Array:
  """Local batches that are not empty."""
  weight = entry(batches, "weight")
  if weight is None:
    return jnp.float32(jax.tree.leaves(batches)[0].shape[0])
  return (weight > 0).any(1).sum().astype(jnp.float32)
