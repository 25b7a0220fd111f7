"""Maps of where a classifier looked, beside one forward pass over the same images."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.throughput.measuring import Program
from medjax import explain, nets
from medjax.types import Array, Params

_STEPS = 16  # gradients of a path
_BACKGROUND = 8  # images that stand for the population
_WINDOW = 8  # of occlusion, in pixels
_SHAPE = (32, 32, 1)


def classifier(num_images: int) -> list[Program]:
  """Rows for a small convolutional network on 32 x 32 pictures.

  A forward pass is one pass over the network and a gradient in the image two; so the floors are
  twice the gradients of a path, and the windows of an occlusion with the uncovered image.
  """
  module = nets.SmallCNN(2, (16, 32, 32, 64))
  images = jax.random.uniform(jax.random.key(0), (num_images, *_SHAPE))
  background = jax.random.uniform(jax.random.key(1), (_BACKGROUND, *_SHAPE))
  params = jax.jit(module.init)(jax.random.key(2), images[0])["params"]
  seen, rest = (cut(module, "GroupNorm_1") for cut in (nets.features, nets.from_features))

  def score(params: Params, image: Array) -> Array:
    logits: Any = module.apply({"params": params}, image)
    return logits[1]

  def gradcam(params: Params, image: Array) -> Array:
    return explain.gradcam(lambda a: rest(params, a, image)[1], seen(params, image))

  def of_path(params: Params, image: Array) -> Array:
    blank, own = jnp.zeros_like(image), lambda x: score(params, x)
    return explain.integrated_gradients(own, image, blank, num_steps=_STEPS).values

  def of_population(params: Params, image: Array) -> Array:
    own = lambda x: score(params, x)  # noqa: E731
    return explain.expected_gradients(own, image, background, num_steps=_STEPS // 2).values

  def covered(params: Params, image: Array) -> Array:
    return explain.occlusion(lambda x: score(params, x), image, window=_WINDOW)

  windows = (_SHAPE[0] // _WINDOW) * (_SHAPE[1] // _WINDOW)
  rows = {
    "forward": (score, 1.0),
    "gradient in the image": (jax.grad(score, argnums=1), 2.0),
    "GradCAM": (gradcam, None),
    f"occlusion, {windows} windows": (covered, windows + 1.0),
    f"integrated gradients, {_STEPS} steps": (of_path, 2.0 * _STEPS),
    f"expected gradients, {_BACKGROUND} x {_STEPS // 2}": (
      of_population,
      1.0 * _BACKGROUND * _STEPS,
    ),
  }
  return [
    Program(name, jax.vmap(fn, (None, 0)), (params, images), num_images, floor)
    for name, (fn, floor) in rows.items()
  ]
