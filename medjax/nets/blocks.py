"""A block that several networks are built of."""

import jax
from flax import linen as nn


class NormedBlock(nn.Module):
  """Convolutions of 3^d, each with one norm over all channels and SiLU.

  One group: a norm of single channels would take the means away that a classifier reads.

  Attributes:
    width: channels.
    num_convs: convolutions.
  """

  width: int
  num_convs: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[example, *space, channel] -> [example, *space, width]."""
    for _ in range(self.num_convs):
      x = nn.Conv(self.width, (3,) * (x.ndim - 2))(x)
      x = nn.silu(nn.GroupNorm(num_groups=1)(x))
    return x
