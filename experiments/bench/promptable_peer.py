"""A promptable segmenter beside the one of transformers in PyTorch, on CPUs, in one process.

  python -m experiments.bench.promptable_peer [ROUNDS] [SIDE]     wants torch and transformers

SAM's base size (86 million numbers in the encoder) with drawn weights on both sides, for one
picture of SIDE x SIDE (256), float32, two threads. The rounds are interleaved; the first one is not
counted. Rows, each in both libraries:

  embed           the encoder, once a picture
  box             the answer to one box on a kept embedding
  eight boxes     eight boxes in one program, on one kept embedding
  kept update     gradient of the decoder for one picture on its kept embedding
  whole update    the same where the frozen encoder runs in every update

Prints one JSON object: row -> library -> {median_s, low_s, high_s, ratio}, ratios to PyTorch's
seconds of the same row; and kept_share: seconds of "kept update" over those of "whole update".
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.gramian_bench import summary
from experiments.bench.origins import origin
from experiments.grouped_prompts import mask_loss
from medjax import nets
from medjax.types import Array, Params

Runs = dict[str, Callable[[], Any]]
BOXES = np.array([[20 + 5 * i, 30, 120 + 10 * i, 150] for i in range(8)], np.float32)


def in_torch(torch: Any, transformers: Any, side: int) -> Runs:
  """SAM of transformers; its decoder trains, its encoder and prompt encoder do not."""
  config = transformers.SamConfig()
  config.vision_config.image_size = side
  config.prompt_encoder_config.image_size = side
  config.prompt_encoder_config.image_embedding_size = side // 16
  model = transformers.SamModel(config).eval()
  model.requires_grad_(False)
  model.mask_decoder.requires_grad_(True)
  image = torch.rand(1, 3, side, side)
  mask = (torch.rand(side, side) > 0.5).float()
  boxes = torch.tensor(BOXES)[None]
  with torch.no_grad():
    kept = model.get_image_embeddings(image)

  def embed() -> Any:
    with torch.no_grad():
      return model.get_image_embeddings(image)

  def answer(asked: Any, seen: Any) -> Any:
    out = model(image_embeddings=seen, input_boxes=asked, multimask_output=False)
    return out.pred_masks[0, :, 0]

  def asked(count: int) -> Any:
    with torch.no_grad():
      return answer(boxes[:, :count], kept)

  def update(seen: Any) -> float:
    functional = torch.nn.functional
    logits = answer(boxes[:, :1], seen)[None]
    large = functional.interpolate(logits, (side, side), mode="bilinear")[0, 0]
    share = large.sigmoid()
    overlap = (2 * (share * mask).sum() + 1) / (share.sum() + mask.sum() + 1)
    loss = 1 - overlap + functional.binary_cross_entropy_with_logits(large, mask)
    model.zero_grad()
    loss.backward()
    return loss.item()

  return {
    "embed": embed,
    "box": lambda: asked(1),
    "eight boxes": lambda: asked(8),
    "kept update": lambda: update(kept),
    "whole update": lambda: update(embed()),
  }


def in_medjax(side: int) -> Runs:
  """The same size of `nets.sam_vit_b` on the grid of this picture."""
  base = nets.sam_vit_b()
  encoder: Any = base.encoder
  net = nets.promptable(base.clone(encoder=encoder.clone(grid=(side // 16, side // 16))))
  random = np.random.default_rng(0)
  image = jnp.asarray(random.random((side, side, 3)), jnp.float32)
  mask = jnp.asarray(random.random((side, side)) > 0.5)
  params = net.init(jax.random.key(0), image)
  rest = {"prompts": params["prompts"]}
  boxes = jnp.asarray(BOXES)
  embed = jax.jit(net.embed)
  kept = embed(params, image)
  asked = jax.vmap(nets.box_prompt)(boxes)
  one = jax.tree.map(lambda x: x[0], asked)
  answer = jax.jit(net.decode)
  several = jax.jit(jax.vmap(net.decode, (None, None, 0)))

  def loss(decoder: Params, seen: Array) -> Array:
    out = net.decode({**rest, "decoder": decoder}, seen, one)
    return mask_loss(out.logits[..., 0], mask)

  kept_update = jax.jit(jax.value_and_grad(loss))
  whole_update = jax.jit(
    lambda whole: jax.value_and_grad(loss)(whole["decoder"], net.embed(whole, image))
  )
  runs: Runs = {
    "embed": lambda: embed(params, image),
    "box": lambda: answer(params, kept, one),
    "eight boxes": lambda: several(params, kept, asked),
    "kept update": lambda: kept_update(params["decoder"], kept),
    "whole update": lambda: whole_update(params),
  }
  return {name: lambda run=run: jax.block_until_ready(run()) for name, run in runs.items()}


def measured(rounds: int, side: int) -> dict[str, Any]:
  torch = importlib.import_module("torch")
  torch.set_num_threads(2)
  sides = {
    "torch": in_torch(torch, importlib.import_module("transformers"), side),
    "medjax": in_medjax(side),
  }
  seconds: dict[str, dict[str, list[float]]] = {
    row: {name: [] for name in sides} for row in sides["torch"]
  }
  for repeat in range(-1, rounds):
    for row, own in seconds.items():
      for name, runs in sides.items():
        began = time.perf_counter()
        runs[row]()
        if repeat >= 0:
          own[name].append(time.perf_counter() - began)
  rows = {
    row: {name: summary(own[name], own["torch"]) for name in sides} for row, own in seconds.items()
  }
  shares = {
    name: rows["kept update"][name]["median_s"] / rows["whole update"][name]["median_s"]
    for name in sides
  }
  return {"rows": rows, "kept_share": shares}


def main(rounds: int, side: int) -> None:
  head = origin("promptable_peer", rounds, side, peers=("torch", "transformers"))
  record = head | {"rounds": rounds, **measured(rounds, side)}
  print(json.dumps(record, indent=1))


if __name__ == "__main__":
  words = [int(word) for word in sys.argv[1:]]
  main(*[*words, *(9, 256)[len(words) :]])
