"""Named key streams: one key in, independent streams out, never reused.

A stream depends on its name and not on the order of calls, so that adding a consumer of randomness
changes nobody else's numbers.
"""

import zlib

import jax

from medjax.types import Key


def stream(key: Key, name: str) -> Key:
  """Key of the stream `name`; the same (key, name) gives the same stream in every run.

  >>> key = jax.random.key(0)
  >>> bool(stream(key, "noise") == stream(key, "noise"))
  True
  """
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def streams(key: Key, *names: str) -> tuple[Key, ...]:
  """One key per name, in the order of the names."""
  if len(set(names)) != len(names):
    raise ValueError(f"stream names must differ, got {names}; two equal names would share a key")
  return tuple(stream(key, name) for name in names)


def per_example(key: Key, index: jax.Array) -> Key:
  """Keys [batch] from stable example ids, so that order, chunking and devices change nothing."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)
