"""Fewer bytes from a client to the server: stochastic int8, and the largest entries alone."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from medjax import check
from medjax.types import Key


@dataclasses.dataclass(frozen=True)
class Compressor:
  """What a client's row looks like after it was sent.

  Attributes:
    name: with its options, for the manifest.
    send: `send(row, residual, key) -> (row that arrives, residual)`, both [parameters] float32.
    num_bytes: bytes that a row of so many numbers takes.
    keeps_residual: the client keeps what was not sent and adds it next time.
  """

  name: str
  send: Callable[[jax.Array, jax.Array, Key], tuple[jax.Array, jax.Array]]
  num_bytes: Callable[[int], int]
  keeps_residual: bool = False


def int8(block: int = 1024) -> Compressor:
  """Eight bits a number and one float32 scale a block (QSGD's idea, Alistarh et al. 2017).

  q = floor(x / s + u),  s = max |x| / 127 over the block,  u uniform in [0, 1):  E[s q] = x

  Args:
    block: numbers that share a scale.
  """
  check.positive("block", block)

  def send(row: jax.Array, residual: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
    blocks = jnp.pad(row, (0, -row.size % block)).reshape(-1, block)
    scale = jnp.abs(blocks).max(1, keepdims=True) / 127
    step = jnp.where(scale > 0, scale, 1)
    drawn = jax.random.uniform(key, blocks.shape)
    whole = jnp.clip(jnp.floor(blocks / step + drawn), -127, 127)
    return (whole * scale).ravel()[: row.size], residual

  return Compressor(f"int8({block})", send, lambda size: size + 4 * math.ceil(size / block))


def top_k(fraction: float | int) -> Compressor:
  """The entries of largest size, with error feedback (Stich et al., "Sparsified SGD", 2018).

  e <- row + residual;  send the k largest |e|;  residual <- e without them

  Args:
    fraction: k / parameters in (0, 1]; each entry takes 8 bytes (a number and its place).
  """
  check.require(0 < fraction <= 1, "fraction in (0, 1]", f"{fraction=}", "0.01 sends 1 %")

  def count(size: int) -> int:
    return max(1, math.ceil(fraction * size))

  def send(row: jax.Array, residual: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
    del key
    whole = row + residual
    _, place = jax.lax.top_k(jnp.abs(whole), count(row.size))
    sent = jnp.zeros_like(row).at[place].set(whole[place])
    return sent, whole - sent

  return Compressor(f"top_k({fraction:g})", send, lambda size: 8 * count(size), True)
