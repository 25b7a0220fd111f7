"""Samples of a private run: any size, in chunks of one static shape, drawn by secret seeds.

Poisson sampling takes every unit with probability q, independently, also none or many; the last
chunk is filled with padding of weight 0. Amplification by sampling holds for this draw and no
other: neither shuffled epochs nor batches of a fixed size are Poisson samples. Cyclic sampling, for
correlated noise, takes units of one part of the data in turn, see `privacy.correlated`.
"""

import dataclasses
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax import check
from medjax.privacy.accounting import Sampling
from medjax.privacy.vault import Vault
from medjax.tree import entry
from medjax.types import Batch, PyTree, Source


class Sample(list):
  """The chunks of one sample, with the seal of the vault that drew it.

  What is made of it (slices, sums, other chunks in its place) is a plain list, or breaks the seal.

  Attributes:
    seal: HMAC of step, training and content under the vault's secret.
  """

  def __init__(self, chunks: list[PyTree], seal: str):
    super().__init__(chunks)
    self.seal = seal


jax.tree_util.register_pytree_node(
  Sample, lambda sample: (tuple(sample), None), lambda _, chunks: list(chunks)
)


def sealed(sample: PyTree, step: int, vault: Vault) -> bool:
  """Whether `vault` drew exactly this sample for `step` of the training under way."""
  return isinstance(sample, Sample) and hmac.compare_digest(
    sample.seal, vault.seal(step, content(sample))
  )


def content(chunks: list[PyTree]) -> bytes:
  """Digest of all arrays of some chunks, by name and order."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(list(chunks)):
    leaf = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} ".encode())
    digest.update(leaf.tobytes())
  return digest.digest()


class Units(NamedTuple):
  """Which rows of a store belong to each unit of privacy.

  Attributes:
    rows: an array of row numbers for each unit.
    members: rows of a unit in a chunk; 0 where a unit is one row and has no axis of its own.
  """

  rows: tuple[np.ndarray, ...]
  members: int


@dataclasses.dataclass(frozen=True, eq=False)
class PrivateStream:
  """`stream(step) -> list of chunks`, at least one; the same step gives the same sample.

  A chunk is the store's tree with `chunk` units along the first axis. Padding has weight 0 and
  index -1. Where a unit is a group a chunk is {"members": tree [chunk, members, ...], "index",
  "weight"}, and padding among the members has weight 0 too.
  """

  store: Any
  units: Units
  chunk: int
  sampling: Sampling
  size: int
  vault: Vault
  max_size: int | None = None
  bands: int = 1

  def __call__(self, step: int) -> Sample:
    random = np.random.Generator(np.random.Philox(key=self.vault.sampling_seed(step) % 2**128))
    drawn = self.draw(random, step)
    parts = [drawn[i : i + self.chunk] for i in range(0, max(len(drawn), 1), self.chunk)]
    chunks = [self._gather(part, random) for part in parts]
    return Sample(chunks, self.vault.seal(step, content(chunks)))

  def parts(self) -> np.ndarray:
    """[units] the part of each unit in cyclic sampling, drawn for each by itself."""
    key = self.vault.parts_seed() % 2**128
    return np.random.Generator(np.random.Philox(key=key)).integers(self.bands, size=self.num_units)

  @property
  def num_units(self) -> int:
    return len(self.units.rows)

  def draw(self, random: np.random.Generator, step: int) -> np.ndarray:
    """Numbers of the units of one sample."""
    num = self.num_units
    if self.sampling == "poisson":
      is_drawn = random.random(num) < self.bands * self.size / num
      if self.bands > 1:
        is_drawn &= self.parts() == step % self.bands
      drawn = np.flatnonzero(is_drawn)
      if self.max_size is None or len(drawn) <= self.max_size:
        return drawn
      return random.choice(drawn, self.max_size, replace=False)
    return random.choice(num, self.size, replace=False)

  def _gather(self, part: np.ndarray, random: np.random.Generator) -> PyTree:
    is_real = np.arange(self.chunk) < len(part)
    units = np.concatenate([part, np.zeros(self.chunk - len(part), int)]).astype(int)
    if self.units.members == 0:
      rows = np.array([self.units.rows[u][0] for u in units])
      return _taken(self.store, rows, is_real)
    table = np.zeros((self.chunk, self.units.members), int)
    there = np.zeros(table.shape, bool)
    for i, unit in enumerate(part):
      rows = self.units.rows[unit]
      if len(rows) > self.units.members:
        rows = random.choice(rows, self.units.members, replace=False)
      table[i, : len(rows)], there[i, : len(rows)] = rows, True
    return {
      "members": _taken(self.store, table, there),
      "index": np.where(is_real, units, -1).astype(np.int32),
      "weight": is_real.astype(np.float32),
    }


def units_of(
  store: PyTree,
  *,
  unit: str,
  max_group_size: int | None,
  repeated_subjects: bool,
  max_examples_per_subject: int | None = None,
) -> Units:
  """The units of a store: what is drawn, each by itself.

  Raises:
    InputError: groups without subjects; examples that share a subject and are to be protected
      one by one, which would leave the person unprotected; more than `max_examples_per_subject`
      examples of a person.
  """
  size = _length(store)
  subject = entry(store, "subject")
  if max_examples_per_subject is not None:
    check_subjects(subject, max_examples_per_subject)
    return Units(tuple(np.arange(size)[:, None]), 0)
  if unit == "example":
    if not repeated_subjects:
      people = "unknown" if subject is None else f"{len(np.unique(subject))}"
      check.require(
        people == f"{size}",
        "one example a subject with unit='example'",
        f"{size} examples of {people} subjects",
        "give every example a `subject`, np.arange(n) where each is of another person; protect"
        " people who have several with unit='group' or with max_examples_per_subject=...; or pass"
        " repeated_subjects=True: one example is then protected and a person is not, and the"
        " statement says so",
      )
    return Units(tuple(np.arange(size)[:, None]), 0)
  check.require(
    subject is not None,
    "a subject for every example with unit='group'",
    "none",
    "patches and slices of one volume need the id of its person: put it into `subject`",
  )
  order = np.argsort(subject, kind="stable")
  _, starts = np.unique(np.asarray(subject)[order], return_index=True)
  rows = tuple(np.sort(part) for part in np.split(order, starts[1:]))
  largest = max(len(part) for part in rows)
  return Units(rows, largest if max_group_size is None else min(largest, max_group_size))


def check_subjects(subject: np.ndarray | None, most: int) -> None:
  """Raises InputError for examples of unknown people, or for people with more than `most`."""
  check.require(
    subject is not None,
    "a subject for every example with max_examples_per_subject",
    "none",
    "put the id of its person into `subject`",
  )
  counts = np.unique(np.asarray(subject), return_counts=True)[1]
  check.require(
    bool((counts <= most).all()),
    f"at most {most} examples of each subject, as max_examples_per_subject says",
    f"{(counts > most).sum()} of {len(counts)} subjects with more, up to {counts.max()}",
    f"pass max_examples_per_subject={counts.max()}, or leave examples out beforehand",
  )


def fingerprint(store: PyTree) -> str:
  """Digest of all arrays of a store, by name."""
  from medjax.data.manifest import array_digest  # whoever draws samples has loaded medjax.data

  leaves = jax.tree_util.tree_leaves_with_path(store)
  parts = [f"{jax.tree_util.keystr(p)}:{array_digest(np.asarray(x))}" for p, x in leaves]
  return array_digest(np.frombuffer("\n".join(parts).encode(), np.uint8))


def host_arrays(store: PyTree) -> PyTree:
  """The store as numpy arrays of one length; raises InputError for anything else."""
  if isinstance(store, Source):
    from medjax.data.streams.epochs import stack

    store = stack(store)
  check.require(
    isinstance(store, Batch | Mapping),
    "examples as a Batch, a mapping of arrays or a Source",
    type(store).__name__,
    "see data.stack",
  )
  store = jax.tree.map(np.asarray, store)
  for path, leaf in jax.tree_util.tree_leaves_with_path(store):
    check.require(
      leaf.ndim >= 1 and len(leaf) == _length(store),
      f"{_length(store)} examples in every array",
      f"shape {leaf.shape} in {jax.tree_util.keystr(path)}",
      "give every array the examples along its first axis",
    )
  return store


def _length(store: PyTree) -> int:
  return len(jax.tree.leaves(store)[0])


def _taken(store: PyTree, rows: np.ndarray, is_real: np.ndarray) -> PyTree:
  """Rows of the store with the weight and index that private steps need."""
  taken = jax.tree.map(lambda x: x[rows], store)
  weight, index = entry(taken, "weight"), entry(taken, "index")
  own = np.ones(rows.shape, np.float32) if weight is None else weight
  fields = {
    "weight": np.where(is_real, own, 0).astype(np.float32),
    "index": np.where(is_real, rows if index is None else index, -1).astype(np.int32),
  }
  return taken.replace(**fields) if isinstance(taken, Batch) else {**taken, **fields}
