"""Brings a stream's batches to the devices, one or a block at a time, and says where to pause."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medjax.check import require
from medjax.devices import device_of
from medjax.train import mesh as meshes
from medjax.types import PyTree, Stream

_BLOCK_BYTES = 2**30  # device memory that the stacked batches of a default block may take


@dataclasses.dataclass(frozen=True)
class Feed:
  """A stream with the placement of its batches; `mesh` None leaves them to jit.

  With `in_chunks` every batch is a list of chunks, one where the stream gives none. `admit` is that
  of the Step.
  """

  stream: Stream
  mesh: Mesh | None
  spec: PyTree
  in_chunks: bool = False
  admit: Callable[[int, PyTree], None] | None = None

  def example(self, step: int) -> PyTree:
    """A batch, or a chunk, as the stream gives it; placed if the stream gives a share of it."""
    batch = self.stream(step)
    first = self._chunks(batch)[0] if self.in_chunks else batch
    return self._place(first) if self._is_share else first

  def one(self, step: int) -> PyTree:
    batch = self.stream(step)
    if self.admit is not None:
      self.admit(step, batch)
    return [self._place(c) for c in self._chunks(batch)] if self.in_chunks else self._place(batch)

  def _chunks(self, batch: PyTree) -> list[PyTree]:
    chunks = list(batch) if isinstance(batch, list | Iterator) else [batch]
    require(chunks, "at least one chunk a sample", "none", "give one of padding, weight 0")
    return chunks

  def _place(self, batch: PyTree) -> PyTree:
    if self.mesh is None:
      return batch
    return meshes.shard_batch(batch, self.mesh, self.spec, is_share=self._is_share)

  @property
  def _is_share(self) -> bool:
    """Whether the stream gives the examples of this process alone."""
    return getattr(self.stream, "is_share", False)

  def block(self, step: int, length: int) -> PyTree:
    """The batches of steps [step, step + length) along a new first axis."""
    batches = jax.tree.map(_stack, *(self.stream(t) for t in range(step, step + length)))
    if self.mesh is None:
      return batches
    return meshes.shard_batch(batches, self.mesh, self.spec, block=True, is_share=self._is_share)

  def default_block(self, batch: PyTree, log_every: int) -> int:
    """1 on a CPU and for chunks; elsewhere the largest divisor of `log_every` within 1 GiB."""
    device = device_of(batch) if self.mesh is None else self.mesh.devices.flat[0]
    if device.platform == "cpu" or self.in_chunks:
      return 1
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)) or 1
    fits = max(1, _BLOCK_BYTES // size)
    return max(n for n in range(1, log_every + 1) if log_every % n == 0 and n <= fits)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When a run logs, evaluates and checkpoints; None: only at the end."""

  num_steps: int
  log_every: int
  eval_every: int | None
  checkpoint_every: int | None

  def is_due(self, interval: int | None, done: int) -> bool:
    return done == self.num_steps or (interval is not None and done > 0 and done % interval == 0)

  def next_pause(self, done: int) -> int:
    """The first number of steps above `done` at which something is due."""
    intervals = (self.log_every, self.eval_every, self.checkpoint_every)
    stops = (done - done % interval + interval for interval in intervals if interval is not None)
    return min(self.num_steps, *stops)


def _stack(*leaves: Any) -> Any:
  on_device = any(isinstance(leaf, jax.Array) for leaf in leaves)
  return jnp.stack(leaves) if on_device else np.stack(leaves)
