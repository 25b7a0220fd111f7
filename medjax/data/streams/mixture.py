"""Batches whose slots go over from one site to another, and pools that stay on the device.

MMTL (Goodman et al., DART 2022, Algorithm 1) fills n_t of the B slots of a batch with target
examples and the others with source examples, n_t rising from epoch to epoch. The shape never
changes, so that one compilation serves every mix.

  mixed = mix(rows(n, B, 0), rows(m, B, 1, first=n), mmtl_paper(B, 60, 100))
  stream = pooled(pool, mixed)  # one gather of B examples on the device

Cases of two sites may share an index, so the examples of these batches are numbered anew: their
`draw` differs (see `types.Batch`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.data.seeds import Seed
from medjax.data.streams.epochs import drawn_at, visits
from medjax.data.streams.replay import Drawn
from medjax.tree import entry
from medjax.types import PyTree, Stream


def mix(source: Stream, target: Stream, num_target: Callable[[int], int]) -> Stream:
  """The first `num_target(step)` slots from the target's batch, the others from the source's.

  Args:
    source, target: streams of pytrees of host arrays [batch, ...] of one shape: batches, or rows
      of a pool. Both are asked at every step, so that each draws the same whatever the mix.
    num_target: step -> slots of the target, in [0, batch].
  """

  def stream(step: int) -> PyTree:
    of_source, of_target = source(step), target(step)
    count = int(num_target(step))
    size = len(jax.tree.leaves(of_target)[0])
    check.require(
      0 <= count <= size,
      f"target slots in [0, {size}]",
      f"{count} at step {step}",
      "see num_target",
    )

    def slots(a: Any, b: Any) -> np.ndarray:
      a, b = np.asarray(a), np.asarray(b)
      check.same_shape("source batch", a.shape, "target batch", b.shape)
      return np.concatenate([b[:count], a[count:]])

    return drawn_at(jax.tree.map(slots, of_source, of_target), step)

  return stream


def mmtl_paper(batch_size: int, num_epochs: int, steps_per_epoch: int) -> Callable[[int], int]:
  """Algorithm 1: n_t = floor(epoch / num_epochs * B), 0 at first, never B."""
  return lambda step: step // steps_per_epoch * batch_size // num_epochs


def mmtl_released(batch_size: int, steps_per_epoch: int) -> Callable[[int], int]:
  """The released code: n_t = min(epoch // 4 + 1, B), whatever the number of epochs."""
  return lambda step: min(step // steps_per_epoch // 4 + 1, batch_size)


@dataclasses.dataclass(frozen=True, eq=False)
class RowStream:
  """`stream(step) -> [batch] int32 rows`; use `rows`."""

  num: int
  batch_size: int
  seed: Seed | jax.Array
  name: str
  first: int = 0

  def __call__(self, step: int) -> np.ndarray:
    place = int(step) * self.batch_size + np.arange(self.batch_size)
    drawn = visits(place, self.num, self.seed, self.name)
    return (drawn + self.first).astype(np.int32)


def rows(
  num: int, batch_size: int, seed: Seed | jax.Array, *, name: str = "", first: int = 0
) -> Stream:
  """Rows first..first + num of a pool, each once an epoch; the same draws as `batches` makes.

  Raises:
    InputError: no rows, or a batch below 1.
  """
  check.positive("num", num)
  check.positive("batch_size", batch_size)
  return RowStream(num, batch_size, seed, name, first)


def pooled(pool: PyTree, rows: Stream) -> Stream:
  """Batches gathered on the device from arrays that lie there: no copy from the host in a step.

  Args:
    pool: pytree of arrays [num, ...]; put on the default device once, here. Streams that share it
      should be given the same device arrays.
    rows: step -> pytree of [batch] int32 rows, each of which becomes a batch; or step -> `Drawn`,
      as `replayed` gives it, whose weights then multiply those of the pool.
  Raises:
    InputError: on the first batch, rows outside the pool.
  """
  pool = jax.tree.map(jnp.asarray, pool)

  @jax.jit
  def gather(pool: PyTree, index: jax.Array) -> PyTree:
    return jax.tree.map(lambda x: x.at[index].get(mode="fill", fill_value=0), pool)

  size = len(jax.tree.leaves(pool)[0])

  def batch(index: Any, step: int) -> PyTree:
    return drawn_at(gather(pool, index), step)

  def stream(step: int) -> PyTree:
    chosen = rows(step)
    index = chosen.rows if isinstance(chosen, Drawn) else chosen
    largest = max(int(np.max(x)) for x in jax.tree.leaves(index))
    smallest = min(int(np.min(x)) for x in jax.tree.leaves(index))
    check.require(
      0 <= smallest <= largest < size,
      f"rows in [0, {size})",
      f"{smallest}..{largest}",
      "check rows",
    )
    if not isinstance(chosen, Drawn):
      return jax.tree.map(lambda i: batch(i, step), index)
    found = batch(index, step)
    own = entry(found, "weight")
    weight = chosen.weight if own is None else own * chosen.weight
    return (
      {**found, "weight": weight} if isinstance(found, Mapping) else found.replace(weight=weight)
    )

  return stream
