"""TinyViT: convolutions first, then attention in windows with a convolution inside each block.

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers" (2022), in the
form that LiteMedSAM has: the stem keeps the resolution, and a merge may keep it too. Every
convolution has a bias and no BatchNorm follows it: of a trained network the norm is folded into the
convolution (`nets.import_torch`), so that there is no `model_state` and examples are not coupled.
"""

from collections.abc import Callable

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from medjax import check
from medjax.nets.attention import (
  NECK_NAMES,
  Attention,
  Neck,
  TokenMLP,
  layer_norm,
  packed_names,
  unwindowed,
  windows,
)
from medjax.nets.import_torch import TorchNames
from medjax.ops.depthwise import depthwise_conv

_TORCH_EPSILON = 1e-5  # of PyTorch's LayerNorm


class TinyViT(nn.Module):
  """[h, w, channel] -> [h / stride, w / stride, out_width], one example.

  >>> net = TinyViT(widths=(8, 8), depths=(1, 1), num_heads=(0, 2), windows=(0, 4), strides=(2,),
  ...               out_width=4)
  >>> image = jax.ShapeDtypeStruct((16, 16, 3), np.float32)
  >>> params = jax.eval_shape(net.init, jax.random.key(0), image)
  >>> jax.eval_shape(net.apply, params, image).shape
  (8, 8, 4)

  Attributes:
    widths, depths: channels and blocks of each stage; the first stage is convolutional.
    num_heads, windows: of each stage with attention; the first entry is not read.
    strides: of the merges between stages, 1 or 2.
    out_width: channels of the embedding.
    mlp_ratio: hidden channels of a block over its channels.
  """

  widths: tuple[int, ...] = (64, 128, 160, 320)
  depths: tuple[int, ...] = (2, 2, 6, 2)
  num_heads: tuple[int, ...] = (2, 4, 5, 10)
  windows: tuple[int, ...] = (7, 7, 14, 7)
  strides: tuple[int, ...] = (2, 2, 1)
  out_width: int = 256
  mlp_ratio: int = 4

  def __post_init__(self):
    super().__post_init__()
    n = len(self.widths)
    fits = len(self.depths) == len(self.num_heads) == len(self.windows) == n
    check.require(
      n and fits and len(self.strides) == n - 1,
      "depths, num_heads and windows for every width, and a stride for each but the last",
      f"{n} widths, {len(self.depths)}, {len(self.num_heads)}, {len(self.windows)} and"
      f" {len(self.strides)}",
      "give as many of each",
    )

  @nn.compact
  def __call__(self, image: Float[Array, "h w channel"]) -> Float[Array, "h2 w2 out"]:
    gelu = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    first = self.widths[0]
    x = nn.Conv(first // 2, (1, 1), name="stem0")(image)
    x = nn.Conv(first, (1, 1), name="stem1")(gelu(x))
    for stage, depth in enumerate(self.depths):
      for block in range(depth):
        name = f"stage{stage}_block{block}"
        if stage == 0:
          x = _ConvBlock(self.mlp_ratio, name=name)(x)
        else:
          heads, window = self.num_heads[stage], self.windows[stage]
          x = _WindowBlock(heads, window, self.mlp_ratio, name=name)(x)
      if stage + 1 < len(self.widths):
        wider = self.widths[stage + 1]
        merge = f"merge{stage}"
        x = gelu(nn.Conv(wider, (1, 1), name=f"{merge}_widen")(x))
        x = gelu(_depthwise(wider, self.strides[stage], f"{merge}_depthwise")(x))
        x = nn.Conv(wider, (1, 1), name=f"{merge}_mix")(x)
    return Neck(self.out_width, name="neck")(x)

  def torch_names(self) -> TorchNames:
    """Names of the released code, whose BatchNorms are folded into the convolutions."""
    modules = {"stem0": "patch_embed.seq.0.c", "stem1": "patch_embed.seq.2.c", **NECK_NAMES}
    layouts: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    for stage, depth in enumerate(self.depths):
      for block in range(depth):
        own, theirs = f"stage{stage}_block{block}", f"layers.{stage}.blocks.{block}"
        if stage == 0:
          places = {"widen": "conv1.c", "depthwise": "conv2.c", "narrow": "conv3.c"}
        else:
          places = {
            "distance_bias": "attn.attention_biases",
            "norm0": "attn.norm",
            "attention/out": "attn.proj",
            "local": "local_conv.c",
            "norm1": "mlp.norm",
            "mlp/wide": "mlp.fc1",
            "mlp/back": "mlp.fc2",
          }
          # Rows of the packed projection: head, then query, key or value, then channel.
          packed = packed_names(
            f"{own}/attention", f"{theirs}.attn.qkv", (self.num_heads[stage], 3, -1), 1
          )
          modules |= packed.modules
          layouts |= packed.layouts
        modules |= {f"{own}/{name}": f"{theirs}.{place}" for name, place in places.items()}
      if stage + 1 < len(self.depths):
        merge = {"widen": "conv1.c", "depthwise": "conv2.c", "mix": "conv3.c"}
        modules |= {
          f"merge{stage}_{name}": f"layers.{stage}.downsample.{place}"
          for name, place in merge.items()
        }
    folded = [name for name in modules.values() if name.endswith(".c")]
    return TorchNames(modules, {name: f"{name[:-1]}bn" for name in folded}, layouts=layouts)


class _ConvBlock(nn.Module):
  """Widen, convolve each channel, narrow, add: the inverted bottleneck of MobileNet."""

  ratio: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    gelu = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    inner = gelu(nn.Conv(self.ratio * x.shape[-1], (1, 1), name="widen")(x))
    inner = gelu(_depthwise(inner.shape[-1], 1, "depthwise")(inner))
    return gelu(x + nn.Conv(x.shape[-1], (1, 1), name="narrow")(inner))


class _WindowBlock(nn.Module):
  """Attention in windows, a depthwise convolution, and the network on tokens."""

  num_heads: int
  window: int
  ratio: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    height, width, channels = x.shape
    size = self.window
    # The score of two tokens of a window has a learnt term that knows how far apart they are.
    table = self.param("distance_bias", nn.initializers.zeros, (self.num_heads, size * size))
    bias = table[:, _distance_index(size)]
    # Padding comes before the norm, as in the original: a padded token is then the norm's bias,
    # and the others do look at it.
    tokens, counts = windows(x, size)
    tokens = layer_norm("norm0", _TORCH_EPSILON)(tokens)
    attend = Attention(channels, self.num_heads, name="attention")
    tokens = attend(tokens, tokens, tokens, bias=lambda q: bias)
    x = x + unwindowed(tokens, counts, (height, width))
    x = _depthwise(channels, 1, "local")(x)
    inner = layer_norm("norm1", _TORCH_EPSILON)(x)
    return x + TokenMLP(self.ratio * channels, channels, name="mlp")(inner)


def _depthwise(width: int, stride: int, name: str) -> nn.Conv:
  """A 3x3 convolution of each channel by itself."""
  return nn.Conv(
    width,
    (3, 3),
    (stride, stride),
    padding=1,
    feature_group_count=width,
    conv_general_dilated=depthwise_conv,
    name=name,
  )


def _distance_index(size: int) -> np.ndarray:
  """[token, token] place in the table of |rows apart| * size + |columns apart|."""
  row, column = np.divmod(np.arange(size * size), size)
  apart = lambda x: np.abs(x[:, None] - x[None, :])  # noqa: E731
  return apart(row) * size + apart(column)
