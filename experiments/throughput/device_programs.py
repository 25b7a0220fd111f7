"""Rows that choose defaults on an accelerator: number types, inner steps, runs at once, noise.

What a CPU measured says little about them there, so they are part of the preset "device" of
`experiments.throughput`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.throughput.measuring import Program
from medjax import grads, losses, methods, nets, ops, synth
from medjax.privacy import noise
from medjax.types import Key, Params, Step

Pictures = tuple[jax.Array, jax.Array]  # images [batch, *space, channel], labels [batch, *space]


def number_types(pictures: Pictures, widths: tuple[int, ...], num_classes: int) -> list[Program]:
  """The plain step with the network in float32 and in bfloat16, and with blocks computed twice.

  Computing the inside of blocks again is a fourth pass: 4/3 of a plain step.
  """
  rows = []
  for name, precision, floor in (
    ("float32", nets.Precision(), 1.0),
    ("bfloat16", nets.Precision(jnp.bfloat16), None),
    ("float32, blocks again", nets.Precision(remat=True), 4 / 3),
    ("bfloat16, blocks again", nets.Precision(jnp.bfloat16, remat=True), None),
  ):
    step, params = _plain(pictures, widths, num_classes, precision)
    key = jax.random.key(0)
    args = (step.init(params, key), pictures, key)
    rows.append(Program(name, step.update, args, len(pictures[0]), floor))
  return rows


def runs_at_once(
  pictures: Pictures, widths: tuple[int, ...], num_classes: int, num_runs: int
) -> list[Program]:
  """One network's step; as many networks one after the other in one program; all under vmap."""
  step, params = _plain(pictures, widths, num_classes)
  keys = jax.random.split(jax.random.key(0), num_runs)
  one = step.init(params, keys[0])
  states = jax.vmap(lambda key: step.init(params, key))(keys)

  def in_turn(states: Any, pictures: Pictures, keys: Key) -> list[Any]:
    alone = [jax.tree.map(lambda x, i=i: x[i], states) for i in range(num_runs)]
    return [step.update(state, pictures, keys[i]) for i, state in enumerate(alone)]

  size = len(pictures[0])
  return [
    Program("one network", step.update, (one, pictures, keys[0]), size),
    Program("in turn", in_turn, (states, pictures, keys), num_runs * size, float(num_runs)),
    Program(
      "vmap over networks",
      jax.vmap(step.update, (0, None, 0)),
      (states, pictures, keys),
      num_runs * size,
      float(num_runs),
    ),
  ]


def inner_steps(
  pictures: Pictures, widths: tuple[int, ...], num_classes: int, counts: Sequence[int]
) -> list[Program]:
  """The plain step, and hypergradients through K inner steps, whose floor is 3 K + 1/3 of it.

  A step is three passes over the convolutions; K steps of a hypergradient are 9 K, and one more
  for the outer gradient's forward pass.
  """
  model = nets.from_linen(nets.UNet(num_classes, widths, norm="none", activation="elu"))
  augmentation, tx = synth.ParametricAugmentation(), optax.adam(1e-3, eps_root=1e-16)
  theta, key = augmentation.init(sigma=0.05), jax.random.key(0)
  params, _ = model.init(key, pictures[0][0])

  def inner(params: Params, theta: Any, example: Pictures, key: Key) -> jax.Array:
    return losses.soft_dice(
      model.apply(params, augmentation(theta, key, example[0]))[0], example[1]
    )

  def outer(params: Params, example: Pictures, key: Key) -> jax.Array:
    del key
    return losses.soft_dice(model.apply(params, example[0])[0], example[1])

  step, _ = _plain(pictures, widths, num_classes)
  args = (step.init(params, key), pictures, key)
  rows = [Program("plain step", step.update, args, len(pictures[0]))]
  for count in counts:
    compute = grads.hypergradient(inner, outer, tx, steps=count)
    batches = jax.tree.map(lambda x, count=count: jnp.stack([x] * count), pictures)
    args = (theta, params, tx.init(params), batches, pictures, key)
    size = count * len(pictures[0])
    rows.append(Program(f"hypergradient, K = {count}", compute, args, size, 3.0 * count + 1 / 3))
  return rows


def private_noise(num: int) -> list[Program]:
  """JAX's float32 normal numbers, medjax's with the tail of the law, and a whole release."""
  key, total = jax.random.key(0), jnp.zeros(num)

  def release(key: Key, total: jax.Array) -> Any:
    return noise.added(key, total, multiplier=1.0, sensitivity=1.0, magnitude=1e3)

  return [
    Program("jax.random.normal", lambda key: jax.random.normal(key, (num,)), (key,), num),
    Program("noise.standard_normal", lambda key: noise.standard_normal(key, (num,)), (key,), num),
    Program("noise.added", release, (key, total), num),
  ]


def distances(shape: tuple[int, ...]) -> list[Program]:
  """The exact distance to a ball, in mm: everywhere, and at a thousand voxels alone."""
  axes = jnp.meshgrid(*(jnp.linspace(-1, 1, n) for n in shape), indexing="ij")
  ball = jnp.square(jnp.stack(axes)).sum(0) < 0.25
  places = jnp.linspace(0, ball.size - 1, 1000).astype(jnp.int32)
  spacing = jnp.ones(len(shape))

  def everywhere(mask: jax.Array, places: jax.Array, spacing: jax.Array) -> jax.Array:
    del places
    return ops.distance_transform(mask, spacing=spacing)

  def at_places(mask: jax.Array, places: jax.Array, spacing: jax.Array) -> jax.Array:
    return ops.distance_at(mask, places, spacing=spacing)

  args = (ball, places, spacing)
  return [
    Program("distance_transform", everywhere, args, ball.size),
    Program("distance_at", at_places, args, len(places)),
  ]


def clicks(shape: tuple[int, int]) -> list[Program]:
  """The next click of a simulated person on a ball half of which is missed, and components."""
  axes = jnp.meshgrid(*(jnp.linspace(-1, 1, n) for n in shape), indexing="ij")
  ball = jnp.square(jnp.stack(axes)).sum(0) < 0.25
  half = ball & (axes[0] < 0)
  return [
    Program("next_click", ops.next_click, (half, ball), 1),
    Program(
      "next_click in the largest region",
      functools.partial(ops.next_click, largest=True),
      (half, ball),
      1,
    ),
    Program("connected_components", ops.connected_components, (ball,), 1),
  ]


def _plain(
  pictures: Pictures,
  widths: tuple[int, ...],
  num_classes: int,
  precision: nets.Precision = nets.Precision(),  # noqa: B008  immutable
) -> tuple[Step, Params]:
  net = nets.UNet(num_classes, widths, norm="none", activation="elu")
  model = nets.from_linen(precision.of(net))
  params, _ = model.init(jax.random.key(0), pictures[0][0])

  def loss_fn(params: Params, example: Pictures, key: Key) -> jax.Array:
    del key
    return losses.soft_dice(model.apply(params, example[0])[0], example[1])

  return methods.supervised(loss_fn, optax.adam(1e-3)), params
