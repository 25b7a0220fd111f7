"""AViT: a vision transformer with adapters, a small convolutional network of prompts, and a head.

Du et al., "AViT: Adapting Vision Transformers for Small Skin Lesion Segmentation Datasets" (2023):
features of a (frozen) transformer pass through atrous convolutions, are enlarged to a quarter of
the picture, and are joined by what two convolutions see of the picture at that size:

  V = ViT(x),   T = prompt(x),   logits = up(head([up(ASPP(V)), T]))

DEVIATION: GroupNorm stands for BatchNorm, so that examples are not coupled; two strided
convolutions, or the first blocks of EfficientNet-Lite0, stand for the first stage of a ResNet-34.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from medjax.nets.efficientnet import LiteStart, imagenet_normalised
from medjax.nets.norms import norm
from medjax.nets.vit import ViT


class AViT(nn.Module):
  """[height, width, channel] -> logits [height, width, output], one example.

  >>> encoder = ViT(patch=4, width=8, depth=1, num_heads=2, grid=(4, 4), adapter_width=2)
  >>> net, image = AViT(encoder, width=8), jax.ShapeDtypeStruct((16, 16, 1), jnp.float32)
  >>> params = jax.eval_shape(net.init, jax.random.key(0), image)
  >>> sorted(params["params"]), jax.eval_shape(net.apply, params, image).shape
  (['encoder', 'head', 'prompt'], (16, 16, 1))

  Attributes:
    encoder: the transformer.
    num_outputs: logits of a pixel.
    width: channels of the head; the prompt network has half of them.
    rates: distances of the atrous convolutions, in patches.
    has_prompt: False puts zeros in the place of T; the parameters stay the same.
    has_lite_prompt: the first blocks of EfficientNet-Lite0 as the prompt network, for pictures of 1
      or 3 channels in [0, 1]; they start as drawn, until ImageNet's are put in (see `LiteStart`).
  """

  encoder: ViT
  num_outputs: int = 1
  width: int = 32
  rates: tuple[int, ...] = (1, 2, 3)
  has_prompt: bool = True
  has_lite_prompt: bool = False

  @nn.compact
  def __call__(
    self, image: Float[Array, "height width channel"]
  ) -> Float[Array, "height width output"]:
    features = self.encoder(image)
    if self.has_lite_prompt:
      prompt = LiteStart(name="prompt")(imagenet_normalised(image))
    else:
      prompt = _Prompt(self.width // 2, name="prompt")(image)
    prompt = prompt if self.has_prompt else jnp.zeros_like(prompt)
    logits = _Head(self.num_outputs, self.width, self.rates, name="head")(features, prompt)
    return jax.image.resize(logits, (*image.shape[:2], self.num_outputs), "linear")


class _Prompt(nn.Module):
  """Two convolutions with stride 2: a quarter of the picture's resolution."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for layer in range(2):
      x = _normed(nn.Conv(self.width, (3, 3), (2, 2), name=f"conv{layer}")(x), f"norm{layer}")
    return x


class _Head(nn.Module):
  """Atrous convolutions, enlargement to the prompt's size, and three convolutions over both."""

  num_outputs: int
  width: int
  rates: tuple[int, ...]

  @nn.compact
  def __call__(self, features: jax.Array, prompt: jax.Array) -> jax.Array:
    conv = lambda n, size, name, rate=1: nn.Conv(  # noqa: E731
      n, (size, size), kernel_dilation=(rate, rate), name=name
    )
    seen = [conv(self.width, 1, "near")(features)]
    seen += [conv(self.width, 3, f"far{rate}", rate)(features) for rate in self.rates]
    whole = conv(self.width, 1, "whole")(features.mean((0, 1), keepdims=True))
    seen.append(jnp.broadcast_to(whole, seen[0].shape))
    x = _normed(conv(self.width, 1, "join")(nn.relu(jnp.concatenate(seen, -1))), "norm_join")
    x = jax.image.resize(x, (*prompt.shape[:2], self.width), "linear")
    x = jnp.concatenate([x, prompt], -1)
    for layer in range(2):
      x = _normed(conv(self.width, 3, f"conv{layer}")(x), f"norm{layer}")
    return conv(self.num_outputs, 1, "logits")(x)


def _normed(x: jax.Array, name: str) -> jax.Array:
  layer = norm("group", x.shape[-1], train=False, dtype=None, name=name)
  return nn.relu(layer(x[None])[0])
