"""A mask decoder that refines by convolutions: no product of a token and the embedding.

Kim et al., "Evaluation and Improvement of Segment Anything Model for Interactive Histopathology
Image Segmentation" (2023). The transformer of SAM in both directions stays. Behind it the tokens
are left: the image, which has read them, goes through global attention, two blocks that double the
grid and one that does not, and a 1x1 convolution gives the masks.
"""

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from medjax import check, tree
from medjax.nets.attention import Attention, layer_norm
from medjax.nets.mask_decoder import Doubling, MaskOutput, ReluMLP, TokenDecoder
from medjax.types import Params


class RefiningDecoder(TokenDecoder):
  """See the module; the call is that of `MaskDecoder`.

  >>> import jax.numpy as jnp
  >>> net = RefiningDecoder(width=16, num_heads=2, mlp_width=8)
  >>> given = (jnp.ones((4, 4, 16)), jnp.ones((4, 4, 16)), jnp.ones((2, 16)), jnp.ones(2, bool))
  >>> params = jax.eval_shape(net.init, jax.random.key(0), *given)
  >>> jax.eval_shape(net.apply, params, *given).logits.shape
  (16, 16, 4)

  The paper leaves open: heads of the attention (here those of the transformer), how it is joined
  (added, then LayerNorm, as in SAM), and what a shortcut is where channels halve (a 1x1
  convolution).

  Attributes:
    width: channels of embedding and tokens, divisible by 8 and by twice `num_heads`.
    num_masks, depth, num_heads, mlp_width: as in `MaskDecoder`. The parameters "quality_token",
      "mask_tokens", "transformer" and "quality" are those of a `MaskDecoder` of equal fields: a
      trained one's are taken over by `warm_started`.
  """

  @nn.compact
  def __call__(
    self,
    embedding: Float[Array, "h w width"],
    positions: Float[Array, "h w width"],
    sparse: Float[Array, "token width"],
    is_token: Bool[Array, " token"],
  ) -> MaskOutput:
    """Args: as of `MaskDecoder`."""
    tokens, image = self.read(embedding, positions, sparse, is_token)
    flat, place = image.reshape(-1, self.width), positions.reshape(-1, self.width)
    read = Attention(self.width, self.num_heads, name="global")(flat + place, flat + place, flat)
    x = layer_norm("global_norm")(flat + read).reshape(image.shape)
    for level in range(2):
      x = _halved(x, f"up{level}")
      x = Doubling(x.shape[-1], name=f"up{level}_double")(x)
      x = nn.gelu(_instance_norm(x, f"up{level}_norm2"), approximate=False)
    logits = nn.Conv(self.num_masks, (1, 1), name="masks")(_halved(x, "last"))
    return MaskOutput(logits, ReluMLP(self.width, self.num_masks, name="quality")(tokens[0]))


def warm_started(params: Params, trained: Params) -> Params:
  """First parameters of a `RefiningDecoder`; what it shares comes from a trained `MaskDecoder`.

  Args:
    params: of the `RefiningDecoder`.
    trained: of a `MaskDecoder` of equal fields.
  Raises:
    InputError: a shared leaf of another shape.
  """
  shared = ("quality_token", "mask_tokens", "transformer", "quality")
  kinds = [tree.types_and_shapes({k: own[k] for k in shared}) for own in (params, trained)]
  apart = sorted(name for name, kind in kinds[0].items() if kinds[1].get(name) != kind)
  check.require(
    not apart, "decoders of equal fields", f"{apart[:3]} of other shapes", "give both one width"
  )
  return {**params, **{name: trained[name] for name in shared}}


def _halved(x: jax.Array, name: str) -> jax.Array:
  """Two 3x3 convolutions, of which the second halves the channels, and a shortcut around both."""
  gelu = lambda x: nn.gelu(x, approximate=False)  # noqa: E731
  width = x.shape[-1]
  inner = gelu(_instance_norm(nn.Conv(width, (3, 3), name=f"{name}_conv0")(x), f"{name}_norm0"))
  inner = _instance_norm(nn.Conv(width // 2, (3, 3), name=f"{name}_conv1")(inner), f"{name}_norm1")
  return gelu(inner + nn.Conv(width // 2, (1, 1), name=f"{name}_shortcut")(x))


def _instance_norm(x: jax.Array, name: str) -> jax.Array:
  """Each channel by its own moments over the picture; flax counts a leading axis as the batch."""
  return nn.GroupNorm(num_groups=x.shape[-1], epsilon=1e-5, name=name)(x[None])[0]
