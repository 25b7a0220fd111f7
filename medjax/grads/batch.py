"""From the loss of one example to the loss of a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medjax import rng, tree
from medjax.axes import BATCH_AXIS
from medjax.tree import entry
from medjax.types import Key, Leaf, PyTree


def batch_mean(loss: Callable[[PyTree, Key], Any], batch: PyTree, key: Key) -> Any:
  """Mean of `loss(example, key)` over a batch, weighted by `batch.weight` where it has one.

  A loss that returns a pytree, such as (loss, statistics), gets the mean of every leaf.

  A row of weight 0 changes neither the mean nor its derivative, also if it holds NaN or infinity.

  The keys are those of `rng.example_keys`: order, chunking and devices change nothing. The vmapped
  axis is named "batch" for losses that couple examples.

  >>> batch = {"x": jnp.array([1.0, 3.0, jnp.nan]), "weight": jnp.array([1.0, 3.0, 0.0])}
  >>> float(batch_mean(lambda example, key: example["x"], batch, jax.random.key(0)))
  2.5
  """
  keys, weight = rng.example_keys(key, batch), entry(batch, "weight")
  values = jax.vmap(loss, axis_name=BATCH_AXIS)(finite_padding(batch, weight), keys)
  return tree.weighted_mean(values, weight)


def finite_padding(batch: PyTree, weight: jax.typing.ArrayLike | None) -> PyTree:
  """The batch with 0 for what is not finite in rows of weight 0.

  The mean leaves such rows out, but its derivative does not: it multiplies their cotangent, 0, by a
  derivative of the loss that is not a number where the row is not.
  """
  if weight is None:
    return batch

  def clean(leaf: Leaf) -> Leaf:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
      return leaf
    counts = jnp.asarray(weight).reshape(-1, *[1] * (leaf.ndim - 1)) > 0
    return jnp.where(counts | jnp.isfinite(leaf), leaf, jnp.zeros((), leaf.dtype))

  return jax.tree.map(clean, batch)
