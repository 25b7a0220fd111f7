"""Masks from an image's embedding and the tokens of a prompt, by attention in both directions.

Kirillov et al., "Segment Anything" (2023). A token for each mask, one for the estimate of quality
and those of the prompt read the image, and the image reads them; then each mask token, through a
small network of its own, becomes the weights of a 1x1 convolution over the enlarged embedding:

  mask_k(x, y) = <h_k(token_k), up(embedding)(x, y)>,   quality = MLP(quality token)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from medjax.nets.attention import Attention, TokenMLP, layer_norm
from medjax.nets.import_torch import TorchNames

_TORCH_EPSILON = 1e-5  # of PyTorch's LayerNorm


class MaskOutput(NamedTuple):
  """Masks for one prompt.

  Attributes:
    logits: [4 h, 4 w, mask]; above 0 is inside. Of SAM's four the first is for prompts that leave
      no doubt, the others are for whole, part and sub-part.
    quality: [mask], the network's own estimate of each mask's intersection over union.
  """

  logits: Array
  quality: Array


class TokenDecoder(nn.Module):
  """What the decoders of masks begin with: tokens of their own read prompt and image.

  Attributes:
    width: channels of embedding and tokens, divisible by 8 and by twice `num_heads`.
    num_masks: masks a prompt; as many as classes for answers without a prompt.
    depth, num_heads, mlp_width: of the transformer.
  """

  width: int = 256
  num_masks: int = 4
  depth: int = 2
  num_heads: int = 8
  mlp_width: int = 2048

  def read(
    self,
    embedding: Float[Array, "h w width"],
    positions: Float[Array, "h w width"],
    sparse: Float[Array, "token width"],
    is_token: Bool[Array, " token"],
  ) -> tuple[Float[Array, "all_tokens width"], Float[Array, "h w width"]]:
    """Tokens (of quality, of each mask, of the prompt) and image, to be called when compact."""
    normal = nn.initializers.normal(1.0)
    quality_token = self.param("quality_token", normal, (1, self.width))
    mask_tokens = self.param("mask_tokens", normal, (self.num_masks, self.width))
    own = jnp.concatenate([quality_token, mask_tokens])
    tokens = jnp.concatenate([own, sparse])
    is_seen = jnp.concatenate([jnp.ones(len(own), bool), is_token])
    transformer = TwoWayTransformer(
      self.width, self.depth, self.num_heads, self.mlp_width, name="transformer"
    )
    tokens, image = transformer(tokens, embedding, positions, is_seen)
    return tokens, image


class MaskDecoder(TokenDecoder):
  """See the module.

  >>> net = MaskDecoder(width=16, num_heads=2, mlp_width=8)
  >>> given = (jnp.ones((4, 4, 16)), jnp.ones((4, 4, 16)), jnp.ones((2, 16)), jnp.ones(2, bool))
  >>> params = jax.eval_shape(net.init, jax.random.key(0), *given)
  >>> jax.eval_shape(net.apply, params, *given).logits.shape
  (16, 16, 4)

  Attributes:
    width: channels of embedding and tokens, divisible by 8 and by twice `num_heads`.
    num_masks: masks a prompt; as many as classes for answers without a prompt.
    depth, num_heads, mlp_width: of the transformer.
  """

  @nn.compact
  def __call__(
    self,
    embedding: Float[Array, "h w width"],
    positions: Float[Array, "h w width"],
    sparse: Float[Array, "token width"],
    is_token: Bool[Array, " token"],
  ) -> MaskOutput:
    """Args:
    embedding: of the image, with what the prompt adds to each of its pixels.
    positions: code of the places of its pixels.
    sparse: tokens of the prompt.
    is_token: False where a token is to be seen by nobody.
    """
    tokens, image = self.read(embedding, positions, sparse, is_token)
    large = nn.gelu(
      layer_norm("up_norm")(Doubling(self.width // 4, name="up0")(image)), approximate=False
    )
    large = nn.gelu(Doubling(self.width // 8, name="up1")(large), approximate=False)
    filters = [
      ReluMLP(self.width, self.width // 8, name=f"filter{k}")(tokens[1 + k])
      for k in range(self.num_masks)
    ]
    logits = jnp.einsum("hwc,kc->hwk", large, jnp.stack(filters))
    return MaskOutput(logits, ReluMLP(self.width, self.num_masks, name="quality")(tokens[0]))

  def torch_names(self) -> TorchNames:
    """Names of the released code."""
    modules = {"quality_token": "iou_token.weight", "mask_tokens": "mask_tokens.weight"}
    modules |= {"up0": "output_upscaling.0", "up_norm": "output_upscaling.1"}
    modules |= {"up1": "output_upscaling.3", "transformer/last_norm": "transformer.norm_final_attn"}
    for layer in range(3):
      modules[f"quality/layer{layer}"] = f"iou_prediction_head.layers.{layer}"
      for k in range(self.num_masks):
        modules[f"filter{k}/layer{layer}"] = f"output_hypernetworks_mlps.{k}.layers.{layer}"
    readings = {"last_to_image": "final_attn_token_to_image"}
    for layer in range(self.depth):
      own, theirs = f"layer{layer}_", f"layers.{layer}."
      readings[f"{own}self"] = f"{theirs}self_attn"
      readings[f"{own}to_image"] = f"{theirs}cross_attn_token_to_image"
      readings[f"{own}to_tokens"] = f"{theirs}cross_attn_image_to_token"
      own, theirs = f"transformer/{own}", f"transformer.{theirs}"
      modules |= {f"{own}norm{i}": f"{theirs}norm{i + 1}" for i in range(4)}
      modules |= {f"{own}mlp/wide": f"{theirs}mlp.lin1", f"{own}mlp/back": f"{theirs}mlp.lin2"}
    short = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    for own, theirs in readings.items():
      modules |= {f"transformer/{own}/{a}": f"transformer.{theirs}.{b}" for a, b in short.items()}
    doubled = lambda x: x.transpose(2, 3, 0, 1)  # noqa: E731  [in, out, 2, 2] -> [2, 2, in, out]
    return TorchNames(modules, layouts={"up0/kernel": doubled, "up1/kernel": doubled})


class TwoWayTransformer(nn.Module):
  """Tokens read each other and the image, and the image reads the tokens, `depth` times.

  Attributes:
    width, depth, num_heads, mlp_width: see `MaskDecoder`.
  """

  width: int
  depth: int
  num_heads: int
  mlp_width: int

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "token width"],
    embedding: Float[Array, "h w width"],
    positions: Float[Array, "h w width"],
    is_seen: Bool[Array, " token"],
  ) -> tuple[Float[Array, "token width"], Float[Array, "h w width"]]:
    shape = embedding.shape
    image = embedding.reshape(-1, self.width)
    place = positions.reshape(-1, self.width)
    # A token that is seen by nobody may hold anything, NaN included.
    asked = jnp.where(is_seen[:, None], tokens, 0.0)

    def attend(name: str, inner: int = self.width // 2) -> Attention:
      return Attention(self.width, self.num_heads, inner, name=name)

    norm = lambda name: layer_norm(name, _TORCH_EPSILON)  # noqa: E731
    x = asked
    for layer in range(self.depth):
      own = f"layer{layer}_"
      itself = attend(f"{own}self", self.width)
      if layer == 0:  # the first layer knows the tokens' places already, and has no residual
        x = itself(x, x, x, is_key=is_seen)
      else:
        x = x + itself(x + asked, x + asked, x, is_key=is_seen)
      x = norm(f"{own}norm0")(x)
      x = norm(f"{own}norm1")(x + attend(f"{own}to_image")(x + asked, image + place, image))
      mlp = TokenMLP(self.mlp_width, self.width, nn.relu, name=f"{own}mlp")
      x = norm(f"{own}norm2")(x + mlp(x))
      read = attend(f"{own}to_tokens")(image + place, x + asked, x, is_key=is_seen)
      image = norm(f"{own}norm3")(image + read)
    x = norm("last_norm")(x + attend("last_to_image")(x + asked, image + place, image))
    return x, image.reshape(shape)


class Doubling(nn.Module):
  """A transposed convolution of 2x2 with stride 2: each pixel becomes four of its own.

  Attributes:
    width: channels that come out.
  """

  width: int

  @nn.compact
  def __call__(self, x: Float[Array, "h w channel"]) -> Float[Array, "h2 w2 width"]:
    height, width, channels = x.shape
    # out[2 i + a, 2 j + b] = sum_c x[i, j, c] kernel[a, b, c]: no two outputs share an input.
    scale = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=2, out_axis=3)
    kernel = self.param("kernel", scale, (2, 2, channels, self.width))
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    large = jnp.einsum("ijc,abco->iajbo", x, kernel)
    return large.reshape(2 * height, 2 * width, self.width) + bias[None, None]


class ReluMLP(nn.Module):
  """Three dense layers with ReLU between them.

  Attributes:
    hidden_width: channels of the first two.
    width: channels that come out.
  """

  hidden_width: int
  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = nn.relu(nn.Dense(self.hidden_width, name="layer0")(x))
    x = nn.relu(nn.Dense(self.hidden_width, name="layer1")(x))
    return nn.Dense(self.width, name="layer2")(x)
