"""CTAN: two tasks that look at a shared encoder through each other's attention.

Kim, Purdie & McIntosh, "Cross-Task Attention Network" (2023). At level j with shared features U and
P = conv(conv(U)), for task t and its partner t':

  F_t = embed_t([U, A^_t of the level above]),   A_t = sigmoid(att_t(F_t)),   A^_t = pool(A_t' P)

and in the bottleneck  E_t <- E_t (E_t'^T E_t) / N  for N places, added to E_t.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax import check
from medjax.ops import pooling


def exchanged(masks: tuple[jax.Array, jax.Array], features: jax.Array) -> tuple[jax.Array, ...]:
  """What each task takes along: the features under its PARTNER's mask (CTAN, Eq. 1).

  >>> first, second = exchanged((jnp.zeros(2), jnp.ones(2)), jnp.array([3.0, 4.0]))
  >>> first.tolist(), second.tolist()  # the first mask is closed: the second task gets nothing
  ([3.0, 4.0], [0.0, 0.0])
  """
  return masks[1] * features, masks[0] * features


def cross_attention(own: jax.Array, partner: jax.Array) -> jax.Array:
  """Value and key of the own task, query of the partner (CTAN, Eq. 2), divided by the places.

  The paper leaves open whether E is places by channels (attention between channels) or channels by
  places (attention between places). Without a softmax the two are one map, since products are
  associative: (E E'^T) E = E (E'^T E). The right side takes places times channels squared.

  >>> own, partner = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.eye(2)
  >>> cross_attention(own, partner).tolist()  # own @ own / 2, of places by channels
  [[3.5, 5.0], [7.5, 11.0]]

  Args:
    own, partner: [place, channel].
  Returns:
    [place, channel]. DEVIATION: the paper has no factor 1 / places, and its product grows with the
    size of the image.
  """
  check.same_shape("own", own.shape, "partner", partner.shape)
  return own @ (partner.T @ own) / len(own)


class CrossTask(nn.Module):
  """Logits of two tasks for one image [*space, channel].

  Parameters that belong to one task start with "task0_" or "task1_", those of the shared encoder
  with "shared_".

  >>> net = CrossTask((("mask", 2), ("class", 3)), widths=(4, 8))
  >>> image = jnp.zeros((8, 8, 1))
  >>> params = jax.jit(net.init)(jax.random.key(0), image)
  >>> [logits.shape for logits in jax.jit(net.apply)(params, image)]
  [(8, 8, 2), (3,)]

  Attributes:
    heads: of each task, ("mask", classes) or ("class", classes).
    widths: channels of each level, finest first.
    attention: whether the tasks exchange masks and attend to each other; False is hard parameter
      sharing by the same encoder and heads.
    exchanges: whether a task is given its partner's mask; False gives it its own, as MTAN does,
      and no cross-attention in the bottleneck.
  """

  heads: tuple[tuple[str, int], tuple[str, int]]
  widths: tuple[int, ...] = (16, 32, 64)
  attention: bool = True
  exchanges: bool = True

  def __post_init__(self):
    super().__post_init__()
    for kind, _ in self.heads:
      check.one_of("kind of head", kind, ("mask", "class"))

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
    x, skips = image[None], []
    taken: tuple[jax.Array, ...] = ()
    for level, width in enumerate(self.widths):
      x = pooling.mean_pool(x) if level else x
      x = _convolved(width, f"shared_encoder{level}", x)
      skips.append(x)
      if self.attention:
        seen = [jnp.concatenate([x, own], -1) for own in taken] if taken else [x, x]
        taken = self._attended(level, width, x, seen)
    last = taken if self.attention else (x, x)
    if self.attention and self.exchanges:
      flat = [own.reshape(-1, own.shape[-1]) for own in last]
      last = tuple(
        own + cross_attention(flat[i], flat[1 - i]).reshape(own.shape) for i, own in enumerate(last)
      )
    return tuple(
      self._head(f"task{i}", kind, number, last[i], skips)
      for i, (kind, number) in enumerate(self.heads)
    )

  def _attended(
    self, level: int, width: int, shared: jax.Array, seen: list[jax.Array]
  ) -> tuple[jax.Array, ...]:
    """What each task takes to the next level, pooled but for the last one."""
    passed = shared
    for i in range(2):
      passed = _convolved(width, f"shared_passed{level}_{i}", passed)
    masks = []
    for task, own in enumerate(seen):
      embedded = _convolved(width, f"task{task}_embed{level}", own)
      masks.append(nn.sigmoid(nn.Dense(width, name=f"task{task}_mask{level}")(embedded)))
    pair = (masks[0], masks[1]) if self.exchanges else (masks[1], masks[0])
    found = exchanged(pair, passed)
    is_last = level + 1 == len(self.widths)
    return found if is_last else tuple(pooling.mean_pool(own) for own in found)

  def _head(
    self, name: str, kind: str, number: int, x: jax.Array, skips: list[jax.Array]
  ) -> jax.Array:
    if kind == "class":
      return nn.Dense(number, name=f"{name}_head")(x.mean(tuple(range(1, x.ndim - 1))))[0]
    for level in reversed(range(len(self.widths) - 1)):
      skip = skips[level]
      x = jnp.concatenate([pooling.upsample_linear(x, skip.shape[1:-1]), skip], axis=-1)
      x = _convolved(self.widths[level], f"{name}_decoder{level}", x)
    return nn.Dense(number, name=f"{name}_head")(x)[0]


def _convolved(width: int, name: str, x: jax.Array) -> jax.Array:
  """A convolution, one norm over all channels, and SiLU."""
  x = nn.Conv(width, (3,) * (x.ndim - 2), name=name)(x)
  return nn.silu(nn.GroupNorm(num_groups=1, name=f"{name}_norm")(x))
