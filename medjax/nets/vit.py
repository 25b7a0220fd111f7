"""Vision transformer as a dense encoder: patches in, a map of features out.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021). With `window` and `has_relative` it is
the encoder of SAM (Kirillov et al., 2023; Li et al., "Exploring Plain Vision Transformer Backbones",
2022): most blocks attend in windows, and scores know how far apart two tokens are,

  score(i, j) = <q_i, k_j> / sqrt(d) + <q_i, R_rows[y_i - y_j]> + <q_i, R_columns[x_i - x_j]>

With `adapter_width` each half of a block ends in a small network beside a skip, whose second layer
starts at zero (Du et al., "AViT", 2023): x + W_up GELU(W_down x). With `num_prompts` learnt tokens
stand before the patches (Jia et al., "Visual Prompt Tuning", 2022). Low-rank updates need no slot:
`medjax.adapt.lora` adds them to any parameter tree. With `stem` convolutions read the pixels of a
patch step by step, and fewer updates are needed (Xiao et al., "Early Convolutions Help Transformers
See Better", 2021, whose convolutions have BatchNorms; these have no norm).
"""  # noqa: E501

from collections.abc import Callable

import jax
import jax.numpy as jnp
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


class ViT(nn.Module):
  """[height, width, channel] -> [height / patch, width / patch, out_width or width], one example.

  >>> net = ViT(patch=4, width=8, depth=2, num_heads=2, grid=(4, 4), window=2, global_blocks=(1,),
  ...           has_relative=True, adapter_width=2)
  >>> image = jax.ShapeDtypeStruct((16, 16, 1), jnp.float32)
  >>> params = jax.eval_shape(net.init, jax.random.key(0), image)
  >>> jax.eval_shape(net.apply, params, image).shape
  (4, 4, 8)

  Attributes:
    patch: side of a patch in pixels.
    width, depth, num_heads: of the transformer.
    grid: patches of the images that it was made for; on other grids learnt positions are resized.
    out_width: channels behind a neck of convolutions; 0: no neck.
    mlp_ratio: hidden channels of a block over its channels.
    window: side of the windows in patches; 0: every block sees the whole image.
    global_blocks: blocks that see the whole image although there are windows.
    has_relative: learnt distances in the scores.
    has_class_token: a learnt token before the patches; it is read and not returned.
    has_last_norm: a norm behind the blocks, in the place of the neck's.
    num_prompts: learnt tokens before the patches, for tuning by prompts alone.
    adapter_width: channels of the adapters; 0: none.
    epsilon: of the norms.
    stem: channels of convolutions of 3 x 3, GELU behind each, that halve the image before it is cut
      into patches; patches are then of what is left, so that `patch` pixels stay beside a token.
  """

  patch: int
  width: int
  depth: int
  num_heads: int
  grid: tuple[int, int]
  out_width: int = 0
  mlp_ratio: int = 4
  window: int = 0
  global_blocks: tuple[int, ...] = ()
  has_relative: bool = False
  has_class_token: bool = False
  has_last_norm: bool = False
  num_prompts: int = 0
  adapter_width: int = 0
  epsilon: float = 1e-6
  stem: tuple[int, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    check.require(
      not ((self.window or self.has_relative) and (self.num_prompts or self.has_class_token)),
      "tokens beside the patches, or windows and distances",
      "both",
      "leave one out: a token beside the patches has no place",
    )
    check.require(
      self.patch % 2 ** len(self.stem) == 0,
      f"a patch that {2 ** len(self.stem)} divides, for {len(self.stem)} halvings",
      f"{self.patch}",
      "take a larger patch or a shorter stem",
    )

  @nn.compact
  def __call__(self, image: Float[Array, "height width channel"]) -> Float[Array, "h w out"]:
    side, normal = self.patch, nn.initializers.normal(0.02)
    check.require(
      image.shape[0] % side == 0 and image.shape[1] % side == 0,
      f"an image whose sides {side} divides",
      f"{image.shape[0]} x {image.shape[1]}",
      "pad it",
    )
    x = image
    for layer, channels in enumerate(self.stem):
      x = nn.Conv(channels, (3, 3), (2, 2), padding=1, name=f"stem{layer}")(x)
      x = nn.gelu(x, approximate=False)
    side //= 2 ** len(self.stem)
    x = nn.Conv(self.width, (side, side), (side, side), padding="VALID", name="patches")(x)
    shape = (x.shape[0], x.shape[1])
    places = self.param("positions", normal, (*self.grid, self.width))
    x = x + _resized(places, (*shape, self.width))
    names = {"prompt_tokens": self.num_prompts, "class_token": int(self.has_class_token)}
    more = [self.param(name, normal, (n, self.width)) for name, n in names.items() if n]
    if more:  # a row of tokens without places
      x = jnp.concatenate([*more, x.reshape(-1, self.width)])[None]
    for block in range(self.depth):
      window = 0 if block in self.global_blocks else self.window
      size = (window, window) if window else self.grid
      x = _Block(
        self.num_heads,
        self.mlp_ratio,
        window,
        size if self.has_relative else None,
        self.adapter_width,
        self.epsilon,
        name=f"block{block}",
      )(x)
    if more:
      x = x[0, sum(len(tokens) for tokens in more) :].reshape(*shape, self.width)
    if self.has_last_norm:
      x = layer_norm("last_norm", self.epsilon)(x)
    return Neck(self.out_width, name="neck")(x) if self.out_width else x

  def torch_names(self) -> TorchNames:
    """Names of the released code of SAM; it has no stem, adapters, prompts and class tokens."""
    modules = {"patches": "patch_embed.proj", "positions": "pos_embed", **NECK_NAMES}
    layouts: dict[str, Callable[[np.ndarray], np.ndarray]] = {"positions": lambda x: x[0]}
    for block in range(self.depth):
      own, theirs = f"block{block}", f"blocks.{block}"
      places = {
        "norm0": "norm1",
        "norm1": "norm2",
        "row_distance": "attn.rel_pos_h",
        "column_distance": "attn.rel_pos_w",
        "attention/out": "attn.proj",
        "mlp/wide": "mlp.lin1",
        "mlp/back": "mlp.lin2",
      }
      packed = packed_names(f"{own}/attention", f"{theirs}.attn.qkv", (3, self.width), 0)
      modules |= packed.modules
      modules |= {f"{own}/{n}": f"{theirs}.{t}" for n, t in places.items()}
      layouts |= packed.layouts
    return TorchNames(modules, layouts=layouts)


class Adapter(nn.Module):
  """x + W_up GELU(W_down x): exactly x at the start, since W_up and its bias start at zero.

  DEVIATION: the formula that AViT prints has no skip, and would put noise in the place of what the
  frozen branch computed; its released code has it.

  Attributes:
    inner_width: channels between the two layers.
  """

  inner_width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inner = nn.gelu(nn.Dense(self.inner_width, name="down")(x), approximate=False)
    return x + nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="up")(inner)


class _Block(nn.Module):
  """z' = z + A(MSA(LN(z))),   z'' = z' + A(MLP(LN(z'))),   A an adapter or nothing."""

  num_heads: int
  ratio: int
  window: int
  relative: tuple[int, int] | None
  adapter_width: int
  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    height, width, channels = x.shape
    inner = layer_norm("norm0", self.epsilon)(x)
    shape = (self.window, self.window) if self.window else (height, width)
    if self.window:
      # Unlike in TinyViT, the padding comes behind the norm.
      tokens, counts = windows(inner, self.window)
    else:
      tokens, counts = inner.reshape(1, height * width, channels), (1, 1)
    bias = None
    if self.relative is not None:
      size = channels // self.num_heads
      tables = [
        self.param(f"{name}_distance", nn.initializers.zeros, (2 * n - 1, size))
        for name, n in zip(("row", "column"), self.relative, strict=True)
      ]
      bias = lambda q: _distances(q, tables, shape)  # noqa: E731
    tokens = Attention(channels, self.num_heads, name="attention")(
      tokens, tokens, tokens, bias=bias
    )
    if self.window:
      inner = unwindowed(tokens, counts, (height, width))
    else:
      inner = tokens.reshape(height, width, channels)
    x = x + self._adapted(inner, "adapter0")
    inner = layer_norm("norm1", self.epsilon)(x)
    inner = TokenMLP(self.ratio * channels, channels, name="mlp")(inner)
    return x + self._adapted(inner, "adapter1")

  def _adapted(self, x: jax.Array, name: str) -> jax.Array:
    return Adapter(self.adapter_width, name=name)(x) if self.adapter_width else x


def _distances(q: jax.Array, tables: list[jax.Array], shape: tuple[int, int]) -> jax.Array:
  """[window, head, query, key] of queries [window, query, head, d]: both terms of the score."""
  count, _, heads, size = q.shape
  q = q.reshape(count, *shape, heads, size)
  found = []
  for table, n in zip(tables, shape, strict=True):
    table = _resized(table, (2 * n - 1, size))
    apart = np.arange(n)[:, None] - np.arange(n)[None, :] + n - 1
    found.append(table[apart])  # [place, place, d]
  rows = jnp.einsum("nyxhc,ykc->nhyxk", q, found[0])[..., None]
  columns = jnp.einsum("nyxhc,xkc->nhyxk", q, found[1])[..., None, :]
  tokens = shape[0] * shape[1]
  return (rows + columns).reshape(count, heads, tokens, tokens)


def _resized(table: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Linear interpolation where the grid is another one; else the table itself."""
  if table.shape == shape:
    return table
  return jax.image.resize(table, shape, "linear", antialias=False)
