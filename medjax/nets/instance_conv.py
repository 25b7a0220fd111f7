"""The network of dataset condensation: convolutions, instance norms and average pools.

Gidaris and Komodakis, "Dynamic few-shot visual learning without forgetting" (2018), as Zhao et al.,
"Dataset condensation with gradient matching" (2021), use it.
"""

from collections.abc import Callable

import jax
from flax import linen as nn

from medjax import check


class InstanceConvNet(nn.Module):
  """Logits [outputs], or features, of one image [height, width, channel].

  An instance norm divides by what the image itself has in each channel. A change of gain or offset
  that is the same for all channels of the image therefore leaves no trace but at the borders, where
  the convolution sees zeros.

  Attributes:
    num_outputs: classes; 0 gives the flattened features before the last layer.
    width: channels of every convolution.
    depth: blocks, each of which halves the sides.
  """

  num_outputs: int
  width: int = 128
  depth: int = 3

  @nn.compact
  def __call__(
    self, image: jax.Array, change: Callable[[jax.Array], jax.Array] | None = None
  ) -> jax.Array:
    """The output; `change` is put over the feature maps [height, width, channel] of block 1."""
    check.require(
      min(image.shape[:2]) >= 2**self.depth,
      f"sides of {2**self.depth} pixels or more for {self.depth} blocks",
      f"{image.shape[0]} x {image.shape[1]}",
      "lower depth",
    )
    x = image[None]
    for block in range(self.depth):
      x = nn.Conv(self.width, (3, 3))(x)
      x = nn.relu(nn.GroupNorm(num_groups=self.width, epsilon=1e-5)(x))
      if block == 0 and change is not None:
        x = change(x[0])[None]
      x = nn.avg_pool(x, (2, 2), (2, 2))
    x = x.reshape(-1)
    return nn.Dense(self.num_outputs)(x) if self.num_outputs else x
