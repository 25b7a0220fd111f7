"""Cosines of per-example gradients, by which memories choose cases, four ways in one process.

  python -m experiments.bench.gradient_scores [BATCH] [SIDE] [ROUNDS]   3 minutes at 64, 32

Rows: an unjitted loop over batches of one, which is how common continual-learning libraries score;
the same loop jitted; vmapped gradients in chunks, kept whole; sketches of them (`grads.sketch`). A
2D U-Net of widths 8, 16, 32, sketches of 256. Prints one JSON object: row -> {wall_ms, low_ms,
high_ms, cpu_ms, ratio, bytes}: medians over interleaved rounds, 10th and 90th percentile, the ratio
of wall times to the first row's, and the bytes that must be kept of a batch to compare it later.
"""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.distance_bench import measure
from medjax import grads, losses, nets, tree
from medjax.grads.sketch import sketched

SIZE = 256
_CHUNK = 16
KEY = jax.random.key(0)


def problem(batch_size: int, side: int) -> tuple[Callable[..., jax.Array], Any, dict[str, Any]]:
  """Loss, parameters and a batch of random images."""
  model = nets.from_linen(nets.UNet(2, (8, 16, 32)))
  random = np.random.default_rng(0)
  image = random.normal(size=(batch_size, side, side, 1)).astype(np.float32)
  batch = {"image": image, "label": (image[..., 0] > 1).astype(np.int32)}
  params, _ = model.init(KEY, image[0])

  def loss(params: Any, example: Any, key: jax.Array) -> jax.Array:
    del key
    return losses.soft_dice(model.apply(params, example["image"])[0], example["label"])

  return loss, params, batch


def whole(loss: Callable[..., jax.Array], params: Any, batch: Any) -> jax.Array:
  """[batch, batch] cosines of gradients that are all in memory."""
  found = grads.per_sample(loss, microbatch=_CHUNK)(params, batch, KEY).grads
  return cosines(jnp.concatenate([g.reshape(len(g), -1) for g in jax.tree.leaves(found)], 1))


def short(loss: Callable[..., jax.Array], params: Any, batch: Any) -> jax.Array:
  """The same from sketches."""
  return cosines(sketched(loss, size=SIZE, microbatch=_CHUNK)(params, batch, KEY, KEY))


def cosines(rows: jax.Array) -> jax.Array:
  unit = rows / jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
  return unit @ unit.T


def rows(batch_size: int, side: int) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
  """What to time, and the bytes that each keeps of a batch."""
  loss, params, batch = problem(batch_size, side)
  gradient = functools.partial(jax.grad(loss), key=KEY)
  compiled = jax.jit(gradient)
  by_whole, by_short = (jax.jit(functools.partial(f, loss)) for f in (whole, short))

  def loop(one: Callable[..., Any]) -> jax.Array:
    found = []
    for i in range(batch_size):
      leaves = jax.tree.leaves(one(params, jax.tree.map(lambda x, i=i: x[i], batch)))
      found.append(np.concatenate([np.asarray(leaf).ravel() for leaf in leaves]))
    return cosines(jnp.asarray(np.stack(found)))

  everything = 4 * batch_size * tree.size(params)
  return {
    "loop over batches of one": lambda: loop(gradient),
    "the same, jitted": lambda: loop(compiled),
    "gradients, chunked vmap": lambda: by_whole(params, batch),
    f"sketches of {SIZE}": lambda: by_short(params, batch),
  }, dict(
    zip(
      ("loop over batches of one", "the same, jitted", "gradients, chunked vmap"),
      (everything,) * 3,
      strict=True,
    )
  ) | {f"sketches of {SIZE}": 4 * batch_size * SIZE}


def main(arguments: Sequence[str]) -> None:
  batch_size, side, num_rounds = [int(x) for x in arguments] + [64, 32, 9][len(arguments) :]
  functions, kept = rows(batch_size, side)
  table = measure(functions, num_rounds)
  table = {name: {**figures, "bytes": kept[name]} for name, figures in table.items()}
  print(json.dumps({"device": jax.devices()[0].device_kind, **table}, indent=2))


if __name__ == "__main__":
  main(sys.argv[1:])
