"""One batch as several chunks of one shape, for updates that work through a batch in pieces."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from medjax import check
from medjax.tree import entry
from medjax.types import PyTree, Stream


@dataclasses.dataclass(frozen=True, eq=False)
class CutStream:
  """`stream(step) -> list of chunks`; use `cut`."""

  stream: Stream
  size: int

  def __call__(self, step: int) -> list[PyTree]:
    batch = self.stream(step)
    num = len(jax.tree.leaves(batch)[0])
    count = -(-num // self.size)
    weight = entry(batch, "weight")
    if weight is None:
      check.require(
        num % self.size == 0 or isinstance(batch, Mapping),
        f"a batch of {num} with weights, whose last chunk can be padded",
        "one without",
        f"give it a weight, or chunks that divide {num}",
      )
      weight = np.ones(num, np.float32)
    # The last chunk is filled with copies of the first examples, of weight 0.
    rows = np.arange(count * self.size) % num
    weight = np.where(np.arange(len(rows)) < num, np.asarray(weight)[rows], 0).astype(np.float32)

    def chunk(i: int) -> Any:
      own = slice(i * self.size, (i + 1) * self.size)
      held = jax.tree.map(lambda x: np.asarray(x)[rows[own]], batch)
      if isinstance(held, Mapping):
        return {**held, "weight": weight[own]}
      return held.replace(weight=weight[own]) if hasattr(held, "replace") else held

    return [chunk(i) for i in range(count)]


def cut(stream: Stream, size: int) -> CutStream:
  """The batches of a stream in chunks of `size` examples, for a Step that takes chunks.

  >>> batch = {"image": np.arange(5.0)}
  >>> for chunk in cut(lambda step: batch, 3)(0):
  ...   print(chunk["image"].tolist(), chunk["weight"].tolist())
  [0.0, 1.0, 2.0] [1.0, 1.0, 1.0]
  [3.0, 4.0, 0.0] [1.0, 1.0, 0.0]

  Args:
    stream: of `Batch` or of arrays by name, with the examples first.
    size: examples a chunk; the last one is filled with copies of weight 0.
  Raises:
    InputError: a size below 1; on a batch that is neither, chunks that do not divide it.
  """
  check.positive("size", size)
  return CutStream(stream, size)
