"""What exact clipping and hypergradients cost the compiler, as multiples of the plain gradient.

  python -m experiments.bench.compile_times [ROUNDS]     3 rounds; about 8 minutes on 2 CPU cores

Four small networks, batch 8: a 2D U-Net on 64 x 64, a 3D U-Net on 16 x 16 x 16, a transformer over
patches and a recurrent network over 24 steps. Each program is traced, lowered and compiled from
nothing (no cache on the disk, JAX's own caches emptied), in turn, ROUNDS times. Nothing is run. The
figures are seconds of the PROCESSOR, all threads together, so that other work on the machine hardly
changes them.

Rows: "plain" is the gradient of the mean loss; "clipped" is `grads.clipped_sum` as it comes;
"clipped, vmap" forms all gradients; "clipped, chunk 2" works through the batch in four chunks,
which a CPU runs one after the other in one program where the network has convolutions;
"hypergradient" is one of a shift of the pictures, through one step of SGD.

Prints one JSON object: network -> row -> {median_s, low_s, high_s, ratio}.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.gramian_bench import summary
from medjax import grads, losses, nets
from medjax.types import Array, Key, Params

_BATCH = 8
_CLASSES = 3


class Recurrent(nn.Module):
  """A GRU over the rows of a picture, and a linear map of its last state."""

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    del train
    states = jnp.asarray(nn.RNN(nn.GRUCell(32))(x[..., 0]))
    return nn.Dense(_CLASSES)(states[..., -1, :])


class Transformer(nn.Module):
  """Patches of a picture through two blocks, and a linear map of their mean."""

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    del train
    x = nets.ViT(patch=8, width=48, depth=2, num_heads=4, grid=(8, 8))(x)
    return nn.Dense(_CLASSES)(x.reshape(-1, x.shape[-1]).mean(0))


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...]]]:
  """Name -> (network, shape of a picture with channels, shape of its label)."""
  return {
    "2D U-Net": (nets.UNet(_CLASSES, (8, 16, 32), norm="group"), (64, 64, 1), (64, 64)),
    "3D U-Net": (nets.UNet(_CLASSES, (8, 16), norm="group"), (16, 16, 16, 1), (16, 16, 16)),
    "transformer": (Transformer(), (64, 64, 3), ()),
    "recurrent": (Recurrent(), (24, 16, 1), ()),
  }


def programs(
  module: nn.Module, shape: tuple[int, ...], label: tuple[int, ...]
) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
  """Row -> (function, its arguments); the first is the plain gradient."""
  model = nets.from_linen(module)
  random = np.random.default_rng(0)
  images = random.random((_BATCH, *shape)).astype(np.float32)
  labels = random.integers(0, _CLASSES, (_BATCH, *label))
  params, _ = model.init(jax.random.key(0), images[0])
  batch, key = (jnp.asarray(images), jnp.asarray(labels)), jax.random.key(1)

  def loss_fn(params: Params, example: tuple[Array, Array], key: Key) -> Array:
    del key
    image, label = example
    return losses.cross_entropy(model.apply(params, image)[0], label)

  def mean(params: Params, batch: tuple[Array, Array], key: Key) -> Array:
    return jax.vmap(loss_fn, (None, 0, None))(params, batch, key).mean()

  def shifted(params: Params, theta: Array, example: tuple[Array, Array], key: Key) -> Array:
    image, label = example
    return loss_fn(params, (image + theta, label), key)

  tx = optax.sgd(0.1)
  hyper = grads.hypergradient(shifted, loss_fn, tx)
  return {
    "plain": (jax.grad(mean), (params, batch, key)),
    "clipped": (grads.clipped_sum(loss_fn, 1.0), (params, batch, key)),
    "clipped, vmap": (grads.clipped_sum(loss_fn, 1.0, method="vmap"), (params, batch, key)),
    "clipped, chunk 2": (grads.clipped_sum(loss_fn, 1.0, chunk=2), (params, batch, key)),
    "hypergradient": (
      hyper,
      (jnp.zeros(()), params, tx.init(params), jax.tree.map(lambda x: x[None], batch), batch, key),
    ),
  }


def seconds(fn: Callable[..., Any], args: tuple[Any, ...]) -> float:
  """Seconds of the processor until the program of `fn` stands, from nothing."""
  jax.clear_caches()
  began = time.process_time()
  jax.jit(fn).lower(*args).compile()
  return time.process_time() - began


def main(arguments: list[str]) -> None:
  rounds = int(arguments[0]) if arguments else 3
  jax.config.update("jax_enable_compilation_cache", False)
  found: dict[str, Any] = {}
  for name, network in networks().items():
    rows = programs(*network)
    times: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(rounds):
      for row, (fn, args) in rows.items():
        times[row].append(seconds(fn, args))
    found[name] = {row: summary(own, times["plain"]) for row, own in times.items()}
    print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
  print(json.dumps({"device": jax.devices()[0].device_kind, "jax": jax.__version__, "rows": found}))


if __name__ == "__main__":
  main(sys.argv[1:])
