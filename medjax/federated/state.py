"""What a federation is made of, what its state holds, and what the server receives in a round."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax.federated.across import Across
from medjax.federated.aggregate import averages
from medjax.federated.aggregate.rule import Rule
from medjax.federated.attacks.attack import Attack
from medjax.federated.client import Client
from medjax.federated.compress import Compressor
from medjax.federated.parts import Layout, Part
from medjax.types import Leaf, Metrics, Params, PyTree, TrainState


class Clients(NamedTuple):
  """What clients keep and never send; leaves [num_clients, ...].

  Attributes:
    kept: of `Client.init` and `Client.run`.
    own: parameters of the parts that are never sent, by path.
    residual: [num_clients, parameters] what compression held back, () without.
  """

  kept: PyTree
  own: Mapping[str, Any]
  residual: Leaf


class Rounds(NamedTuple):
  """`extra` of a federated Step.

  Attributes:
    clients: what clients keep.
    previous: [parameters] the joined update of the last round, () if no rule reads it.
    shown: the clients' metrics of the last round that had clients; an empty round shows them again.
  """

  clients: Clients
  previous: Leaf
  shown: Metrics


class Received(NamedTuple):
  """What the server holds of a round.

  Attributes:
    pieces: float32 updates as [cohort, numbers] of each leaf that is sent, in the order of the
      row; zeros for clients that are absent. `rows` has them side by side.
    statistics: [cohort, numbers] float32 running statistics.
    weight: [cohort] 0 for clients that are absent.
    client: [cohort] int32 ids, num_clients for the absent.
    metrics: name -> [cohort].
    asked: how many clients of positive weight were asked.
    broken: how many of those sent a number that is not finite, and so count as absent.
    clients: what clients keep, after this round.
  """

  pieces: tuple[Leaf, ...]
  statistics: Leaf
  weight: Leaf
  client: Leaf
  metrics: Metrics
  asked: Leaf
  broken: Leaf
  clients: Clients

  @property
  def rows(self) -> jax.Array:
    """[cohort, parameters] float32 updates."""
    return side_by_side(self.pieces, self.weight)


@dataclasses.dataclass(frozen=True)
class Federation:
  """The arguments of `federated`."""

  client: Client
  num_clients: int
  cohort: int
  optimiser: optax.GradientTransformation
  rule: Rule
  attack: Attack | None
  parts: tuple[Part, ...]
  compress: Compressor | None
  across: Across
  skips_small_rounds: bool

  @property
  def rules(self) -> list[Rule]:
    return [self.rule, *(part.rule for part in self.parts if part.rule is not None)]

  @property
  def keeps_residual(self) -> bool:
    return self.compress is not None and self.compress.keeps_residual

  def layout(self, params: Params) -> Layout:
    return Layout(params, self.parts, self.rule)


def in_order(received: Received, num_clients: int) -> Received:
  """Clients that are present in the order of their ids, then the absent: slots change no bit."""
  is_here = received.weight > 0
  order = jnp.argsort(jnp.where(is_here, received.client, num_clients), stable=True)
  by_slot = {name: getattr(received, name) for name in ("pieces", "statistics", "weight", "client")}
  by_slot["metrics"] = received.metrics
  return received._replace(**jax.tree.map(lambda x: x[order], by_slot))


def side_by_side(pieces: Sequence[Leaf], weight: Leaf) -> jax.Array:
  """[cohort, parameters] of [cohort, numbers] each; of none, [cohort, 0]."""
  return jnp.concatenate([*pieces, jnp.zeros((*jnp.shape(weight), 0), jnp.float32)], axis=1)


def params_of(state: TrainState, client: int, parts: Sequence[Part]) -> Params:
  """Parameters of one client: the global ones with its own leaves of the parts never sent."""
  own = {path: leaf[client] for path, leaf in state.extra.clients.own.items()}
  return Layout(state.params, parts, averages.mean()).with_own(state.params, own)


def row_of(model_state: PyTree) -> jax.Array:
  """[numbers] float32 of all leaves."""
  flat = [jnp.asarray(leaf, jnp.float32).ravel() for leaf in jax.tree.leaves(model_state)]
  return jnp.concatenate(flat) if flat else jnp.zeros(0, jnp.float32)


def tree_of(row: jax.Array, like: PyTree) -> PyTree:
  """The tree of such a row."""
  leaves, structure = jax.tree.flatten(like)
  start, found = 0, []
  for leaf in leaves:
    found.append(row[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
    start += leaf.size
  return jax.tree.unflatten(structure, found)
