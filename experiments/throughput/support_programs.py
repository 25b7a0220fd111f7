"""Rows of the network that reads a support: pairs a second at several shapes of batch x support."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.throughput.measuring import Program
from medjax import methods, nets
from medjax.methods import support
from medjax.types import Array, Params


def pairs(
  shape: tuple[int, int], widths: tuple[int, ...], num_pairs: int, supports: Sequence[int]
) -> list[Program]:
  """Forward passes of `num_pairs` pairs as batch x support, and the training step of the first.

  What the crossing convolution computes of the query is shared by its pairs, so large supports cost
  less a pair; the last row does without, as if each pair had a query of its own.
  """
  net = nets.CrossConvUNet(widths)
  rows: list[Program] = []
  forward = jax.vmap(net.apply, (None, 0, 0, 0))
  for size in supports:
    given = _drawn(shape, num_pairs // size, size)
    params = jax.jit(net.init)(jax.random.key(0), *(x[0] for x in given))
    name = f"forward, {num_pairs // size} x {size}"
    rows.append(Program(name, forward, (params, *given), num_pairs))
  given = _drawn(shape, num_pairs // supports[0], supports[0])
  params = rows[0].args[0]
  loss_fn = support.support_loss(net.apply, lambda key, example: example)
  step = methods.supervised(loss_fn, optax.adam(1e-3))
  queries, images, masks = given
  example = (
    jnp.concatenate([queries[:, None], images], 1),
    jnp.concatenate([masks[:, :1], masks], 1),
  )
  key = jax.random.key(0)
  args = (step.init(params, key), example, key)
  rows.append(
    Program(f"step, {num_pairs // supports[0]} x {supports[0]}", step.update, args, num_pairs)
  )
  alone = functools.partial(_unshared, net)
  rows.append(Program("forward, a query for each pair", alone, (params, *given), num_pairs))
  return rows


def _unshared(
  net: nets.CrossConvUNet, params: Params, queries: Array, images: Array, masks: Array
) -> Any:
  """Each pair as a support of its own; their mean is not the network's."""
  one = jax.vmap(net.apply, (None, None, 0, 0))
  return jax.vmap(one, (None, 0, 0, 0))(params, queries, images[:, :, None], masks[:, :, None])


def _drawn(shape: tuple[int, int], batch: int, size: int) -> tuple[Array, Array, Array]:
  key = jax.random.key(1)
  images = jax.random.uniform(key, (batch, size + 1, *shape, 1))
  return images[:, 0], images[:, 1:], (images[:, 1:, ..., 0] > 0.5).astype(jnp.float32)
