"""Batches of cases that are read when they are asked for, and computed ahead of the training.

source = data.Prepared("prepared/cc359/1.0.0")
stream = data.ahead(data.read_batches(source, source.indices("train"), 8, seed=0))

A batch is a function of (seed, step): neither the number of workers nor the moment at which a batch
was read changes it.
"""

import collections
import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from medjax import check
from medjax.data.grid.shapes import space_of, to_shape
from medjax.data.seeds import Seed
from medjax.data.streams.epochs import codes, stacked, visits
from medjax.types import Batch, Example, Indices, PyTree, Source, Stream


@dataclasses.dataclass(frozen=True, eq=False)
class ReadStream:
  """`stream(step) -> Batch`; use `read_batches`.

  Attributes:
    part: (number of this process, number of processes): the share of each batch that is read here.
  """

  source: Source
  indices: np.ndarray
  subject: np.ndarray
  domain: np.ndarray
  batch_size: int
  seed: Seed | jax.Array
  name: str
  shuffle: bool
  shape: tuple[int, ...] | None
  part: tuple[int, int]

  @property
  def is_share(self) -> bool:
    """Whether a batch is this process's share of the examples alone, see `train.shard_batch`."""
    return self.part[1] > 1

  def __call__(self, step: int) -> Batch:
    number, count = self.part
    size = self.batch_size // count
    place = int(step) * self.batch_size + number * size + np.arange(size)
    num = len(self.indices)
    own = visits(place, num, self.seed, self.name) if self.shuffle else place % num
    examples = [self._read(int(row)) for row in own]
    spaces = {space_of(example) for example in examples}
    check.require(
      len(spaces) == 1, "cases of one shape", f"{sorted(spaces)}", "pass `shape` to crop and pad"
    )
    return Batch(
      image=stacked([example.image for example in examples], np.float32),
      label=stacked([example.label for example in examples], np.int32),
      domain=self.domain[own],
      subject=self.subject[own],
      index=self.indices[own].astype(np.int32),
      weight=np.ones(size, np.float32),
      draw=(place % 2**31).astype(np.int32),
    )

  def _read(self, row: int) -> Example:
    example = self.source[int(self.indices[row])]
    return example if self.shape is None else to_shape(example, self.shape)


def read_batches(
  source: Source,
  indices: Indices | None,
  batch_size: int,
  seed: Seed | jax.Array,
  *,
  name: str = "",
  shuffle: bool = True,
  shape: Sequence[int] | None = None,
  part: tuple[int, int] = (0, 1),
) -> ReadStream:
  """An endless stream like `batches`, for sets that do not fit into memory.

  For the same indices, seed and name it gives the batches that `batches(stack(source, indices),
  ...)` gives, and holds no case between two calls.

  Args:
    source: read at every call; reading a case must not take longer than a step times the workers
      of `ahead`. `Prepared` sets are read case by case.
    indices: which cases, None for all.
    batch_size: examples a batch, of all processes together.
    seed, name, shuffle: as for `batches`.
    shape: spatial shape to crop and pad to; None wants equal shapes.
    part: (jax.process_index(), jax.process_count()) in a training of several processes: each reads
      its own share of every batch, and `train.fit` puts the shares together.
  Raises:
    InputError: no cases, a batch_size below 1 or that the processes do not divide; on reading,
      cases of several shapes.
  """
  check.positive("batch_size", batch_size)
  number, count = part
  check.in_interval("number of the process", number, 0, count - 1)
  check.require(
    batch_size % count == 0,
    f"a batch_size that {count} processes divide",
    f"{batch_size}",
    "choose a multiple",
  )
  chosen = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
  check.require(len(chosen) > 0, "at least one case", "none", "check the split")
  people, sites = codes(source.subjects), codes(source.domains)
  return ReadStream(
    source,
    chosen,
    np.array([people[source.subjects[i]] for i in chosen], np.int32),
    np.array([sites[source.domains[i]] for i in chosen], np.int32),
    batch_size,
    seed,
    name,
    shuffle,
    None if shape is None else tuple(shape),
    (number, count),
  )


class Ahead:
  """`stream(step)`, with the next batches computed by other threads; use `ahead`."""

  def __init__(self, stream: Stream, workers: int, depth: int):
    self._stream, self._depth = stream, depth
    self._pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    self._waiting: collections.OrderedDict[int, Future] = collections.OrderedDict()
    self._lock = threading.Lock()
    self.is_share = getattr(stream, "is_share", False)

  def __call__(self, step: int) -> PyTree:
    step = int(step)
    with self._lock:
      wanted = range(step, step + self._depth + 1)
      for other in [s for s in self._waiting if s not in wanted]:
        self._waiting.pop(other).cancel()
      for next_step in wanted:
        if next_step not in self._waiting:
          self._waiting[next_step] = self._pool.submit(self._stream, next_step)
      found = self._waiting.pop(step)
    return found.result()

  def close(self) -> None:
    """Ends the threads; a batch that is being computed is finished and dropped."""
    self._pool.shutdown(wait=True, cancel_futures=True)

  def __enter__(self) -> "Ahead":
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()


def ahead(stream: Stream, *, workers: int = 2, depth: int = 4) -> Ahead:
  """The same stream, whose next batches are computed while the device works on this one.

  >>> with ahead(lambda step: step**2) as squares:
  ...   [squares(step) for step in (3, 4, 5, 0)]
  [9, 16, 25, 0]

  Args:
    stream: a function of the step that several threads may call at once. Reading, decompressing and
      NumPy's copies run beside each other; Python code does not.
    workers: threads, one a batch.
    depth: batches that are computed ahead, and so held in memory beside the present one.
  Guarantees: the batches are those of `stream`, in any order of the steps. What `stream` raises for
    a step is raised when that step is asked for.
  """
  check.positive("workers", workers)
  check.positive("depth", depth)
  return Ahead(stream, workers, depth)
