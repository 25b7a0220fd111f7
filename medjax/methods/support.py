"""Training a network to segment what a support shows: UniverSeg's meta-training.

Butoi et al., "UniverSeg: Universal Medical Image Segmentation" (2023). Each example is a problem:

  stream = data.support_problems(families, num_support=8, batch_size=4, seed=0)
  render = functools.partial(synth.render_problem, generator)
  step = methods.supervised(support.support_loss(net.apply, render), optax.adam(1e-3))
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from medjax import losses
from medjax.types import Key, LossFn, Params, PyTree

Render = Callable[[Key, PyTree], tuple[Array, Array]]
"""`render(key, example) -> (images [1 + pair, *space, channel], masks [1 + pair, *space])`, the
query first."""


def mask_loss(logits: Float[Array, "*space"], mask: Shaped[Array, "*mask_space"]) -> Array:
  """Soft Dice of the structure and cross-entropy of its sigmoid, one scalar.

  >>> mask_loss(jnp.full((4, 4), 20.0), jnp.ones((4, 4))).round(3).item()
  0.0
  """
  # Of two classes with the logits 0 and l the softmax of the second is the sigmoid of l.
  pair = jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
  label = mask.astype(jnp.int32)
  dice = losses.soft_dice(pair, label, include_background=False)
  return dice + losses.cross_entropy(pair, label)


def support_loss(apply: Callable[..., Any], render: Render) -> LossFn:
  """`loss_fn(params, example, key)`: `mask_loss` of the query, given the others.

  Args:
    apply: `apply(params, query, images, masks) -> logits [*space]`.
    render: images and masks of a problem; `synth.render_problem` with your generator, or a
      function that augments images of your own.
  """

  def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
    images, masks = render(key, example)
    return mask_loss(apply(params, images[0], images[1:], masks[1:]), masks[0])

  return loss_fn
