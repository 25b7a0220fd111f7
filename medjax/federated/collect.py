"""The clients' half of a round: every client of a block trains, its row goes to its slot."""

from typing import Any

import jax
import jax.numpy as jnp

from medjax import rng, tree
from medjax.federated.across import over_clients
from medjax.federated.client import Broadcast, ClientReport
from medjax.federated.cohort import Cohort
from medjax.federated.state import Clients, Federation, Received, row_of
from medjax.types import Key, PyTree, TrainState


def begin(federation: Federation, state: TrainState) -> Received:
  """Nothing received yet."""
  cohort, layout = federation.cohort, federation.layout(state.params)
  return Received(
    pieces=tuple(jnp.zeros((cohort, layout.sizes[n]), jnp.float32) for n in layout.order),
    statistics=jnp.zeros((cohort, row_of(state.model_state).size), jnp.float32),
    weight=jnp.zeros(cohort, jnp.float32),
    client=jnp.full(cohort, federation.num_clients, jnp.int32),
    metrics={name: jnp.zeros(cohort, jnp.float32) for name in federation.client.metrics},
    asked=jnp.float32(0),
    broken=jnp.float32(0),
    clients=state.extra.clients,
  )


def accumulate(
  federation: Federation, state: TrainState, acc: Received, block: Cohort, key: Key
) -> Received:
  """Adds a block of clients; those of weight 0 run too, and leave nothing behind."""
  client, compress = federation.client, federation.compress
  layout = federation.layout(state.params)
  shared = client.shared(state.extra.clients.kept)
  sent = Broadcast(state.params, state.model_state, shared, state.step)

  def one(number: jax.Array, mine: Clients, batches: PyTree) -> tuple[Any, ...]:
    own_key = jax.random.fold_in(key, number)
    start = sent._replace(params=layout.with_own(state.params, dict(mine.own)))
    report: ClientReport = client.run(start, mine.kept, batches, own_key)
    pieces, residual = layout.pieces(report.delta), mine.residual
    if compress is not None:
      row = layout.row(report.delta)
      held_back = residual if compress.keeps_residual else jnp.zeros_like(row)
      row, held_back = compress.send(row, held_back, rng.stream(own_key, "compress"))
      residual = held_back if compress.keeps_residual else residual
      pieces = layout.cut(row)
    trained = jax.tree.map(lambda p, d: (p + d).astype(p.dtype), start.params, report.delta)
    kept = Clients(report.kept, layout.own_of(trained), residual)
    metrics = {name: jnp.asarray(report.metrics[name], jnp.float32) for name in client.metrics}
    statistics, weight = row_of(report.model_state), jnp.asarray(report.weight, jnp.float32)
    is_finite = tree.all_finite((pieces, statistics, metrics, kept, weight))
    return pieces, statistics, metrics, kept, weight, is_finite

  last = federation.num_clients - 1
  mine = jax.tree.map(lambda x: x[jnp.minimum(block.client, last)], acc.clients)
  found = over_clients(one, (block.client, mine, block.batches), federation.across)
  client_id, place, given = (jnp.asarray(x) for x in (block.client, block.slot, block.weight))
  if client_id.shape[0] == 1:
    # The compiler would fuse the only row's way to its slot with the client's last operations, and
    # round those otherwise than in larger blocks; a second row of weight 0 prevents that.
    whole = (found, client_id, place, given)
    whole = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x)]), whole)
    found, client_id, place, given = whole
  pieces, statistics, metrics, kept, factor, is_finite = found
  asked = (given > 0) & (client_id < federation.num_clients)
  weight = jnp.where(asked & is_finite, given * factor, 0)
  slot = jnp.where(weight > 0, place, federation.cohort)
  number = jnp.where(weight > 0, client_id, federation.num_clients)

  def put(table: Any, values: Any) -> Any:
    return table.at[slot].set(values, mode="drop")

  return Received(
    pieces=jax.tree.map(put, acc.pieces, pieces),
    statistics=put(acc.statistics, statistics),
    weight=put(acc.weight, weight),
    client=put(acc.client, client_id),
    metrics=jax.tree.map(put, acc.metrics, metrics),
    asked=acc.asked + asked.sum(),
    broken=acc.broken + (asked & ~is_finite).sum(),
    clients=jax.tree.map(
      lambda table, values: table.at[number].set(values, mode="drop"), acc.clients, kept
    ),
  )
