"""Batches with equal shares of sites, and of classes in a site, as a function of (seed, step)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from medjax.check import require
from medjax.data.seeds import Seed, generator
from medjax.data.streams.epochs import batches, drawn_at, take
from medjax.types import Batch, PyTree, Stream


@dataclasses.dataclass(frozen=True, eq=False)
class ResampledStream:
  """`stream(step) -> batch`; use `resampled`.

  Attributes:
    members: group -> class -> positions in the store.
  """

  store: PyTree
  batch_size: int
  seed: Seed | jax.Array
  name: str
  members: Sequence[Sequence[np.ndarray]]

  def __call__(self, step: int) -> Any:
    random = generator(self.seed, self.name, int(step))
    first = int(step) * self.batch_size  # shares that do not come out even move on, step by step
    rows = np.empty(self.batch_size, np.int64)
    for slot in range(self.batch_size):
      classes = self.members[(first + slot) % len(self.members)]
      own = classes[int(random.integers(len(classes)))]
      rows[slot] = own[random.integers(len(own))]
    return drawn_at(take(self.store, rows), step)


def resampled(
  store: Batch | Mapping[str, Any],
  batch_size: int,
  seed: Seed | jax.Array,
  *,
  groups: np.ndarray,
  classes: np.ndarray | None = None,
  name: str = "",
) -> Stream:
  """An endless stream in which rare groups, and rare classes within them, come as often as others.

  >>> store = {"image": np.zeros((5, 2, 2, 1)), "site": np.array([0, 0, 0, 0, 7])}
  >>> stream = resampled(store, 4, seed=0, groups=store["site"])
  >>> stream(3)["site"].tolist()
  [0, 7, 0, 7]

  Args:
    store: as for `batches`.
    batch_size: examples a batch; groups take its places in turn, so their numbers in a batch differ
      by one at most.
    seed: int or typed key.
    groups: [n] ids, such as the site of each example.
    classes: [n] ids; each draw takes a class of the group, all as likely, then one of its examples.
      None takes the group's examples as likely as one another.
    name: tells the streams of one seed apart.
  Returns:
    The stream. Examples are drawn with replacement, so there are no epochs.
  Raises:
    InputError: other lengths than the store's, or as `batches`.
  """
  plain: Any = batches(store, batch_size, seed, name=name)  # its checks, and its index
  size = len(jax.tree.leaves(plain.store)[0])
  groups = np.asarray(groups)
  labels = np.zeros(size, np.int64) if classes is None else np.asarray(classes)
  for what, own in (("groups", groups), ("classes", labels)):
    require(own.shape == (size,), f"{what} [{size}]", f"{own.shape}", "name every example's")
  members = [
    [np.flatnonzero((groups == g) & (labels == c)) for c in np.unique(labels[groups == g])]
    for g in np.unique(groups)
  ]
  return ResampledStream(plain.store, batch_size, seed, name, members)
