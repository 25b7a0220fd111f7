"""Min-plus product as a Triton kernel: each program keeps a tile of the result in registers.

Compared with the reference in interpret mode and lowered for CUDA, but not yet run on a GPU,
therefore chosen nowhere by default.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

_TILE = (32, 64)  # rows and columns of a program's result


def min_plus(table: jax.Array, values: jax.Array, *, interpret: bool) -> jax.Array:
  """[m, k] and [*batch, k, n] -> [*batch, m, n]."""
  rows, size = table.shape
  columns = values.shape[-1]
  by_k = jnp.pad(table.T, ((0, 0), (0, -rows % _TILE[0])))
  flat = values.reshape(-1, size, columns)
  flat = jnp.pad(flat, ((0, 0), (0, 0), (0, -columns % _TILE[1])))
  grid = (flat.shape[0], by_k.shape[1] // _TILE[0], flat.shape[2] // _TILE[1])
  out = pl.pallas_call(
    functools.partial(_kernel, size=size),
    out_shape=jax.ShapeDtypeStruct((flat.shape[0], by_k.shape[1], flat.shape[2]), flat.dtype),
    grid=grid,
    in_specs=[
      pl.BlockSpec((size, _TILE[0]), lambda b, i, j: (0, i)),
      pl.BlockSpec((None, size, _TILE[1]), lambda b, i, j: (b, 0, j)),
    ],
    out_specs=pl.BlockSpec((None, *_TILE), lambda b, i, j: (b, i, j)),
    compiler_params=triton.CompilerParams(num_warps=4),
    interpret=interpret,
    name="min_plus",
  )(by_k, flat)
  return out[:, :rows, :columns].reshape(*values.shape[:-2], rows, columns)


def _kernel(by_k, values, out, *, size: int):
  def term(k: jax.Array, best: jax.Array) -> jax.Array:
    candidate = by_k[k, :][:, None] + values[k, :][None, :]
    return jnp.where(candidate < best, candidate, best)

  start = jnp.full(out.shape, jnp.inf, out.dtype)
  out[...] = jax.lax.fori_loop(0, size, term, start)
