"""The types that every room of medjax shares. Nothing here computes more than a zero."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

PyTree: TypeAlias = Any
Params: TypeAlias = Any
Json: TypeAlias = Any  # what strict JSON holds: dict, list, str, int, float, bool or None
Leaf: TypeAlias = Any  # an array; tree transformations put shapes, shardings and specs in its place
Array: TypeAlias = jax.Array
Number: TypeAlias = float | int | np.floating | np.integer | jax.Array
Numbers: TypeAlias = jax.Array | np.ndarray | Sequence[Number]  # such as a voxel size in mm
Key: TypeAlias = jax.Array  # a typed key, as jax.random.key(seed) makes it
Indices: TypeAlias = Sequence[int] | np.ndarray  # positions of cases in a source
Metrics: TypeAlias = dict[str, jax.Array]
LossFn: TypeAlias = Callable[[Params, PyTree, Key], jax.Array]
"""`loss_fn(params, example, key) -> scalar` of ONE example."""
AnyLossFn: TypeAlias = Callable[..., Any]
"""A `LossFn`, or with model state `loss_fn(params, example, key, state) -> (scalar, state)`."""

Provenance: TypeAlias = Literal["own example", "own subject", "public", "other subjects"]
"""Whose data a changed example is made of beside the example itself; the least private last."""

IGNORE = -1
"""Label of voxels that no loss and no metric may count."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Examples along a leading axis; under `jax.vmap` the same class holds one example.

  Attributes:
    image: [batch, *space, channel] float32.
    label: [batch, *space] int32 class ids (`IGNORE` where unlabelled), or [batch] for classes.
    domain: [batch] int32, which site or scanner.
    subject: [batch] int32 code of the person; never on both sides of a split.
    index: [batch] int32, stable id of the example in its source; keys fold it in.
    weight: [batch] float32; 0 marks padding.
    draw: [batch] int32, the number of this draw, unique within a batch together with `index`; keys
      fold it in after the index, so that a case that stands twice in a batch, and two cases of two
      sources that share an index, are augmented and synthesised differently. Streams fill it in;
      None where every example is there once.
  """

  image: Leaf
  label: Leaf
  domain: Leaf
  subject: Leaf
  index: Leaf
  weight: Leaf
  draw: Leaf = None

  def replace(self, **changes: object) -> "Batch":
    return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that an update reads and writes. `extra` is the method's own NamedTuple, () if it has none.

  `model_state` holds what the model keeps beside its parameters (batch statistics), {} if nothing.
  """

  step: Leaf
  params: Params
  opt_state: PyTree
  model_state: PyTree
  extra: PyTree

  @classmethod
  def start(
    cls, params: Params, opt_state: PyTree, *, model_state: PyTree = None, extra: PyTree = ()
  ) -> "TrainState":
    """The state before the first update; a `model_state` of None is {}."""
    kept = {} if model_state is None else model_state
    return cls(jnp.zeros((), jnp.int32), params, opt_state, kept, extra)

  def replace(self, **changes: object) -> "TrainState":
    return dataclasses.replace(self, **changes)


class Sweep(NamedTuple):
  """One pass over the chunks of a sample; both functions are pure and jittable.

  Attributes:
    accumulate: `accumulate(state, acc, chunk, carry, key) -> (acc, carry)`. `carry` stays with its
      chunk from sweep to sweep; the key is the same for all chunks and all sweeps of a sample, so
      that an example is augmented alike in each. A chunk of padding alone adds nothing.
    finish: `finish(state, acc, key) -> (state, acc, metrics)`; the key is the sweep's own, `acc` is
      what the next sweep starts from. Only the metrics of the last sweep are kept.
  """

  accumulate: Callable[[TrainState, PyTree, PyTree, PyTree, Key], tuple[PyTree, PyTree]]
  finish: Callable[[TrainState, PyTree, Key], tuple[TrainState, PyTree, Metrics]]


class Chunked(NamedTuple):
  """An update in pieces, for samples of any number of chunks of one static shape.

  Attributes:
    begin: `begin(state) -> acc`, what the first sweep starts from.
    sweeps: passes over the chunks, in order; a function that stands in several is compiled once.
    carry: `carry(chunk, key) -> carry` before the first sweep, with the key of the sample; every
      sweep keeps its structure.
  """

  begin: Callable[[TrainState], PyTree]
  sweeps: tuple[Sweep, ...]
  carry: Callable[[PyTree, Key], PyTree] = lambda chunk, key: ()


@runtime_checkable
class Evaluator(Protocol):
  """Measures a state; returns finite or NaN floats by name (NaN: nothing to measure)."""

  def __call__(self, state: TrainState) -> Mapping[str, float]: ...


class Beginning(NamedTuple):
  """What a loop is about to do, told to a Step that answers for what it releases.

  Attributes:
    program: `program()`, part of the training -> digest of what it computes, the same on any number
      of devices; it traces every part once.
    num_parameters: numbers in the parameters.
    done: steps done before, of which the state comes from a checkpoint.
    stamp: what `Step.begin` returned to the run that wrote that checkpoint, "" without one.
    num_steps: steps in all.
    evaluators: what measures the states of this training, by name.
    keep_best: the score by which a state is to be chosen, None if none is.
  """

  program: Callable[[], Mapping[str, str]]
  num_parameters: int
  done: int
  stamp: str
  num_steps: int
  evaluators: Mapping[str, Evaluator]
  keep_best: str | None


@dataclasses.dataclass(frozen=True)
class Step:
  """A training method.

  Attributes:
    init: `init(params, key) -> TrainState`.
    update: `update(state, batch, key) -> (TrainState, metrics)`; pure, jittable, vmappable.
      `metrics` is a flat dict of finite scalars, "loss" among them where it may be shown; the loop
      stops on a value that is not finite.
    manifest: flat dict saved with every checkpoint and compared on resume.
    hints: name of a metric that is 0 when all is well -> what to do when it is not; shown by the
      loop when it stops on a value that is not finite, and once when the metric's mean over the
      steps of a row is 1 or more.
    chunked: the update in pieces; `update` is these on one chunk. Streams for such a Step may give
      a list of chunks.
    releases_per_sample: how many noisy results of one sample leave the update, for privacy plans;
      None: not declared.
    key_of: `key_of(t)`, called on the host right before step t, replaces the loop's own key: for
      noise that must be secret.
    begin: `begin(beginning) -> stamp`, called on the host before the first step of a process; what
      it returns is saved with the checkpoints. Raises InputError where it cannot answer for what
      will be released; None: it does not answer, and the loop compares the update by itself.
    admit: `admit(t, sample)`, called on the host before `key_of(t)` with what the stream gave for
      step t. Raises InputError for a sample that the Step was not made for.
  """

  init: Callable[[Params, Key], TrainState]
  update: Callable[[TrainState, PyTree, Key], tuple[TrainState, Metrics]]
  manifest: Mapping[str, Json] = dataclasses.field(
    default_factory=lambda: types.MappingProxyType({})
  )
  hints: Mapping[str, str] = dataclasses.field(default_factory=lambda: types.MappingProxyType({}))
  chunked: Chunked | None = None
  releases_per_sample: int | None = None
  key_of: Callable[[int], Key] | None = None
  begin: Callable[[Beginning], str | None] | None = None
  admit: Callable[[int, PyTree], None] | None = None


class Model(NamedTuple):
  """A network as two pure functions, whatever library it was written in.

  Attributes:
    init: `init(key, image) -> (params, model_state)`; `image` is one example [*space, channel].
    apply: `apply(params, image, *, model_state={}, key=None, train=False) -> (logits, model_state)`
      for one example; `key` feeds dropout, `model_state` batch statistics. With `train` a network
      with auxiliary heads returns a tuple of logits, finest first (see `losses.deep_supervision`).
  """

  init: Callable[..., tuple[Params, PyTree]]
  apply: Callable[..., tuple[PyTree, PyTree]]


@runtime_checkable
class Stream(Protocol):
  """Data as a function of the step: the same step gives the same batch, also after a restart.

  For a Step with `chunked` it may give a list of chunks instead, at least one, all of one shape.
  """

  def __call__(self, step: int, /) -> PyTree: ...


@dataclasses.dataclass(frozen=True)
class Example:
  """One case on the host, as a source hands it out.

  Attributes:
    name: case name, the file stem without channel suffix.
    subject: the person; splits are drawn over subjects.
    index: position in the source, stable across runs.
    image: [*space, channel] float32, or None (label maps for synthesis have none).
    label: [*space] int32 class ids, `IGNORE` where unlabelled; a scalar for a class; or None.
    spacing: voxel size in mm, one per spatial axis (1.0 where the format has none).
    affine: [4, 4] voxel -> RAS millimetres, or None for formats without geometry.
    domain: site or scanner name, "" if there is one.
  """

  name: str
  subject: str
  index: int
  image: np.ndarray | None
  label: np.ndarray | None
  spacing: tuple[float, ...]
  affine: np.ndarray | None = None
  domain: str = ""

  def replace(self, **changes: object) -> "Example":
    return dataclasses.replace(self, **changes)


@runtime_checkable
class Source(Protocol):
  """Cases that can be counted and fetched by position.

  Attributes:
    class_names: names of class ids 0..K-1; () where there are no labels.
    channel_names: names of the image channels; () where there are no images.
    subjects: subject of each case, in order, known without reading voxels.
    domains: site or scanner of each case, in order.
  """

  class_names: tuple[str, ...]
  channel_names: tuple[str, ...]
  subjects: tuple[str, ...]
  domains: tuple[str, ...]

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...

  def manifest(self) -> dict[str, Json]:
    """What the run directory records: kind, root, file hashes, subjects, class names."""
    ...
