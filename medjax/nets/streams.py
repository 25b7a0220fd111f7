"""Encoders that read each other at every level, one a task, each with a head of its own.

  h_l = [B1_l(h_(l-1)), B2_l(h_(l-1)), ...]     channels in even shares

Wu et al., "Multi-task Cooperative Learning via Searching for Flat Minima" (2023).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax import check
from medjax.nets.blocks import NormedBlock
from medjax.ops import pooling


class Streams(nn.Module):
  """Logits of several tasks for one image [*space, channel]; with one task a plain U-Net.

  The names of all parameters start with the stream that owns them: "stream0_encoder1/...",
  "stream1_head/...".

  >>> net = Streams((("mask", 2), ("class", 3)), widths=(4, 8))
  >>> image = jnp.zeros((8, 8, 1))
  >>> params = net.init(jax.random.key(0), image)
  >>> [logits.shape for logits in net.apply(params, image)]
  [(8, 8, 2), (3,)]

  Attributes:
    heads: of each stream, ("mask", classes) for logits [*space, class] by a decoder with skip
      connections, or ("class", classes) for logits [class] from means over the image.
    widths: channels of all streams together at each level, finest first; multiples of their number.
    num_convs: convolutions of 3^d a block.
  """

  heads: tuple[tuple[str, int], ...]
  widths: tuple[int, ...] = (16, 32, 64)
  num_convs: int = 1

  def __post_init__(self):
    super().__post_init__()
    check.require(self.heads, "a head", "none", 'pass (("mask", 2),) for one task')
    check.require(
      all(width % len(self.heads) == 0 for width in self.widths),
      f"widths that {len(self.heads)} streams share evenly",
      f"{self.widths}",
      "take multiples of it",
    )
    for kind, _ in self.heads:
      check.one_of("kind of head", kind, ("mask", "class"))

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
    x, skips = image[None], []
    for level, width in enumerate(self.widths):
      x = pooling.mean_pool(x) if level else x
      own = [
        NormedBlock(width // len(self.heads), self.num_convs, name=f"stream{i}_encoder{level}")(x)
        for i in range(len(self.heads))
      ]
      x = jnp.concatenate(own, axis=-1)
      skips.append(x)
    return tuple(
      self._head(f"stream{i}", kind, number, skips) for i, (kind, number) in enumerate(self.heads)
    )

  def _head(self, stream: str, kind: str, number: int, skips: list[jax.Array]) -> jax.Array:
    x = skips[-1]
    if kind == "class":
      return nn.Dense(number, name=f"{stream}_head")(x.mean(tuple(range(1, x.ndim - 1))))[0]
    for level in reversed(range(len(self.widths) - 1)):
      skip = skips[level]
      x = pooling.upsample_linear(x, skip.shape[1:-1])
      x = jnp.concatenate([x, skip], axis=-1)
      x = NormedBlock(self.widths[level], self.num_convs, name=f"{stream}_decoder{level}")(x)
    return nn.Dense(number, name=f"{stream}_head")(x)[0]
