"""Batches as a function of (seed, step), from examples held in memory.

store = stack(source, splits.indices("train", source.subjects), (64, 64))
stream = batches(store, 8, seed=0, name="train")
stream(1000) == stream(1000)  # also after a restart
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax.check import InputError, require
from medjax.data.grid.shapes import space_of, to_shape
from medjax.data.seeds import Seed, generator
from medjax.tree import entry
from medjax.types import Batch, Example, Indices, PyTree, Source, Stream


class Cases(NamedTuple):
  """Cases of any shapes in memory.

  Attributes:
    examples: as the source hands them out.
    subject, domain: [num_cases] int32, numbers of the sorted names of the whole source, so that
      cases of two parts agree on them.
  """

  examples: tuple[Example, ...]
  subject: np.ndarray
  domain: np.ndarray


def load_cases(source: Source, indices: Indices | None = None) -> Cases:
  """Reads cases once.

  Args:
    source: where from.
    indices: which cases, None for all.
  Raises:
    InputError: no cases.
  """
  indices = range(len(source)) if indices is None else indices
  require(len(indices) > 0, "at least one case to load", "none", "check the split")
  examples = tuple(source[int(i)] for i in indices)
  subjects = codes(source.subjects)
  domains = codes(getattr(source, "domains", None) or [example.domain for example in examples])
  return Cases(
    examples,
    subject=np.array([subjects[source.subjects[int(i)]] for i in indices], np.int32),
    domain=np.array([domains[example.domain] for example in examples], np.int32),
  )


def stack(
  source: Source,
  indices: Indices | None = None,
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
    Batch of numpy arrays with weight 1. `index` is the example's own; `subject` and `domain` are
    those of `Cases`. `image` or `label` is None where the source has none.
  Raises:
    InputError: no cases, or shapes that differ with shape=None.
  """
  cases = load_cases(source, indices)
  examples = list(cases.examples)
  if shape is not None:
    examples = [to_shape(example, shape, centre=centre) for example in examples]
  for example in examples:
    if space_of(example) != space_of(examples[0]):
      raise InputError(
        "cases of one shape",
        f"{examples[0].name} {space_of(examples[0])} and {example.name} {space_of(example)}",
        "pass `shape` to crop and pad",
      )
  return Batch(
    image=stacked([example.image for example in examples], np.float32),
    label=stacked([example.label for example in examples], np.int32),
    domain=cases.domain,
    subject=cases.subject,
    index=np.array([example.index for example in examples], np.int32),
    weight=np.ones(len(examples), np.float32),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class EpochStream:
  """`stream(step) -> batch`; use `batches`."""

  store: PyTree
  batch_size: int
  seed: Seed | jax.Array
  name: str
  shuffle: bool

  def __call__(self, step: int) -> Any:
    place = int(step) * self.batch_size + np.arange(self.batch_size)
    num = _length(self.store)
    rows = visits(place, num, self.seed, self.name) if self.shuffle else place % num
    return drawn_at(take(self.store, rows), step)


def visits(place: np.ndarray, num: int, seed: Seed | jax.Array, name: str) -> np.ndarray:
  """Which of `num` examples the draws of number `place` take; every epoch takes each once."""
  epochs, within = np.divmod(place, num)
  rows = np.empty(len(place), np.int64)
  for epoch in np.unique(epochs):
    order = generator(seed, name, int(epoch)).permutation(num)
    rows[epochs == epoch] = order[within[epochs == epoch]]
  return rows


def drawn_at(batch: PyTree, step: int) -> PyTree:
  """The batch whose `draw` numbers its examples: step * batch_size + slot, modulo 2**31.

  Within a batch no number comes twice, whatever the indices of its examples (see `types.Batch`). A
  tree without an `index`, such as rows of a pool, stays as it is.
  """
  index = entry(batch, "index")
  if index is None:
    return batch
  draw = ((int(step) * len(index) + np.arange(len(index))) % 2**31).astype(np.int32)
  return {**batch, "draw": draw} if isinstance(batch, Mapping) else batch.replace(draw=draw)


def batches(
  store: Batch | Mapping[str, Any],
  batch_size: int,
  seed: Seed | jax.Array,
  *,
  name: str = "",
  shuffle: bool = True,
) -> Stream:
  """An endless stream in which every epoch visits every example once.

  Args:
    store: a `Batch` from `stack`, or your own arrays by name, such as {"image": x, "label": y}; the
      examples lie along the first axis of each and get an "index", their position, unless they have
      one.
    batch_size: examples a batch; batches cross epoch borders, so all are full, and it may exceed
      the number of examples. An example that comes twice has two numbers in `draw`, and so two keys
      of augmentation.
    seed: int or typed key; epoch e is the permutation drawn from (seed, name, e).
    name: tells the streams of one seed apart; two streams of equal seed, name and size share their
      permutations.
    shuffle: False keeps the order of the store.
  Raises:
    InputError: no examples, arrays of different lengths, or a batch_size below 1.

  >>> stream = batches({"image": np.zeros((3, 8, 8, 1)), "label": np.array([0, 1, 1])}, 2, seed=0)
  >>> {name: array.shape for name, array in sorted(stream(0).items())}
  {'draw': (2,), 'image': (2, 8, 8, 1), 'index': (2,), 'label': (2,)}
  """
  require(batch_size >= 1, "batch_size >= 1", f"{batch_size=}", "pass a positive number")
  store = _own_arrays(store) if isinstance(store, Mapping) else store
  require(_length(store) > 0, "examples in the store", "none", "check the split")
  return EpochStream(store, batch_size, seed, name, shuffle)


@dataclasses.dataclass(frozen=True, eq=False)
class Sequential:
  """`stream(step)` for step in range(len(stream)), each example once; use `sequential`."""

  store: PyTree
  batch_size: int

  def __len__(self) -> int:
    return -(-_length(self.store) // self.batch_size)

  def __call__(self, step: int) -> Any:
    if not 0 <= step < len(self):
      raise IndexError(f"expected a step in [0, {len(self)}), got {step}; the stream ends there")
    num = _length(self.store)
    place = step * self.batch_size + np.arange(self.batch_size)
    batch = take(self.store, np.minimum(place, num - 1))
    weight = entry(batch, "weight")
    weight = np.where(place < num, 1 if weight is None else weight, 0).astype(np.float32)
    return (
      {**batch, "weight": weight} if isinstance(batch, Mapping) else batch.replace(weight=weight)
    )

  def __iter__(self) -> Iterator[Any]:
    return (self(step) for step in range(len(self)))


def sequential(store: Batch | Mapping[str, Any], batch_size: int) -> Sequential:
  """Batches in order for evaluation, of a store as for `batches`; the last is filled with copies of
  weight 0."""
  require(batch_size >= 1, "batch_size >= 1", f"{batch_size=}", "pass a positive number")
  store = _own_arrays(store) if isinstance(store, Mapping) else store
  return Sequential(store, batch_size)


def zip_streams(**streams: Stream) -> Callable[[int], dict[str, Any]]:
  """A stream of dicts, e.g. `zip_streams(inner=synthetic, outer=real)`.

  Two shuffled streams of one seed must differ in `name`, or they would draw equal permutations.
  """
  shuffled: list[Any] = [s for s in streams.values() if getattr(s, "shuffle", False)]
  sources = [_identity(stream) for stream in shuffled]
  require(
    len(set(sources)) == len(sources),
    "zipped streams that differ in seed or name",
    f"(seed, name) pairs {[(str(s.seed), s.name) for s in shuffled]}",
    "pass batches(..., name=...)",
  )
  return lambda step: {name: stream(step) for name, stream in streams.items()}


def take(store: PyTree, rows: np.ndarray) -> Any:
  """The examples at `rows`, copied."""
  return jax.tree.map(lambda array: np.asarray(array)[rows], store)


def _identity(stream: Any) -> tuple[int, str]:
  drawn = generator(stream.seed, stream.name).integers(2**63)
  return int(drawn), stream.name


def _length(store: PyTree) -> int:
  return len(jax.tree.leaves(store)[0])


def _own_arrays(store: Mapping[str, Any]) -> dict[str, Any]:
  """Arrays of one length by name, with an index."""
  sizes = {}
  for path, array in jax.tree_util.tree_leaves_with_path(dict(store)):
    name, shape = jax.tree_util.keystr(path, simple=True, separator="/"), np.shape(array)
    require(len(shape) > 0, f"an array of examples in {name!r}", "a scalar", "give it an axis")
    sizes[name] = shape[0]
  require(
    len(set(sizes.values())) == 1,
    "arrays of one length, the number of examples",
    f"{sizes}" if sizes else "none",
    "give every array the examples along its first axis",
  )
  index = np.arange(next(iter(sizes.values())), dtype=np.int32)
  return {**store, "index": store.get("index", index)}


def codes(names: Sequence[str]) -> dict[str, int]:
  """Numbers of names, in the order of the sorted names."""
  return {name: code for code, name in enumerate(sorted(set(names)))}


def stacked(arrays: Sequence[np.ndarray | None], dtype: type[np.generic]) -> np.ndarray | None:
  """The arrays along a new first axis, None if there are none."""
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
