"""Order statistics without sorting."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_SIGN = np.uint32(0x80000000)


def kth_smallest(values: Float[Array, "..."], k: int | Int[Array, ""]) -> Float[Array, ""]:
  """The element that stands at place `k`, from 0, when all are sorted; exact.

  Bisects on the bits: 32 counting passes, where sorting millions of numbers takes several times as
  long on a CPU. NaN stands after infinity. float32; k is cut to [0, size - 1].
  """
  ranks = _ranks(values.astype(jnp.float32).ravel())
  place = jnp.clip(k, 0, ranks.size - 1)

  def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = bounds
    middle = low + (high - low) // 2
    enough = jnp.sum(ranks <= middle, dtype=jnp.int32) > place
    return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

  # The answer is the least rank with more than `place` ranks at or below it. Each pass halves the
  # interval [low, high] that holds it; 2^32 ranks take 32 passes.
  bounds = (jnp.uint32(0), jnp.uint32(0xFFFFFFFF))
  found, _ = jax.lax.fori_loop(0, 32, halve, bounds)
  is_negative = found < _SIGN
  bits = jnp.where(is_negative, ~found, found ^ _SIGN)
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _ranks(values: jax.Array) -> jax.Array:
  """uint32 numbers in the order of the floats; every NaN counts as the positive one."""
  # The bits of positive floats, read as an integer, stand in the order of the floats; those of
  # negative ones in the reverse order. Flipping the sign of the former puts them above, flipping
  # all bits of the latter turns their order round.
  values = jnp.where(jnp.isnan(values), jnp.nan, values)
  bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
  is_negative = bits >= _SIGN
  return jnp.where(is_negative, ~bits, bits ^ _SIGN)
