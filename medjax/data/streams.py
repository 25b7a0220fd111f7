"""Batches as a function of (seed, step), from examples held in memory.

store = stack(source, splits.indices("train", source.subjects), (64, 64))
stream = batches(store, 8, seed=0, name="train")
stream(1000) == stream(1000)  # also after a restart
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from medjax.check import InputError, require
from medjax.data.grid import space_of, to_shape
from medjax.data.seeds import generator
from medjax.types import Batch, Source, Stream


def stack(
  source: Source,
  indices: Sequence[int] | None = None,
  shape: Sequence[int] | None = None,
  *,
  centre: str = "grid",
) -> Batch:
  """Loads cases once into arrays of one shape.

  Args:
    source: where from.
    indices: which cases, None for all.
    shape: spatial shape to crop and pad to (see `grid.to_shape`); None wants equal shapes.
    centre: "grid" or "foreground", see `grid.to_shape`.
  Returns:
    Batch of numpy arrays with weight 1. `index` is the example's own; `subject` and `domain` number
    the sorted names of the whole source, so that stacks of two parts agree on them. `image` or
    `label` is None where the source has none.
  Raises:
    InputError: no cases, or shapes that differ with shape=None.
  """
  indices = range(len(source)) if indices is None else indices
  require(len(indices) > 0, "at least one case to stack", "none", "check the split")
  examples = [source[int(i)] for i in indices]
  if shape is not None:
    examples = [to_shape(example, shape, centre=centre) for example in examples]
  for example in examples:
    if space_of(example) != space_of(examples[0]):
      raise InputError(
        "cases of one shape",
        f"{examples[0].name} {space_of(examples[0])} and {example.name} {space_of(example)}",
        "pass `shape` to crop and pad",
      )
  subjects = _codes(source.subjects)
  domains = _codes(getattr(source, "domains", None) or [example.domain for example in examples])
  num = len(examples)
  return Batch(
    image=_stacked([example.image for example in examples], np.float32),
    label=_stacked([example.label for example in examples], np.int32),
    domain=np.array([domains[example.domain] for example in examples], np.int32),
    subject=np.array([subjects[source.subjects[int(i)]] for i in indices], np.int32),
    index=np.array([example.index for example in examples], np.int32),
    weight=np.ones(num, np.float32),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class EpochStream:
  """`stream(step) -> Batch`; use `batches`."""

  store: Batch
  batch_size: int
  seed: int | jax.Array
  name: str
  shuffle: bool

  def __call__(self, step: int) -> Batch:
    num = len(self.store.weight)
    place = int(step) * self.batch_size + np.arange(self.batch_size)
    epochs, within = np.divmod(place, num)
    rows = np.concatenate([self._order(int(e))[within[epochs == e]] for e in np.unique(epochs)])
    return take(self.store, rows)

  def _order(self, epoch: int) -> np.ndarray:
    num = len(self.store.weight)
    return (
      generator(self.seed, self.name, epoch).permutation(num) if self.shuffle else np.arange(num)
    )


def batches(
  store: Batch,
  batch_size: int,
  seed: int | jax.Array,
  *,
  name: str = "",
  shuffle: bool = True,
) -> Stream:
  """An endless stream in which every epoch visits every example once.

  Args:
    store: examples along the leading axis, from `stack`.
    batch_size: examples a batch; batches cross epoch borders, so all are full, and it may exceed
      the number of examples.
    seed: int or typed key; epoch e is the permutation drawn from (seed, name, e).
    name: tells the streams of one seed apart; two streams of equal seed, name and size share their
      permutations.
    shuffle: False keeps the order of the store.
  """
  require(batch_size >= 1, "batch_size >= 1", f"{batch_size=}", "pass a positive number")
  require(len(store.weight) > 0, "examples in the store", "none", "check the split")
  return EpochStream(store, batch_size, seed, name, shuffle)


@dataclasses.dataclass(frozen=True, eq=False)
class Sequential:
  """`stream(step)` for step in range(len(stream)), each example once; use `sequential`."""

  store: Batch
  batch_size: int

  def __len__(self) -> int:
    return -(-len(self.store.weight) // self.batch_size)

  def __call__(self, step: int) -> Batch:
    if not 0 <= step < len(self):
      raise IndexError(f"expected a step in [0, {len(self)}), got {step}; the stream ends there")
    num = len(self.store.weight)
    place = step * self.batch_size + np.arange(self.batch_size)
    batch = take(self.store, np.minimum(place, num - 1))
    return batch.replace(weight=np.where(place < num, batch.weight, np.float32(0)))

  def __iter__(self) -> Iterator[Batch]:
    return (self(step) for step in range(len(self)))


def sequential(store: Batch, batch_size: int) -> Sequential:
  """Batches in order for evaluation; the last is filled with copies of weight 0."""
  require(batch_size >= 1, "batch_size >= 1", f"{batch_size=}", "pass a positive number")
  return Sequential(store, batch_size)


def zip_streams(**streams: Stream) -> Callable[[int], dict[str, Any]]:
  """A stream of dicts, e.g. `zip_streams(inner=synthetic, outer=real)`.

  Two shuffled streams of one seed must differ in `name`, or they would draw equal permutations.
  """
  shuffled = [s for s in streams.values() if isinstance(s, EpochStream) and s.shuffle]
  sources = [_identity(stream) for stream in shuffled]
  require(
    len(set(sources)) == len(sources),
    "zipped streams that differ in seed or name",
    f"(seed, name) pairs {[(str(s.seed), s.name) for s in shuffled]}",
    "pass batches(..., name=...)",
  )
  return lambda step: {name: stream(step) for name, stream in streams.items()}


def take(store: Batch, rows: np.ndarray) -> Batch:
  """The examples at `rows`, copied."""
  return jax.tree.map(lambda array: np.asarray(array)[rows], store)


def _identity(stream: EpochStream) -> tuple[int, str]:
  drawn = generator(stream.seed, stream.name).integers(2**63)
  return int(drawn), stream.name


def _codes(names: Sequence[str]) -> dict[str, int]:
  return {name: code for code, name in enumerate(sorted(set(names)))}


def _stacked(arrays: Sequence[np.ndarray | None], dtype: type[np.generic]) -> np.ndarray | None:
  held = [array for array in arrays if array is not None]
  if not held:
    return None
  require(
    len(held) == len(arrays),
    "an image and a label in all cases or in none",
    f"{len(held)} of {len(arrays)}",
    "stack labelled and unlabelled cases apart",
  )
  return np.stack(held).astype(dtype, copy=False)
