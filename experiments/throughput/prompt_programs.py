"""A promptable segmenter: its encoder, its decoder, and trainings with and without the encoder."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.throughput.measuring import Program
from medjax import losses, methods, nets
from medjax.types import Array, Key, Params

_SIDES = {"mini": 64, "lite_medsam": 256}


def segmenter(size: str, num_images: int, num_prompts: int) -> list[Program]:
  """Rows of the mini segmenter, or of LiteMedSAM's architecture with random weights.

  The first row encodes images. A box is decoded on a kept embedding; the training of the decoder
  has the embeddings in its batch, that of the whole network encodes them anew.
  """
  is_lite = size == "lite_medsam"
  net = nets.promptable(nets.lite_medsam() if is_lite else nets.mini_promptable())
  side, channels = _SIDES[size], 3 if is_lite else 1
  images = jax.random.uniform(jax.random.key(0), (num_images, side, side, channels))
  params = net.init(jax.random.key(1), images[0])
  corners = side * jnp.array([0.2, 0.3, 0.6, 0.7])
  boxes = jax.vmap(nets.box_prompt)(corners + jnp.arange(num_prompts)[:, None])
  own = jax.vmap(nets.box_prompt)(corners + jnp.arange(num_images)[:, None])
  embed = jax.vmap(net.embed, (None, 0))
  embeddings = jax.jit(embed)(params, images)
  decode = jax.vmap(net.decode, (None, None, 0))
  masks = jax.jit(jax.vmap(net.decode, (None, 0, 0)))(params, embeddings, own).logits[..., 0] > 0

  def loss(logits: Array, mask: Array) -> Array:
    return losses.soft_dice(jnp.stack([jnp.zeros_like(logits), logits], -1), mask.astype(jnp.int32))

  def of_decoder(params: Params, example: Any, key: Key) -> Array:
    del key
    found = net.decode(params, example["embedding"], example["prompt"])
    return loss(found.logits[..., 0], example["mask"])

  def of_whole(params: Params, example: Any, key: Key) -> Array:
    del key
    return loss(
      net.apply(params, example["image"], example["prompt"]).logits[..., 0], example["mask"]
    )

  key, tx = jax.random.key(2), optax.adam(1e-3)
  decoder = {name: part for name, part in params.items() if name != "encoder"}
  kept = {"embedding": embeddings, "prompt": own, "mask": masks}
  whole = {"image": images, "prompt": own, "mask": masks}
  small, large = methods.supervised(of_decoder, tx), methods.supervised(of_whole, tx)
  return [
    Program("encoder", embed, (params, images), num_images),
    Program("decoder, one prompt", decode, (decoder, embeddings[0], _first(boxes)), 1),
    Program(
      f"decoder, {num_prompts} prompts", decode, (decoder, embeddings[0], boxes), num_prompts
    ),
    Program(
      "step of the decoder, kept embeddings",
      small.update,
      (small.init(decoder, key), kept, key),
      num_images,
    ),
    Program("step of all", large.update, (large.init(params, key), whole, key), num_images, 3.0),
  ]


def _first(prompts: Any) -> Any:
  return jax.tree.map(lambda x: x[:1], prompts)
