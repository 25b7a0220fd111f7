"""A U-Net that segments what a support of image and mask pairs shows it, without an update.

Butoi et al., "UniverSeg: Universal Medical Image Segmentation" (2023); the layers are those of the
released code (JJGO/UniverSeg), whose four levels of 64 channels have 1,182,785 parameters. With a
query q and support features s_i of weights w_i, which sum to 1, a CrossBlock is

  z_i = W * [q; s_i] + b       W: 3^d convolution of query and support channels, without activation
  q'  = f(W_q * sum_i w_i z_i + b_q)
  s_i' = f(W_s * z_i + b_s)    f: leaky ReLU

A convolution is linear: W * [q; s_i] = A * q + B * s_i with the channels of W parted, so the half
that sees the query is computed once and not once for each pair.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from medjax import check
from medjax.ops import conv, pooling

_KAIMING = nn.initializers.he_normal()


class CrossBlock(nn.Module):
  """The three equations above.

  Attributes:
    width: channels of z, q' and s'.
    convolution: implementation of `ops.conv`.
  """

  width: int
  convolution: conv.Implementation = "auto"

  @nn.compact
  def __call__(
    self,
    query: Float[Array, "*space query_channel"],
    support: Float[Array, "pair *space support_channel"],
    weights: Float[Array, " pair"],
  ) -> tuple[Float[Array, "*space width"], Float[Array, "pair *space width"]]:
    """(q', s'); the weights sum to 1."""
    dims, channels = query.ndim - 1, query.shape[-1] + support.shape[-1]
    # The result of the crossing has no activation, so its gain is 1 and not that of a ReLU.
    initial = nn.initializers.lecun_normal()
    kernel = self.param("cross_kernel", initial, (*(3,) * dims, channels, self.width))
    bias = self.param("cross_bias", nn.initializers.zeros, (self.width,))
    last = (0, dims + 1, *range(1, dims + 1))
    convolve = functools.partial(
      conv.conv_general_dilated,
      window_strides=(1,) * dims,
      padding="SAME",
      dimension_numbers=jax.lax.ConvDimensionNumbers(last, (dims + 1, dims, *range(dims)), last),
      implementation=self.convolution,
    )
    of_query = convolve(query[None], kernel[..., : query.shape[-1], :])
    of_support = convolve(support, kernel[..., query.shape[-1] :, :])
    pairs = of_support + (of_query + bias.reshape((1,) * (dims + 1) + (-1,)))
    mean = jnp.tensordot(weights, pairs, 1)
    return self._conv("query", mean[None])[0], self._conv("support", pairs)

  def _conv(self, name: str, x: Array) -> Array:
    convolve = functools.partial(conv.conv_general_dilated, implementation=self.convolution)
    layer = nn.Conv(
      self.width,
      (3,) * (x.ndim - 2),
      kernel_init=_KAIMING,
      conv_general_dilated=convolve,
      name=name,
    )
    return nn.leaky_relu(layer(x))


class CrossConvUNet(nn.Module):
  """Logits of the structure that the masks of a support outline, in a query image.

  The order of the pairs changes nothing, and a pair of weight 0 is as if it were not there: a
  support is filled up to a fixed number of pairs with such. 2D and 3D, one query at a time.

  >>> net = CrossConvUNet(widths=(4, 4))
  >>> query, images, masks = jnp.ones((8, 8, 1)), jnp.ones((3, 8, 8, 1)), jnp.ones((3, 8, 8))
  >>> shapes = jax.eval_shape(net.init, jax.random.key(0), query, images, masks)
  >>> jax.eval_shape(net.apply, shapes, query, images, masks).shape
  (8, 8)

  Attributes:
    widths: channels of each level, finest first; (64, 64, 64, 64) are the released ones.
    convolution: implementation of `ops.conv`.
  """

  widths: tuple[int, ...] = (64, 64, 64, 64)
  convolution: conv.Implementation = "auto"

  @nn.compact
  def __call__(
    self,
    query: Float[Array, "*space channel"],
    images: Float[Array, "pair *support_space support_channel"],
    masks: Float[Array, " mask *mask_space"],
    weights: Float[Array, " weight"] | None = None,
  ) -> Float[Array, "*space"]:
    """Logits; a probability is their sigmoid.

    Args:
      query: image in [0, 1].
      images: of the support, as the query.
      masks: 1 inside the structure and 0 outside; values between them are soft labels.
      weights: of the pairs, 0 or more, not all 0; they are divided by their sum. None: all alike.
    Raises:
      InputError: no pair, shapes that do not fit, or a size that the pooling does not divide.
    """
    check.require(
      len(images) > 0,
      "a support of one image and mask or more",
      "none",
      "without a support nothing says what is to be segmented",
    )
    check.same_shape("images of the support", images.shape[1:], "the query", query.shape)
    check.same_shape("masks", masks.shape, "images of the support", images.shape[:-1])
    factor = 2 ** (len(self.widths) - 1)
    check.require(
      all(size % factor == 0 for size in query.shape[:-1]),
      f"sizes that {factor} divides",
      f"{query.shape[:-1]}",
      "resize or pad the images, or take fewer levels",
    )
    weights = jnp.ones(len(images)) if weights is None else weights
    check.same_shape("weights", weights.shape, "pairs", images.shape[:1])
    weights = weights / weights.sum()
    support = jnp.concatenate([images, masks[..., None].astype(images.dtype)], axis=-1)
    skips = []
    for level, width in enumerate(self.widths):
      if level > 0:
        query, support = pooling.max_pool(query[None])[0], pooling.max_pool(support)
      query, support = self._block(width, f"encoder{level}")(query, support, weights)
      skips.append((query, support))
    skips.pop()
    for level in reversed(range(len(self.widths) - 1)):
      near, near_support = skips.pop()
      query = jnp.concatenate([pooling.upsample_aligned(query[None])[0], near], axis=-1)
      support = jnp.concatenate([pooling.upsample_aligned(support), near_support], axis=-1)
      query, support = self._block(self.widths[level], f"decoder{level}")(query, support, weights)
    return nn.Dense(1, name="head")(query)[..., 0]

  def _block(self, width: int, name: str) -> CrossBlock:
    return CrossBlock(width, self.convolution, name=name)
