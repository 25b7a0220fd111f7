"""Who takes part in a round, with which batches: a Stream of cohorts of one static shape."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from medjax import check
from medjax.data.seeds import generator
from medjax.data.streams.epochs import take, visits
from medjax.federated.partition import check_people
from medjax.types import Batch, Leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cohort:
  """The clients of a round, or a block of them, along a leading axis.

  Attributes:
    client: [clients] int32 id in [0, num_clients); num_clients marks padding.
    slot: [clients] int32 place in the round, in [0, cohort); padding has `cohort`.
    weight: [clients] float32 >= 0, 0 for clients that dropped out and for padding.
    batches: leaves [clients, local_steps, batch, ...].
  """

  client: Leaf
  slot: Leaf
  weight: Leaf
  batches: Leaf

  def replace(self, **changes: object) -> "Cohort":
    return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, eq=False)
class CohortStream:
  """`stream(round) -> [Cohort, ...]`, blocks of one shape; use `cohorts`."""

  store: Batch
  parts: tuple[np.ndarray, ...]
  weights: np.ndarray
  size: int
  batch_size: int
  local_steps: int
  chunk: int
  dropout: float | int
  seed: int | jax.Array
  draw: Callable[[int], Sequence[int]] | None

  @property
  def num_clients(self) -> int:
    return len(self.parts)

  def members(self, step: int) -> np.ndarray:
    """Ids of the clients that are asked in a round, ascending."""
    if self.draw is not None:
      chosen = np.unique(np.asarray(self.draw(step), np.int64))
      check.require(
        len(chosen) <= self.size,
        f"at most {self.size} clients in round {step}",
        f"{len(chosen)}",
        "raise size, or draw fewer",
      )
      return chosen
    order = generator(self.seed, "cohort", step).permutation(self.num_clients)
    return np.sort(order[: self.size])

  def __call__(self, step: int) -> list[Cohort]:
    members = self.members(int(step))
    weight = self.weights[members]
    if self.dropout:
      gone = generator(self.seed, "dropout", int(step)).random(self.num_clients)
      weight = np.where(gone[members] < self.dropout, 0, weight)
    rows = np.stack(
      [self._rows(int(step), c) for c in members.tolist()]
      or [np.zeros(self.local_steps * self.batch_size)]
    ).astype(np.int64)
    width = -(-self.size // self.chunk) * self.chunk
    pad = width - len(members)
    client = np.append(members, np.full(pad, self.num_clients)).astype(np.int32)
    slot = np.append(np.arange(len(members)), np.full(pad, self.size)).astype(np.int32)
    weight = np.append(weight, np.zeros(pad)).astype(np.float32)
    rows = rows[np.minimum(np.arange(width), len(rows) - 1)]
    # Numbers of a client's draws, so that a case that comes twice in a batch has two keys.
    count = self.local_steps * self.batch_size
    draws = ((int(step) * count + np.arange(count)) % 2**31).astype(np.int32)
    draws = draws.reshape(self.local_steps, self.batch_size)
    blocks = []
    for start in range(0, width, self.chunk):
      part = slice(start, start + self.chunk)
      drawn = take(self.store, rows[part].reshape(self.chunk, self.local_steps, self.batch_size))
      drawn = drawn.replace(draw=np.broadcast_to(draws[None], drawn.index.shape))
      blocks.append(Cohort(client[part], slot[part], weight[part], drawn))
    return blocks

  def _rows(self, step: int, client: int) -> np.ndarray:
    """Rows of the store for a client's local batches; its epochs go on from round to round."""
    own = self.parts[client]
    num = self.local_steps * self.batch_size
    return own[visits(step * num + np.arange(num), len(own), self.seed, f"client {client}")]


def cohorts(
  store: Batch,
  parts: Sequence[np.ndarray],
  *,
  batch_size: int,
  seed: int | jax.Array,
  local_steps: int = 1,
  size: int | None = None,
  chunk: int | None = None,
  dropout: float | int = 0.0,
  weights: Sequence[float | int] | np.ndarray | None = None,
  draw: Callable[[int], Sequence[int]] | None = None,
) -> CohortStream:
  """Cohorts as a function of (seed, round), for `federated`.

  Args:
    store: all examples, from `data.stack`.
    parts: rows of the store that each client holds, from `dirichlet`, `by_domain`, `by_shard`.
    batch_size: examples of a local update.
    seed: int or typed key.
    local_steps: local updates a round.
    size: clients asked in a round, drawn without replacement; None: all. It is the `cohort` of
      `federated`.
    chunk: clients a block; a round comes as a list of blocks, the last filled with padding. None:
      one block. On CPUs blocks of one client compile fastest; on a mesh the devices must divide it.
    dropout: probability in [0, 1] that a client that was asked does not answer.
    weights: [num_clients] >= 0; None: the number of examples that a client holds, as in FedAvg.
    draw: `draw(round) -> ids` in place of the uniform draw, at most `size` of them.
  Raises:
    InputError: a client without cases, rows outside the store, a person at two clients, weights
      below 0, sizes out of range.
  """
  check.require(len(parts) > 0, "at least one client", "none", "pass the rows of each")
  num = len(parts)
  size = num if size is None else size
  chunk = size if chunk is None else chunk
  for name, value in {"batch_size": batch_size, "local_steps": local_steps, "chunk": chunk}.items():
    check.positive(name, value)
  check.in_interval("size", size, 1, num, f"there are {num} clients")
  check.in_interval("dropout", dropout, 0, 1)
  total = len(np.asarray(store.weight))
  held = tuple(np.asarray(part, np.int64) for part in parts)
  for client, part in enumerate(held):
    check.require(
      len(part) > 0, f"cases at client {client}", "none", "leave it out or draw another partition"
    )
    check.require(
      part.min() >= 0 and part.max() < total,
      f"rows in [0, {total}) for client {client}",
      f"{part.min()} to {part.max()}",
      "partition the store that is passed",
    )
  check_people(held, np.asarray(store.subject))
  given = np.array([len(part) for part in held] if weights is None else weights, np.float64)
  check.require(
    given.shape == (num,) and np.isfinite(given).all() and (given >= 0).all(),
    f"{num} finite weights >= 0",
    f"{given.tolist()}",
    "0 leaves a client out",
  )
  return CohortStream(store, held, given, size, batch_size, local_steps, chunk, dropout, seed, draw)
