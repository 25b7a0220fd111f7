"""Clients weighed by how badly the models cover their classes (Fed-MAS, Elbatel et al. 2023).

With D(theta, x) the divergence of a network from a frozen one that everybody has,

  w_k = mean of D(theta_glob, x) over the client's x of class k, before it trains
  v_k = the same while it trains, each batch measured before its update
  RF = sum_k w_k v_k,      theta_glob <- sum_c RF_c theta_c / sum_c RF_c                (Eq. 3, 5)

As printed, a client with more classes has a longer sum and so a larger weight. The released code
first scales w and v of each client to sum 1; then a client of K classes that are covered alike has
RF = 1 / K, and few classes give a large weight: the opposite. Both are here. A factor that all
clients share, such as the number of local epochs over which the paper sums v, cancels in Eq. 5.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from medjax import check, rng
from medjax.federated.client import Broadcast, Client, ClientReport, local, repeat
from medjax.tree import entry
from medjax.types import Key, Metrics, Params, PyTree, Step, TrainState

Divergence = Callable[[Params, PyTree], jax.Array]
"""`divergence(params, example) -> scalar >= 0` of ONE example."""


class _Measured(NamedTuple):
  """Sums and counts [class] of a divergence, beside the method's own extra state."""

  own: PyTree
  sums: jax.Array
  counts: jax.Array


def rescued(
  step: Step,
  divergence: Divergence,
  num_classes: int,
  *,
  scaled: Literal["text", "code"] = "text",
  metrics: Sequence[str] = ("loss",),
  max_unrolled: int = 16,
) -> Client:
  """A client that reports RF as its weight, and as the metric "rescue".

  Args:
    step: the client's method, on batches with "label" [batch] class ids and "weight".
    divergence: for example 2 - 2 cos(projected features, frozen features); no gradient of it is
      taken here, the method's loss trains the projection.
    num_classes: of the labels.
    scaled: "text" sums w_k v_k as they are; "code" scales both to sum 1 first.
    metrics, max_unrolled: as for `local`.
  Returns:
    A Client that keeps no state. Give the cohort equal weights: they multiply RF, and the paper has
    no counts of examples in it.
  Raises:
    InputError: fewer than one class, another word for `scaled`.
  Guarantees: a class that a client does not have adds nothing; a client without any example has
    weight 0, and so counts as absent.
  """
  check.positive("num_classes", num_classes)
  check.one_of("scaled", scaled, ("text", "code"))
  inner = local(step, metrics=metrics, max_unrolled=max_unrolled)

  def sums_of(params: Params, batch: Any) -> tuple[jax.Array, jax.Array]:
    """[class] sums and counts over one batch."""
    found = jax.vmap(lambda example: divergence(params, example))(batch)
    there = jax.nn.one_hot(entry(batch, "label"), num_classes)
    there = there * (entry(batch, "weight") > 0)[:, None]
    return jax.lax.stop_gradient(found) @ there, there.sum(0)

  def init(params: Params, key: Key) -> TrainState:
    state = step.init(params, key)
    none = jnp.zeros(num_classes)
    return state.replace(extra=_Measured(state.extra, none, none))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    measured: _Measured = state.extra
    sums, counts = sums_of(state.params, batch)
    new, found = step.update(state.replace(extra=measured.own), batch, key)
    both = (measured.sums + sums, measured.counts + counts)
    return new.replace(extra=_Measured(new.extra, *both)), found

  watched = Step(init, update)

  def run(broadcast: Broadcast, kept: PyTree, batches: PyTree, key: Key) -> ClientReport:
    table = jax.lax.map(lambda batch: sums_of(broadcast.params, batch), batches)
    before = _means(*jax.tree.map(lambda x: x.sum(0), table))
    state = watched.init(broadcast.params, rng.stream(key, "init"))
    state = state.replace(model_state=broadcast.model_state)
    update_key = rng.stream(key, "update")
    state, means = repeat(watched, state, batches, update_key, metrics, max_unrolled)
    measured: _Measured = state.extra
    factor = rescue_factor(before, _means(measured.sums, measured.counts), scaled=scaled)
    delta = jax.tree.map(jnp.subtract, state.params, broadcast.params)
    return ClientReport(delta, kept, state.model_state, {**means, "rescue": factor}, factor)

  manifest = {**inner.manifest, "rescue": scaled}
  return Client(inner.init, run, (*metrics, "rescue"), manifest=manifest)


def rescue_factor(
  before: jax.Array, during: jax.Array, *, scaled: Literal["text", "code"] = "text"
) -> jax.Array:
  """sum_k w_k v_k of one client.

  >>> import jax.numpy as jnp
  >>> one, four = jnp.array([1.0, 0, 0, 0]), jnp.ones(4)
  >>> [float(rescue_factor(w, w)) for w in (one, four)]  # many classes, a large weight
  [1.0, 4.0]
  >>> [float(rescue_factor(w, w, scaled="code")) for w in (one, four)]  # the opposite
  [1.0, 0.25]

  Args:
    before: w, [class] divergence of the global model, 0 for classes that the client does not have.
    during: v, [class] divergence while it trained.
    scaled: see `rescued`.
  """
  if scaled == "code":
    before, during = (x / jnp.where(x.sum() > 0, x.sum(), 1) for x in (before, during))
  return (before * during).sum()


def _means(sums: jax.Array, counts: jax.Array) -> jax.Array:
  return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), 0)
