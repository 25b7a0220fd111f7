"""From the loss of one example to the loss of a batch."""

from collections.abc import Callable
from typing import Any

import jax

from medjax import rng, tree
from medjax.axes import BATCH_AXIS
from medjax.tree import entry
from medjax.types import Key, PyTree


def batch_mean(loss: Callable[[PyTree, Key], Any], batch: PyTree, key: Key) -> Any:
  """Mean of `loss(example, key)` over a batch, weighted by `batch.weight` where it has one.

  A loss that returns a pytree, such as (loss, statistics), gets the mean of every leaf.

  The keys are those of `rng.example_keys`: order, chunking and devices change nothing. The vmapped
  axis is named "batch" for losses that couple examples.
  """
  values = jax.vmap(loss, axis_name=BATCH_AXIS)(batch, rng.example_keys(key, batch))
  return tree.weighted_mean(values, entry(batch, "weight"))
