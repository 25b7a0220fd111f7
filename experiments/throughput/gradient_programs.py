"""Matrices of inner products of gradients, and rules that join the gradients of tasks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.throughput.measuring import Program
from medjax import grads, losses, nets
from medjax.types import Array, Key, Params

_CHANNELS = (16, 32, 32, 64)
_RULES = ("mean", "pcgrad", "cagrad", "mgda", "graddrop", "imtl_g", "nash_mtl", "aligned_mtl",
          "upgrad", "config")  # fmt: skip


def matrices(num_examples: int) -> list[Program]:
  """A plain gradient of four convolutions, then what is asked of each example's own."""
  model = nets.from_linen(nets.SmallCNN(10, _CHANNELS))
  key = jax.random.key(0)
  batch = {
    "image": jax.random.normal(key, (num_examples, 32, 32, 3)),
    "label": jax.random.randint(key, (num_examples,), 0, 10),
  }
  params, _ = model.init(jax.random.key(1), batch["image"][0])

  def loss_fn(params: Params, example: Any, key: Key) -> Array:
    del key
    return losses.cross_entropy(model.apply(params, example["image"])[0], example["label"])

  def plain(params: Params, batch: Any, key: Key) -> Params:
    return jax.grad(lambda p: grads.batch_mean(lambda e, k: loss_fn(p, e, k), batch, key))(params)

  dots = grads.per_sample_dot(loss_fn)
  rows = {
    "plain gradient": plain,
    "clipped sum": lambda p, b, k: grads.clipped_sum(loss_fn, 1.0)(p, b, k).grads,
    "products with a direction": lambda p, b, k: dots(p, b, k, p),
    "all gradients": lambda p, b, k: grads.per_sample(loss_fn)(p, b, k).grads,
    "matrix of products, engine": grads.gramian(loss_fn, method="ghost"),
    "matrix of products, all gradients": grads.gramian(loss_fn, method="vmap"),
  }
  return [
    Program(name, fn, (params, batch, key), num_examples, None if name == "plain gradient" else 1.0)
    for name, fn in rows.items()
  ]


def rules(num_tasks: int, num_parameters: int) -> list[Program]:
  """Each rule on the same gradients; the mean, which only reads them, is the first."""
  gradients = jax.random.normal(jax.random.key(0), (num_tasks, num_parameters))
  args = (jnp.asarray(gradients), jax.random.key(1))
  chosen = {name: getattr(grads.combine, name)() for name in _RULES}
  return [
    Program(name, functools.partial(_joined, rule), args, num_tasks, 1.0)
    for name, rule in chosen.items()
  ]


def _joined(rule: grads.combine.Combiner, gradients: Array, key: Key) -> Array:
  return rule(gradients, key)
