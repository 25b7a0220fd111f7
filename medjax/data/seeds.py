"""Host random numbers that are a function of (seed, name, counter)."""

import zlib
from typing import TypeAlias

import jax
import numpy as np

Seed: TypeAlias = int | np.integer
"""Any whole number, Python's or NumPy's; equal numbers are equal seeds."""


def generator(seed: Seed | jax.Array, name: str = "", counter: int = 0) -> np.random.Generator:
  """A numpy generator that depends on nothing but its arguments.

  Args:
    seed: any whole number, or a typed key as `jax.random.key` makes it.
    name: decorrelates the consumers of one seed.
    counter: epoch, case or draw number, in [0, 2**32).
  Returns:
    Generator over Philox with the key (seed, crc32(name) * 2**32 + counter).
  """
  if isinstance(seed, jax.Array):
    words = np.asarray(jax.random.key_data(seed)).ravel()
    seed = 0
    for word in words:
      seed = (seed << 32 | int(word)) % 2**64
  # int() first: NumPy's integers overflow where Python's grow.
  key = np.array([int(seed) % 2**64, zlib.crc32(name.encode()) << 32 | counter], np.uint64)
  return np.random.Generator(np.random.Philox(key=key))
