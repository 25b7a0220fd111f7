"""Batches with as many examples of every class, class by class, as a function of (seed, step)."""

import dataclasses

import jax
import numpy as np

from medjax import check
from medjax.data.seeds import Seed
from medjax.data.streams.epochs import take, visits
from medjax.types import Batch, Stream


@dataclasses.dataclass(frozen=True, eq=False)
class ClassStream:
  """`stream(step) -> Batch` with leaves [class, example, ...]; use `class_batches`."""

  store: Batch
  members: tuple[np.ndarray, ...]
  size: int
  seed: Seed | jax.Array
  name: str

  def __call__(self, step: int) -> Batch:
    place = int(step) * self.size + np.arange(self.size)
    rows, weight = [], []
    for k, own in enumerate(self.members):
      weight.append(np.full(self.size, float(len(own) > 0), np.float32))
      if len(own):
        own = own[visits(place, len(own), self.seed, f"{self.name} class {k}")]
      else:
        own = np.zeros(self.size, np.int64)
      rows.append(own)
    batch = take(self.store, np.stack(rows))
    draw = (place % 2**31).astype(np.int32)
    return batch.replace(weight=np.stack(weight), draw=np.broadcast_to(draw, batch.index.shape))


def class_batches(
  store: Batch, size: int, seed: Seed | jax.Array, *, num_classes: int, name: str = ""
) -> Stream:
  """An endless stream in which every class has its own epochs.

  Args:
    store: examples with one class each, as `stack` gives them.
    size: examples of every class in a batch; a class with fewer comes several times.
    seed: int or typed key.
    num_classes: classes, those that the store lacks among them: their places have weight 0.
    name: tells the streams of one seed apart.
  Returns:
    Stream of Batches whose leaves begin with [class, example].
  Raises:
    InputError: labels outside 0 .. num_classes - 1, or no examples.

  >>> import numpy as np
  >>> from medjax.types import Batch
  >>> n = np.arange(3, dtype=np.int32)
  >>> store = Batch(np.zeros((3, 2, 2, 1)), np.array([0, 2, 2]), n, n, n, np.ones(3))
  >>> class_batches(store, 2, seed=0, num_classes=3)(0).weight.tolist()
  [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
  """
  check.positive("size", size)
  check.require(len(store.label) > 0, "examples in the store", "none", "check the split")
  labels = np.asarray(store.label)
  check.require(
    labels.ndim == 1 and labels.min() >= 0 and labels.max() < num_classes,
    f"labels [examples] from 0 to {num_classes - 1}",
    f"shape {labels.shape}, values {labels.min()} to {labels.max()}",
    "pass the number of classes of the whole federation",
  )
  members = tuple(np.flatnonzero(labels == k) for k in range(num_classes))
  return ClassStream(store, members, size, seed, name)
