"""Matrices of inner products of gradients, of examples and of tasks, beside a plain gradient.

  python -m experiments.bench.gramian_bench [BATCH] [ROUNDS]        a minute at 64 9 on 2 CPU cores

Two networks: a perceptron with layers of 1,024 (its gradients are large, its pairs small), and four
convolutions on 32 x 32 pictures (the other way round). Rows: the plain gradient of the mean, the
sum of clipped gradients by the engine, the matrix by the engine, and the matrix from all gradients
formed by `jax.vmap`. A third network has the perceptron's layers as a trunk and a head for each of
8 tasks; its matrix is that of the tasks' gradients in the trunk, alone and with the gradient of the
weighted sum that a rule for disagreeing tasks asks for. Rounds run all rows in turn, so that ratios
compare like with like.

Prints one JSON object: network -> row -> {median_s, low_s, high_s, ratio, temporary_MiB}.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import grads, losses, nets
from medjax.types import Array, Key, Params, PyTree

WIDTHS = (1024, 1024)
CHANNELS = (16, 32, 32, 64)
NUM_TASKS, NUM_CLASSES = 8, 10


def perceptron(params: Params, image: Array) -> Array:
  """Logits of one image; `params` is a list of (weight, bias)."""
  x = image.ravel()
  for weight, bias in params[:-1]:
    x = jnp.tanh(x @ weight + bias)
  weight, bias = params[-1]
  return x @ weight + bias


def networks() -> dict[str, tuple[Params, Callable[[Params, Array], Array], tuple[int, ...]]]:
  """Name -> parameters, logits of one image, shape of an image."""
  sizes = (784, *WIDTHS, 10)
  keys = jax.random.split(jax.random.key(0), len(sizes))
  dense = [
    (jax.random.normal(key, (a, b)) / np.sqrt(a), jnp.zeros(b))
    for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=False)
  ]
  shape = (32, 32, 3)
  model = nets.from_linen(nets.SmallCNN(10, CHANNELS))
  params, _ = model.init(jax.random.key(1), jnp.zeros(shape))
  return {
    "perceptron": (dense, perceptron, (28, 28, 1)),
    "convolutions": (params, lambda p, image: model.apply(p, image)[0], shape),
  }


def rows(apply: Callable[[Params, Array], Array]) -> dict[str, Callable[..., Any]]:
  """Programs (params, batch, key) by name."""

  def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
    del key
    return losses.cross_entropy(apply(params, example["image"]), example["label"])

  def plain(params: Params, batch: PyTree, key: Key) -> Params:
    mean = lambda p: grads.batch_mean(lambda e, k: loss_fn(p, e, k), batch, key)  # noqa: E731
    return jax.grad(mean)(params)

  clipped = grads.clipped_sum(loss_fn, max_norm=1.0)
  return {
    "plain gradient": plain,
    "clipped sum": lambda p, batch, key: clipped(p, batch, key).grads,
    "gramian, engine": grads.gramian(loss_fn, method="ghost"),
    "gramian, all gradients": grads.gramian(loss_fn, method="vmap"),
  }


def of_tasks() -> tuple[Params, dict[str, Callable[..., Any]]]:
  """Parameters of a trunk and heads, and the rows of the tasks."""
  sizes = (784, *WIDTHS)
  keys = jax.random.split(jax.random.key(0), len(sizes))
  trunk = [
    (jax.random.normal(key, (a, b)) / np.sqrt(a), jnp.zeros(b))
    for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=False)
  ]
  heads = jax.random.normal(keys[-1], (NUM_TASKS, WIDTHS[-1], NUM_CLASSES)) / np.sqrt(WIDTHS[-1])

  def every(params: Params, example: PyTree, key: Key) -> Array:
    del key
    x = example["image"].ravel()
    for weight, bias in params["trunk"]:
      x = jnp.tanh(x @ weight + bias)
    costs = [
      losses.cross_entropy(x @ w, y)
      for w, y in zip(params["heads"], example["labels"], strict=True)
    ]
    return jnp.stack(costs)

  def plain(params: Params, batch: PyTree, key: Key) -> Params:
    total = lambda p: grads.batch_mean(lambda e, k: every(p, e, k).sum(), batch, key)  # noqa: E731
    return jax.grad(total)(params)

  def matrix(method: Any, has_sum: bool) -> Callable[..., Any]:
    of = grads.task_gradients(every, shared=lambda path: path.startswith("trunk"), method=method)

    def run(params: Params, batch: PyTree, key: Key) -> Any:
      found = of(params, batch, key)
      weights = jnp.ones(NUM_TASKS) / NUM_TASKS
      return (found.gramian, found.combined(weights, weights)) if has_sum else found.gramian

    return run

  return {"trunk": trunk, "heads": list(heads)}, {
    "plain gradient": plain,
    "gramian, engine": matrix("ghost", False),
    "gramian, all gradients": matrix("vmap", False),
    "gramian and weighted sum, engine": matrix("ghost", True),
    "gramian and weighted sum, all gradients": matrix("vmap", True),
  }


def measured(batch_size: int, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
  found = {}
  every = {
    name: (params, shape, rows(apply)) for name, (params, apply, shape) in networks().items()
  }
  params, functions = of_tasks()
  every["tasks"] = params, (28, 28, 1), functions
  for network, (params, shape, functions) in every.items():
    random = np.random.default_rng(0)
    batch = {
      "image": jnp.asarray(random.normal(size=(batch_size, *shape)), jnp.float32),
      "label": jnp.asarray(random.integers(0, NUM_CLASSES, batch_size)),
      "labels": jnp.asarray(random.integers(0, NUM_CLASSES, (batch_size, NUM_TASKS))),
    }
    key = jax.random.key(0)
    programs = {
      name: jax.jit(f).lower(params, batch, key).compile() for name, f in functions.items()
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(-1, rounds):
      for name, program in programs.items():
        began = time.perf_counter()
        jax.block_until_ready(program(params, batch, key))
        if repeat >= 0:
          times[name].append(time.perf_counter() - began)
    memory: dict[str, Any] = {name: programs[name].memory_analysis() for name in programs}
    found[network] = {
      name: {
        **summary(seconds, times["plain gradient"]),
        "temporary_MiB": memory[name].temp_size_in_bytes / 2**20,
      }
      for name, seconds in times.items()
    }
  return found


def summary(seconds: list[float], plain: list[float]) -> dict[str, float]:
  """Median and deciles of the seconds, and the median of the ratios within the rounds."""
  low, high = np.percentile(seconds, [10, 90])
  ratio = np.median(np.array(seconds) / np.array(plain))
  return {
    "median_s": float(np.median(seconds)),
    "low_s": float(low),
    "high_s": float(high),
    "ratio": float(ratio),
  }


if __name__ == "__main__":
  size, count = [int(word) for word in [*sys.argv[1:], "64", "9"][:2]]
  print(json.dumps({"batch": size, "rounds": count, "networks": measured(size, count)}))
