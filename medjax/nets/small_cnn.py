"""A small classifier of pictures: convolutions of stride 2, Mish, GroupNorm and a dense layer."""

import functools

import jax
from flax import linen as nn

from medjax.nets.resnet import mish
from medjax.ops import conv


class SmallCNN(nn.Module):
  """Logits [outputs] of one image [height, width, channel]; no example sees another.

  Attributes:
    num_outputs: classes.
    widths: channels of the convolutions, each of which halves the picture.
    num_groups: groups of every GroupNorm, or fewer where a width is smaller.
    convolution: implementation of `ops.conv`; "product" for training that runs in a loop of a CPU.
  """

  num_outputs: int
  widths: tuple[int, ...] = (16, 32, 32)
  num_groups: int = 8
  convolution: conv.Implementation = "native"

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = image[None]
    run = functools.partial(conv.conv_general_dilated, implementation=self.convolution)
    for width in self.widths:
      x = mish(nn.Conv(width, (3, 3), strides=(2, 2), conv_general_dilated=run)(x))
      x = nn.GroupNorm(num_groups=min(self.num_groups, width))(x)
    return nn.Dense(self.num_outputs)(x.reshape(-1))
