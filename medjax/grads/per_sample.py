"""Gradients of every example of a batch on its own: `vmap` of `grad`, and inner products by `jvp`.

A loss sees one example. One that reaches for the others, through a collective over the axis named
"batch" (batch statistics, batch Dice) or in any other way that `isolation` lists, is refused: it
has no gradient of one example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax import check, rng
from medjax.devices import on_this_device
from medjax.grads import isolation
from medjax.types import Key, Params, PyTree


class PerSample(NamedTuple):
  """Arrays have the examples first.

  Attributes:
    losses: [batch].
    grads: gradient of each example, leaves [batch, *leaf].
    aux: what the loss returned beside, leaves [batch, ...]; () without `has_aux`.
  """

  losses: Any
  grads: Any
  aux: Any


def per_sample(
  loss_fn: Callable[..., Any], *, microbatch: int | None = None, has_aux: bool = False
) -> Callable[[Params, PyTree, Key], PerSample]:
  """Per-example gradients, all of them in memory.

  >>> def loss(params, example, key):
  ...   return 0.5 * (params * example).sum() ** 2
  >>> out = per_sample(loss)(jnp.ones(2), jnp.array([[1.0, 0.0], [0.0, 3.0]]), jax.random.key(0))
  >>> out.grads.tolist()
  [[1.0, 0.0], [0.0, 9.0]]

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example, with `has_aux`
      `(scalar, aux)`.
    microbatch: examples differentiated together, None for all; it must divide the batch. The result
      is the same, the memory between is not.
    has_aux: see `loss_fn`.
  Returns:
    `(params, batch, key) -> PerSample`. The key of an example is fold_in(key, batch.index), its
    position where there is no index.
  Raises:
    InputError: a loss that mixes examples or could do so (see `isolation`); a batch that
      `microbatch` does not divide.
  """

  def one(params: Params, example: PyTree, key: Key) -> PerSample:
    out, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, example, key)
    loss, aux = out if has_aux else (out, ())
    return PerSample(loss, grads, aux)

  def all_examples(params: Params, batch: PyTree, key: Key) -> PerSample:
    params, keys = on_this_device(params), rng.example_keys(key, batch)
    size = keys.shape[0]
    part = size if microbatch is None else microbatch
    check.require(
      part > 0 and size % part == 0,
      f"a microbatch that divides the batch of {size}",
      f"{microbatch}",
      "pass a divisor",
    )
    isolation.require_alone(loss_fn, params, batch, keys, has_aux=has_aux)
    parts = [
      jax.vmap(one, (None, 0, 0))(params, take(batch, i, part), keys[i : i + part])
      for i in range(0, size, part)
    ]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts) if len(parts) > 1 else parts[0]

  return all_examples


def per_sample_dot(
  loss_fn: Callable[..., Any],
) -> Callable[[Params, PyTree, Key, PyTree], jax.Array]:
  """`(params, batch, key, direction) -> [batch]` of <g_i, direction>, without forming any g_i.

  One forward pass with tangents: d/ds loss_i(params + s * direction) at s = 0. A loss that mixes
  examples or could do so (see `isolation`) is refused by InputError.

  >>> dots = per_sample_dot(lambda params, example, key: params @ example)
  >>> batch = jnp.array([[1.0, 2.0], [3.0, -1.0]])  # the gradients are the examples
  >>> dots(jnp.zeros(2), batch, jax.random.key(0), jnp.array([1.0, 1.0])).tolist()
  [3.0, 2.0]
  """

  def dots(params: Params, batch: PyTree, key: Key, direction: PyTree) -> jax.Array:
    params, keys = on_this_device(params), rng.example_keys(key, batch)
    isolation.require_alone(loss_fn, params, batch, keys)

    def losses(params: Params) -> jax.Array:
      return jax.vmap(loss_fn, (None, 0, 0))(params, batch, keys)

    return jax.jvp(losses, (params,), (direction,))[1]

  return dots


def take(batch: PyTree, start: int, size: int) -> PyTree:
  """Examples [start, start + size)."""
  return jax.tree.map(lambda x: x[start : start + size], batch)
