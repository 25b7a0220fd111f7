"""Plain gradients beside clipped sums of per-example gradients, at several chunk sizes.

Rows "plain, chunk C" sum the plain gradient over chunks of C; the fastest of them is what the rest
is held against. jax-privacy joins where it is installed (extra `bench`).
"""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.throughput.measuring import Program
from medjax import grads, losses, nets
from medjax.grads.clipping import after
from medjax.types import Model

_MAX_NORM = 1.0


def resnet(num_examples: int, chunks: Sequence[int]) -> list[Program]:
  """ResNet9 on 32 x 32 x 3 images: plain, clipped, clipped and filtered, vmap, jax-privacy."""
  model = nets.from_linen(nets.ResNet9(num_outputs=10))
  image_key, label_key = jax.random.split(jax.random.key(0))
  images = jax.random.normal(image_key, (num_examples, 32, 32, 3))
  labels = jax.random.randint(label_key, (num_examples,), 0, 10)
  args = _arguments(model, (images, labels))
  sizes = [c for c in chunks if c <= num_examples]
  smallest = sizes[-1]
  programs = [_plain(model, args, chunk) for chunk in sizes]
  programs += [_clipped(model, args, chunk) for chunk in sizes]
  programs += [_clipped(model, args, smallest, with_filter=True)]
  programs += [_clipped(model, args, num_examples, method="vmap")]
  return programs + _jax_privacy(model, args)


def unet(num_examples: int, shape: tuple[int, ...]) -> list[Program]:
  """3D U-Net 8-16-32 with GroupNorm and transposed convolutions."""
  network = nets.UNet(num_outputs=3, widths=(8, 16, 32), norm="group", upsample="transpose")
  model = nets.from_linen(network)
  image_key, label_key = jax.random.split(jax.random.key(0))
  images = jax.random.normal(image_key, (num_examples, *shape, 1))
  labels = jax.random.randint(label_key, (num_examples, *shape), 0, 3)
  args = _arguments(model, (images, labels))
  sizes = [c for c in (8, 4, 2, 1) if c <= num_examples]
  programs = [_plain(model, args, chunk) for chunk in sizes]
  programs += [_clipped(model, args, chunk) for chunk in sizes]
  return [*programs, _clipped(model, args, sizes[-1], method="vmap")]


def _arguments(model: Model, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
  params, _ = model.init(jax.random.key(1), batch[0][0])
  return params, batch, jax.random.key(2)


def _loss(model: Model) -> Any:
  def loss(params: Any, example: Any, key: Any) -> jax.Array:
    del key
    return losses.cross_entropy(model.apply(params, example[0])[0], example[1])

  return loss


def _plain(model: Model, args: tuple[Any, ...], chunk: int) -> Program:
  loss, size = _loss(model), args[1][1].shape[0]

  def run(params: Any, batch: Any, key: Any) -> Any:
    def total(params: Any, part: Any) -> jax.Array:
      return jax.vmap(loss, (None, 0, None))(params, part, key).sum()

    gradient = None
    for first in range(0, size, chunk):
      part = jax.tree.map(lambda x: x[first : first + chunk], batch)  # noqa: B023
      if gradient is None:
        gradient = jax.grad(total)(params, part)
      else:
        new = jax.grad(total)(params, after(gradient, part))
        gradient = jax.tree.map(jnp.add, gradient, new)
    return gradient

  return Program(f"plain, chunk {chunk}", run, args, size)


def _clipped(
  model: Model,
  args: tuple[Any, ...],
  chunk: int,
  *,
  method: Any = "auto",
  with_filter: bool = False,
) -> Program:
  clipped = grads.clipped_sum(_loss(model), _MAX_NORM, method=method, chunk=chunk)

  def run(params: Any, batch: Any, key: Any) -> Any:
    if not with_filter:
      return clipped(params, batch, key).grads
    aligned = lambda norm, dot: (dot > 0).astype(jnp.float32)  # noqa: E731
    return clipped(params, batch, key, direction=params, weight_fn=aligned).grads

  name = f"{'vmap' if method == 'vmap' else 'clipped'}, chunk {chunk}"
  if with_filter:
    name = f"clipped + filter, chunk {chunk}"
  return Program(name, run, args, args[1][1].shape[0], floor=1.0)


def _jax_privacy(model: Model, args: tuple[Any, ...]) -> list[Program]:
  if importlib.util.find_spec("jax_privacy") is None:
    return []
  peer = importlib.import_module("jax_privacy")
  loss = _loss(model)
  clipped = peer.clipped_grad(
    lambda params, image, label: loss(params, (image[0], label[0]), None),
    l2_clip_norm=_MAX_NORM,
    batch_argnums=(1, 2),
  )

  def run(params: Any, batch: Any, key: Any) -> Any:
    del key
    return clipped(params, *batch)

  return [Program("jax-privacy clipped_grad", run, args, args[1][1].shape[0], floor=1.0)]
