"""A memory that is written word by word, and a layer norm that it drives.

Chen, Song, Chang and Wan, "Generating Radiology Reports via Memory-driven Transformer" (R2Gen,
2020). Reports repeat patterns, and the memory M [slot, width] keeps what has been said so far:

  Z_t = M_{t-1} + attention(Q = M_{t-1}, K = V = [M_{t-1}; y_{t-1}]),   N_t = Z_t + MLP(Z_t)
  M_t = sigma(i) tanh(N_t) + sigma(f) M_{t-1},   (i, f) = W y_{t-1} + U tanh(M_{t-1})

with y the vector of a word. Every layer norm of the decoder is then told of it:

  MCLN(x_t) = (gamma + MLP_gamma(M_t)) (x_t - mean) / deviation + beta + MLP_beta(M_t).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from medjax import check


class RelationalMemory(nn.Module):
  """The memory after one more word.

  >>> memory = RelationalMemory(num_slots=3, width=8, num_heads=2)
  >>> start, word = memory.empty(), jnp.ones(8)
  >>> params = memory.init(jax.random.key(0), start, word)
  >>> memory.apply(params, start, word).shape
  (3, 8)

  Attributes:
    num_slots: rows of the memory; R2Gen has 3. At most `width`.
    width: channels of a row and of a word, a multiple of `num_heads`.
    num_heads: of its attention.
  """

  num_slots: int
  width: int
  num_heads: int = 4

  def empty(self) -> Float[Array, "slot width"]:
    """The memory before the first word: its rows differ, or they would stay alike for ever."""
    check.require(
      1 <= self.num_slots <= self.width,
      f"1 to {self.width} slots, as many as the width",
      f"{self.num_slots}",
      "take fewer slots",
    )
    return jnp.eye(self.num_slots, self.width)

  @nn.compact
  def __call__(
    self, memory: Float[Array, "slot width"], word: Float[Array, " width"]
  ) -> Float[Array, "slot width"]:
    """M_t of M_{t-1} and the vector of a word."""
    seen = jnp.concatenate([memory, word[None]])
    q, k, v = (
      nn.Dense(self.width, name=name)(x).reshape(len(x), self.num_heads, -1)
      for name, x in (("query", memory), ("key", seen), ("value", seen))
    )
    scores = jnp.einsum("ihc,jhc->hij", q, k) / jnp.sqrt(jnp.float32(q.shape[-1]))
    mixed = jnp.einsum("hij,jhc->ihc", jax.nn.softmax(scores, axis=-1), v)
    new = memory + nn.Dense(self.width, name="mix")(mixed.reshape(memory.shape))
    wide = nn.relu(nn.Dense(self.width, name="wide")(new))
    new = new + nn.relu(nn.Dense(self.width, name="back")(wide))
    by_word = nn.Dense(2 * self.width, name="by_word")(word)[None]
    gates = by_word + nn.Dense(2 * self.width, name="by_memory")(jnp.tanh(memory))
    write, keep = jnp.split(nn.sigmoid(gates), 2, axis=-1)
    return write * jnp.tanh(new) + keep * memory


class MemoryNorm(nn.Module):
  """Layer norm whose scale and shift the memory moves (MCLN).

  At the start it is the plain layer norm, since the last layers of both MLPs begin with zeros.

  >>> norm, tokens = MemoryNorm(), jnp.array([[1.0, 3.0]])
  >>> params = norm.init(jax.random.key(0), tokens, jnp.ones((1, 6)))
  >>> [[f"{x:.2f}" for x in row] for row in norm.apply(params, tokens, jnp.ones((1, 6)))]
  [['-1.00', '1.00']]
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, "token width"], memory: Float[Array, "token channel"]
  ) -> Float[Array, "token width"]:
    """Normalised tokens; the memory that belongs to each stands as one row."""
    width = x.shape[-1]
    zeros = nn.initializers.zeros_init()
    hidden = nn.relu(nn.Dense(2 * width, name="told")(memory))
    of_scale, of_shift = jnp.split(hidden, 2, axis=-1)
    scale = nn.Dense(width, name="scale", kernel_init=zeros)(of_scale)
    shift = nn.Dense(width, name="shift", kernel_init=zeros)(of_shift)
    # The biases of the last two layers are the beta and the gamma less 1 of the paper.
    return nn.LayerNorm(use_scale=False, use_bias=False)(x) * (1 + scale) + shift
