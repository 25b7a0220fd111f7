"""Short random sketches of per-example gradients that keep their inner products.

A count sketch (Charikar, Chen & Farach-Colton 2002): coordinates are permuted, get random signs and
are folded into `size` sums. For sketches s and gradients g

  E <s_i, s_j> = <g_i, g_j>,   variance at most (|g_i|^2 |g_j|^2 + <g_i, g_j>^2) / size

Selection by gradients (GSS) then keeps [examples, size]
numbers and no gradients.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medjax import check, rng
from medjax.devices import on_this_device
from medjax.grads import isolation
from medjax.grads.per_sample import take
from medjax.types import Key, Params, PyTree


def sketched(
  loss_fn: Callable[..., jax.Array], *, size: int = 256, microbatch: int | None = None
) -> Callable[[Params, PyTree, Key, Key], jax.Array]:
  """`(params, batch, key, sketch_key) -> [batch, size]` float32 sketches of the gradients.

  >>> def loss(params, example, key):
  ...   return (params * example).sum()
  >>> batch = jnp.array([[3.0, 0.0], [0.0, 4.0]])
  >>> keys = jax.random.key(0), jax.random.key(1)
  >>> s = sketched(loss, size=2)(jnp.ones(2), batch, *keys)
  >>> (s @ s.T).tolist()  # no more coordinates than sums: exact
  [[9.0, 0.0], [0.0, 16.0]]

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    size: numbers a sketch; the relative error of a cosine is about size^-1/2.
    microbatch: examples whose gradients are in memory at once, None for all; it must divide the
      batch.
  Raises:
    InputError: a loss that mixes examples or could do so (see `isolation`), a size below 1, a
      microbatch that does not divide.
  Guarantees: sketches of one `sketch_key` are comparable whatever the batch.
  """
  check.positive("size", size)

  def sketches(params: Params, batch: PyTree, key: Key, sketch_key: Key) -> jax.Array:
    params, keys = on_this_device(params), rng.example_keys(key, batch)
    isolation.require_alone(loss_fn, params, batch, keys)
    fold = folding(params, size, sketch_key)
    num = keys.shape[0]
    part = num if microbatch is None else microbatch
    check.require(
      part > 0 and num % part == 0,
      f"a microbatch that divides the batch of {num}",
      f"{microbatch}",
      "pass a divisor",
    )

    def one(params: Params, example: PyTree, key: Key) -> jax.Array:
      return fold(jax.grad(loss_fn)(params, example, key))

    parts = [
      jax.vmap(one, (None, 0, 0))(params, take(batch, i, part), keys[i : i + part])
      for i in range(0, num, part)
    ]
    return jnp.concatenate(parts)

  return sketches


def folding(like: PyTree, size: int, key: Key) -> Callable[[PyTree], jax.Array]:
  """The sketch of one tree shaped like `like`: linear, [size]."""
  total = sum(leaf.size for leaf in jax.tree.leaves(like))
  sign_key, order_key = rng.streams(key, "sign", "order")
  sign = jax.random.rademacher(sign_key, (total,), jnp.float32)
  order = jax.random.permutation(order_key, total)
  rest = -total % size

  def fold(tree: PyTree) -> jax.Array:
    leaves: list[Any] = [leaf.ravel().astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    mixed = sign * jnp.concatenate(leaves)[order]
    return jnp.pad(mixed, (0, rest)).reshape(-1, size).sum(0)

  return fold
