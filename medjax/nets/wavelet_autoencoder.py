"""Autoencoder whose pooling loses nothing: Haar wavelets down, their exact inverse up.

After WCT2 (Yoo et al., ICCV 2019) and WaveCT-AIN (Liu et al., ISBI 2020): low bands go on to the
next level, detail bands skip to the decoder. Those put wavelets into a pre-trained VGG-19; this
network is small and trained from scratch on the data at hand. Unpooling sums the transposed bands
("sum"), since concatenation with the full-resolution features ("cat5") lets a network that is
trained from scratch pass the image through and learn nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from medjax import check
from medjax.ops import conv, haar


class Encoded(NamedTuple):
  """What the encoder makes of an image.

  Attributes:
    features: the output of each level, [*space / 2^level, width], finest first.
    details: detail bands of all levels but the last, [*half, 2^d - 1, width].
  """

  features: tuple[jax.Array, ...]
  details: tuple[jax.Array, ...]


class ReflectConv(nn.Module):
  """3^d convolution of [*space, channel]; the border is mirrored."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    ndim = x.ndim - 1
    x = jnp.pad(x, [*((1, 1),) * ndim, (0, 0)], mode="reflect")
    convolution = nn.Conv(
      self.width,
      (3,) * ndim,
      padding="VALID",
      conv_general_dilated=conv.conv_general_dilated,
      name="conv",
    )
    return convolution(x[None])[0]


class WaveletAutoencoder(nn.Module):
  """`network(image) -> image`, 2D or 3D; its parts are `encode`, `decode` and `paint`.

  Attributes:
    num_outputs: channels of the image.
    widths: widths of each level, finest first; 2 or more.
  """

  num_outputs: int = 1
  widths: tuple[int, ...] = (16, 32, 64)

  def setup(self):
    check.require(
      len(self.widths) >= 2, "2 levels or more", f"{self.widths=}", "pass for example (16, 32)"
    )
    self.encoder = [(ReflectConv(width), ReflectConv(width)) for width in self.widths]
    self.decoder = [(ReflectConv(width), ReflectConv(width)) for width in self.widths[:-1]]
    self.head = ReflectConv(self.num_outputs)

  def __call__(self, image: Float[Array, "*space channel"]) -> Float[Array, "*space outputs"]:
    """Reconstruction."""
    return self.paint(self.features(image))[tuple(slice(0, n) for n in image.shape[:-1])]

  def features(self, image: Float[Array, "*space channel"]) -> Float[Array, "*padded width"]:
    """Last features of the decoder, on the grid of the image padded to whole coarsest voxels."""
    return self.decode(self.encode(image))

  def encode(self, image: Float[Array, "*space channel"]) -> Encoded:
    """Features of all levels; sides that do not divide are continued by their last voxel."""
    stride = 2 ** (len(self.widths) - 1)
    space = image.shape[:-1]
    check.require(
      min(space) > stride,
      f"images of more than {stride} voxels a side for {len(self.widths)} levels",
      f"{'x'.join(map(str, space))}",
      "pass fewer widths",
    )
    x = jnp.pad(image, [*((0, -size % stride) for size in space), (0, 0)], mode="edge")
    features, details = [], []
    for level, (first, second) in enumerate(self.encoder):
      if level > 0:
        bands = haar.split(x)
        x = bands[..., 0, :]
        details.append(bands[..., 1:, :])
      x = nn.relu(second(nn.relu(first(x))))
      features.append(x)
    return Encoded(tuple(features), tuple(details))

  def decode(self, encoded: Encoded) -> jax.Array:
    """[*padded, widths[0]]."""
    x = encoded.features[-1]
    for level in reversed(range(len(self.widths) - 1)):
      first, second = self.decoder[level]
      low = nn.relu(first(x))
      x = haar.merge(jnp.concatenate([low[..., None, :], encoded.details[level]], axis=-2))
      x = nn.relu(second(x))
    return x

  def paint(self, features: jax.Array) -> jax.Array:
    """Image of the last features: affine in them."""
    return self.head(features)
