"""Named key streams: one key in, independent streams out, never reused.

A stream depends on its name and not on the order of calls, so that adding a consumer of randomness
changes nobody else's numbers.
"""

import zlib

import jax
import jax.numpy as jnp

from medjax.tree import entry
from medjax.types import Key, PyTree


def stream(key: Key, name: str) -> Key:
  """Key of the stream `name`; the same (key, name) gives the same stream in every run.

  >>> key = jax.random.key(0)
  >>> bool(stream(key, "noise") == stream(key, "noise"))
  True
  """
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def streams(key: Key, *names: str) -> tuple[Key, ...]:
  """One key per name, in the order of the names.

  Raises:
    ValueError: two names of one key: equal ones, or two that CRC-32 cannot tell apart, such as
      "plumless" and "buckeroo".
  """
  if len({zlib.crc32(name.encode()) for name in names}) != len(names):
    raise ValueError(
      f"expected stream names with different keys, got {names}; two would share a key: rename one"
    )
  return tuple(stream(key, name) for name in names)


def example_keys(key: Key, batch: PyTree) -> Key:
  """Keys [batch] of the examples of a batch: the one place that says what an example's key is.

  It is fold_in(fold_in(key, index), draw) with the `index` and the `draw` of the example (see
  `types.Batch`): the order of the examples, chunks and devices change nothing, and a case that is
  drawn twice into a batch gets two keys. Without a `draw` only the index is folded in; without an
  `index` it is the example's position, which is not the same in another chunk.

  >>> key = jax.random.key(0)
  >>> twice = {"index": jnp.array([3, 3]), "draw": jnp.array([8, 9])}
  >>> keys = example_keys(key, twice)
  >>> bool(keys[0] == keys[1]), bool(keys[0] == jax.random.fold_in(jax.random.fold_in(key, 3), 8))
  (False, True)

  Args:
    key: one typed key.
    batch: a tree of arrays [batch, ...]; `index` and `draw` are its entries or attributes.
  """
  index, draw = entry(batch, "index"), entry(batch, "draw")
  if index is None:
    index = jnp.arange(jax.tree.leaves(batch)[0].shape[0])
  keys = numbered(key, jnp.asarray(index))
  return keys if draw is None else jax.vmap(jax.random.fold_in)(keys, jnp.asarray(draw))


def numbered(key: Key, number: jax.Array) -> Key:
  """Keys [batch]: `key` with each of these numbers folded in."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, number)
