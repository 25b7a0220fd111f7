"""Training a network to read known samples, and asking it: classification without an update.

  step = methods.supervised(in_context.reading_loss(net.apply), tx)   # on `data.context_problems`
  reader = in_context.ContextReader(net.apply, params)
  logits = reader(known, labels, new)                                 # of new samples

After Hollmann et al., "TabPFN" (2023): on made-up problems the network learns the posterior of a
new label given the samples that it is shown, so at test time one forward pass replaces a training.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check, losses
from medjax.types import IGNORE, Array, Key, Params, PyTree

ApplyRows = Callable[..., Any]
"""`apply(params, features [row, feature], labels [row]) -> logits [row, class]`; a label below 0 is
unknown. The `apply` of a `nets.InContext` is one; Flax types what it returns as anything."""


def reading_loss(apply: ApplyRows, *, fewest: int = 16) -> Callable[[Params, PyTree, Key], Array]:
  """Cross-entropy of the rows of a problem whose labels are hidden; how many are is drawn.

  Args:
    apply: the network.
    fewest: rows that are shown, and rows that are hidden, at least; a quarter of the rows if that
      is less.
  Returns:
    `loss_fn(params, example, key)` for `methods.supervised`; an example has "features" [row,
    feature] and "labels" [row], as `data.context_problems` gives them, its rows in random order.
  """
  check.positive("fewest", fewest)

  def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
    labels = example["labels"]
    least = min(fewest, len(labels) // 4)
    shown = jax.random.randint(key, (), least, len(labels) - least + 1)
    is_shown = jnp.arange(len(labels)) < shown
    logits = apply(params, example["features"], jnp.where(is_shown, labels, IGNORE))
    return losses.cross_entropy(logits, jnp.where(is_shown, IGNORE, labels))

  return loss_fn


class ContextReader:
  """`reader(known, labels, new) -> logits [m, class]` of a trained network, on the host."""

  def __init__(self, apply: ApplyRows, params: Params, *, chunk: int = 256):
    """Keeps a program for `apply`.

    Args:
      apply: a network whose rows do not see rows without labels, so that new samples can come in
        any company.
      params: trained.
      chunk: new samples a call; the last call is filled up.
    """
    check.positive("chunk", chunk)
    self._apply, self._params, self._chunk = jax.jit(apply), params, chunk

  def __call__(self, known: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Logits of `new` [m, feature] from `known` [n, feature] and their labels [n], in order."""
    check.same_shape("labels", labels.shape, "known", known.shape[:1])
    check.require(len(known) and len(new), "known and new samples", "none", "give some")
    unknown = np.full(self._chunk, IGNORE)
    rows = np.concatenate([labels, unknown]).astype(np.int32)
    found = []
    for start in range(0, len(new), self._chunk):
      part = new[start : start + self._chunk]
      part = np.pad(part, [(0, self._chunk - len(part)), (0, 0)])
      features = np.concatenate([known, part]).astype(np.float32)
      found.append(np.asarray(self._apply(self._params, features, rows))[len(known) :])
    return np.concatenate(found)[: len(new)]
