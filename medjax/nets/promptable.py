"""A segmenter that is asked by prompts: an encoder, once an image, and a decoder, once a prompt.

Kirillov et al., "Segment Anything" (2023); Ma et al., "Segment Anything in Medical Images" (2024).
The encoder costs a hundred times what the decoder costs: its embedding is kept, and prompts are
answered, decoders trained, or prompts improved by gradients on kept embeddings.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.errors
import jax
from flax import linen as nn
from jaxtyping import Array, Float

from medjax import check
from medjax.nets.import_torch import TorchNames
from medjax.nets.mask_decoder import MaskDecoder, MaskOutput
from medjax.nets.prompt_encoder import IGNORED, PromptEncoder, Prompts, no_prompt
from medjax.nets.tiny_vit import TinyViT
from medjax.nets.vit import ViT
from medjax.types import Key, Params


class PromptableSegmenter(nn.Module):
  """Joins an encoder, a prompt encoder and a decoder.

  Attributes:
    encoder: image [height, width, channel] -> embedding [height / stride, width / stride, width].
    prompts: of that width.
    decoder: of that width; any module with the call of `MaskDecoder`.
    stride: pixels of the image beside one of the embedding.
  """

  encoder: nn.Module
  prompts: PromptEncoder
  decoder: nn.Module
  stride: int

  def __call__(
    self, image: Float[Array, "height width channel"], prompts: Prompts | None = None
  ) -> MaskOutput:
    """Masks of [4 height / stride, 4 width / stride] pixels; without a prompt of what it likes."""
    return self.decode(self.embed(image), no_prompt() if prompts is None else prompts)

  def embed(self, image: Float[Array, "height width channel"]) -> Float[Array, "h w feature"]:
    """The embedding of an image, for as many prompts as one likes."""
    height, width, _ = image.shape
    check.require(
      height % self.stride == 0 and width % self.stride == 0,
      f"an image whose sides {self.stride} divides",
      f"{height} x {width}",
      "pad it right and below",
    )
    return self.encoder(image)

  def decode(self, embedding: Float[Array, "h w feature"], prompts: Prompts) -> MaskOutput:
    """The answer to one prompt; only the parameters "prompts" and "decoder" are looked at."""
    shape = (embedding.shape[0], embedding.shape[1])
    image_shape = (shape[0] * self.stride, shape[1] * self.stride)
    sparse, dense, positions = self.prompts(prompts, shape, image_shape)
    return self.decoder(embedding + dense, positions, sparse, prompts.labels != IGNORED)

  def torch_names(self) -> TorchNames:
    """Names of the released code of SAM, MedSAM and LiteMedSAM."""
    modules, folds, layouts = {}, {}, {}
    parts = {"encoder": "image_encoder", "prompts": "prompt_encoder", "decoder": "mask_decoder"}
    for own, theirs in parts.items():
      found = getattr(self, own).torch_names()
      modules |= {f"{own}/{a}": f"{theirs}.{b}" for a, b in found.modules.items()}
      folds |= {f"{theirs}.{a}": f"{theirs}.{b}" for a, b in found.folds.items()}
      layouts |= {f"{own}/{a}": layout for a, layout in found.layouts.items()}
    side = 64 * self.stride  # any size gives the same parameters
    image = jax.ShapeDtypeStruct((side, side, 3), "float32")
    return TorchNames(modules, folds, layouts=layouts, inputs=(image,))


class Promptable(NamedTuple):
  """A promptable segmenter as pure functions, each of ONE image and ONE prompt.

  Attributes:
    init: `init(key, image) -> params`, {"encoder", "prompts", "decoder"}.
    embed: `embed(params, image) -> embedding`; InputError for an image of other channels.
    decode: `decode(params, embedding, prompts) -> MaskOutput`; `params` needs no "encoder".
    apply: both: `apply(params, image, prompts) -> MaskOutput`.
  """

  init: Callable[[Key, jax.Array], Params]
  embed: Callable[[Params, jax.Array], jax.Array]
  decode: Callable[[Params, jax.Array, Prompts], MaskOutput]
  apply: Callable[[Params, jax.Array, Prompts], MaskOutput]


def promptable(module: PromptableSegmenter) -> Promptable:
  """The functions of a segmenter.

  >>> net = promptable(mini_promptable())
  >>> image = jax.ShapeDtypeStruct((64, 64, 1), "float32")
  >>> params = jax.eval_shape(net.init, jax.random.key(0), image)
  >>> embedding = jax.eval_shape(net.embed, params, image)
  >>> corners = jax.ShapeDtypeStruct((5, 2, 2), "float32")
  >>> labels = jax.ShapeDtypeStruct((5, 2), "int32")
  >>> many = jax.vmap(net.decode, (None, None, 0))  # five prompts, one embedding
  >>> jax.eval_shape(many, params, embedding, Prompts(corners, labels)).logits.shape
  (5, 32, 32, 4)
  """

  call: Callable[..., Any] = module.apply  # without mutable collections it gives the output alone

  @jax.jit  # one program instead of one for every operation of the network
  def init(key: Key, image: jax.Array) -> Params:
    return module.init(key, image)["params"]

  def embed(params: Params, image: jax.Array) -> jax.Array:
    try:
      return call({"params": params}, image, method="embed")
    except flax.errors.ScopeParamShapeError as error:
      raise check.InputError(
        "an image of the channels of the weights, or the weights of this network",
        f"{image.shape}: {str(error).partition(' (https')[0]}",
        "repeat a grey picture or average a colour one, as `inference.Prompted` does",
      ) from error

  def decode(params: Params, embedding: jax.Array, prompts: Prompts) -> MaskOutput:
    return call({"params": params}, embedding, prompts, method="decode")

  def apply(params: Params, image: jax.Array, prompts: Prompts) -> MaskOutput:
    return call({"params": params}, image, prompts)

  return Promptable(init, embed, decode, apply)


def mini_promptable(*, num_masks: int = 4) -> PromptableSegmenter:
  """A segmenter for pictures of about 64 x 64 that two CPU cores train in minutes.

  Convolutions before the transformer make it look at the picture early: asked by one click on
  simulated shapes, the sum of Dice loss and cross-entropy stood at .15 after 200 updates of 8
  pictures and at .12 after 400, where patches that are one matrix product stood at .58, what the
  click alone allows. Beside two others of about its 300,000 numbers (seconds of the processor an
  update, losses after 200 and 400 updates):

    this one                                          .045  .154  .116
    stem of two convolutions, stride 4                .22   .128  .073
    TinyViT((16, 32, 64), (1, 1, 2), ...), stride 4   .41   .206  .103

  Masks have half the sides of the picture, which is the rest of the loss. These pictures show one
  object each, so that a prompt need not be read. Where it alone tells which of four objects is
  meant, 1,000 updates, four of five with boxes, reach a Dice of .65 with the object's box and .09
  with another one's; the box itself has .58.
  """
  return PromptableSegmenter(
    encoder=ViT(
      patch=8,
      width=64,
      depth=2,
      num_heads=4,
      grid=(8, 8),
      out_width=64,
      mlp_ratio=2,
      stem=(32, 64, 64),
    ),  # fmt: skip
    prompts=PromptEncoder(width=64, mask_width=8),
    decoder=MaskDecoder(width=64, num_masks=num_masks, num_heads=4, mlp_width=128),
    stride=8,
  )


def lite_medsam() -> PromptableSegmenter:
  """LiteMedSAM, for [256, 256, 3] in [0, 1]: the longer side scaled to 256, then padded by zeros.

  Weights: lite_medsam.pth of its authors, by `import_torch`. It was trained with boxes; clicks do
  not work without a training of one's own. Boxes are in pixels of the 256 x 256.
  """
  return PromptableSegmenter(
    encoder=TinyViT(), prompts=PromptEncoder(), decoder=MaskDecoder(), stride=4
  )


def sam_vit_b() -> PromptableSegmenter:
  """The base size of SAM and MedSAM, for [1024, 1024, 3]."""
  encoder = ViT(
    patch=16,
    width=768,
    depth=12,
    num_heads=12,
    grid=(64, 64),
    out_width=256,
    window=14,
    global_blocks=(2, 5, 8, 11),
    has_relative=True,
  )
  return PromptableSegmenter(
    encoder=encoder, prompts=PromptEncoder(), decoder=MaskDecoder(), stride=16
  )
