"""From the loss of one example to the loss of a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from medjax import rng, tree
from medjax.axes import BATCH_AXIS
from medjax.types import Key, PyTree


def batch_mean(loss: Callable[[PyTree, Key], Any], batch: PyTree, key: Key) -> Any:
  """Mean of `loss(example, key)` over a batch, weighted by `batch.weight` where it has one.

  A loss that returns a pytree, such as (loss, statistics), gets the mean of every leaf.

  Example keys are `fold_in(key, batch.index)`, by position where there is no index: order, chunking
  and devices change nothing. The vmapped axis is named "batch" for losses that couple examples.
  """
  num_examples = jax.tree.leaves(batch)[0].shape[0]
  index, weight = entry(batch, "index"), entry(batch, "weight")
  keys = rng.per_example(key, jnp.arange(num_examples) if index is None else index)
  values = jax.vmap(loss, axis_name=BATCH_AXIS)(batch, keys)
  return tree.weighted_mean(values, weight)


def entry(batch: PyTree, name: str) -> Any:
  """`batch.name` or `batch[name]` where there is one; tuples have a method called index."""
  if isinstance(batch, Mapping):
    return batch.get(name)
  value = getattr(batch, name, None)
  return None if callable(value) else value
