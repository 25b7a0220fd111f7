"""A decoder that gives a mask a class from embeddings that are kept, and its linear rival.

Not a study: the networks of `experiments.sam_path`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import losses, metrics, nets, rng
from medjax.nets.attention import Neck
from medjax.types import Array, Key, Params, PyTree


class Kind(NamedTuple):
  """What an arm reads, and what of it is trained.

  Attributes:
    seen: names of the embeddings, side by side.
    head: "decoder", or "linear" without neck and decoder.
    trains: False leaves it as it starts.
  """

  seen: tuple[str, ...] = ("segmenter", "tissue")
  head: str = "decoder"
  trains: bool = True


class Head:
  """Neck, class tokens and decoder on kept embeddings, or a linear map.

  Args:
    module: the segmenter, whose decoder is the start.
    params: its weights.
    num_classes: with the background.
    side: of the label maps.
  """

  def __init__(self, module: nets.PromptableSegmenter, params: Params, num_classes: int, side: int):
    assert isinstance(module.decoder, nets.MaskDecoder)
    self.decoder = module.decoder.clone(num_masks=num_classes)
    self.net = nets.promptable(module.clone(decoder=self.decoder))
    self.neck = Neck(module.decoder.width)
    self.params, self.num_classes, self.side = params, num_classes, side

  def start(self, kind: Kind, key: Key, embedding: np.ndarray) -> Params:
    """Every class has a copy of the first mask's filter; tokens, neck and rating are new."""
    if kind.head == "linear":
      return {"linear": jnp.zeros((embedding.shape[-1], self.num_classes))}
    width, trained = self.decoder.width, self.params["decoder"]
    neck: Any = jax.jit(self.neck.init)(rng.stream(key, "neck"), embedding)
    given = jnp.zeros((*embedding.shape[:2], width)), jnp.zeros((0, width)), jnp.zeros(0, bool)
    fresh: Any = jax.jit(self.decoder.init)(rng.stream(key, "tokens"), given[0], *given)
    own = dict(fresh["params"])
    own |= {k: x for k, x in trained.items() if k in own and k not in ("mask_tokens", "quality")}
    own |= {f"filter{k}": trained["filter0"] for k in range(self.num_classes)}
    own["quality"] = {**trained["quality"], "layer2": own["quality"]["layer2"]}
    return {"neck": neck["params"], "decoder": own}

  def answer(self, params: Params, embedding: Array) -> tuple[Array, Array]:
    """Logits [side, side, class] and the rating of each class."""
    if "linear" in params:
      logits, quality = embedding @ params["linear"], jnp.zeros(self.num_classes)
    else:
      seen: Any = self.neck.apply({"params": params["neck"]}, embedding)
      weights = {"prompts": self.params["prompts"], "decoder": params["decoder"]}
      logits, quality = self.net.decode(weights, seen, nets.no_prompt())
    return jax.image.resize(logits, (self.side, self.side, logits.shape[-1]), "linear"), quality

  def loss(self, params: Params, example: PyTree, key: Key) -> Array:
    del key
    return losses.class_masks(*self.answer(params, example["embedding"]), example["label"])

  def scores(self, params: Params, embedding: Array, label: Array) -> tuple[Array, ...]:
    """Dice and IoU of each class without the background, and the squared error of the rating."""
    logits, quality = self.answer(params, embedding)
    found = jnp.argmax(logits, -1).astype(jnp.int32)
    own = (f(found, label, num_classes=self.num_classes) for f in (metrics.dice, metrics.jaccard))
    dice, overlap = own
    return dice, overlap, jnp.nanmean(jnp.square(quality[1:] - overlap))
