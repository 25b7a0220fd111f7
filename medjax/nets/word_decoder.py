"""A small causal decoder: words one after the other, told by one or several vectors of an image.

The tokens are [vectors of the image; word 1; word 2; ...] and each sees those before it, so the
logits at the last vector are those of the first word (prefix conditioning, as in Nguyen and Kwak,
"GPC" 2023, and in captioning before it). Vectors of an image also see each other, as in an encoder.
`WordDecoder.__call__` reads a whole text at once, for training; `start` and `advance` go word by
word and keep keys and values, for `inference.beam_search`. With `num_slots` a memory of what has
been said drives every layer norm (`nets.RelationalMemory`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from medjax import check
from medjax.nets.relational_memory import MemoryNorm, RelationalMemory


class WordCache(NamedTuple):
  """What the words so far have left behind.

  Attributes:
    keys, values: [layer, place, head, channel]; places that are not reached yet hold zeros.
    length: [] tokens so far, the vectors of the image included.
    memory: [slot, width] after the words so far; no rows without a memory.
  """

  keys: jax.Array
  values: jax.Array
  length: jax.Array
  memory: jax.Array


class WordDecoder(nn.Module):
  """Logits of each next word of one text.

  >>> decoder = WordDecoder(num_words=5, max_words=4, width=8, num_layers=1, num_heads=2)
  >>> vector, words = jnp.ones(3), jnp.array([2, 4, 0])
  >>> params = decoder.init(jax.random.key(0), vector, words)
  >>> decoder.apply(params, vector, words).shape  # of word 1, 2 and 3, each from those before it
  (3, 5)

  Attributes:
    num_words: of the vocabulary.
    max_words: longest text, its end included.
    width: channels of a token, a multiple of `num_heads`.
    num_layers, num_heads: of the transformer.
    num_prefix: vectors of an image.
    num_slots: rows of the memory, 0 for none.
  """

  num_words: int
  max_words: int
  width: int = 48
  num_layers: int = 2
  num_heads: int = 4
  num_prefix: int = 1
  num_slots: int = 0

  def setup(self) -> None:
    check.require(
      self.width % self.num_heads == 0,
      "a width that num_heads divides",
      f"width {self.width} and {self.num_heads} heads",
      "change one of them",
    )
    self.prefix = nn.Dense(self.width)
    self.word = nn.Embed(self.num_words, self.width)
    self.place = nn.Embed(self.max_words + self.num_prefix, self.width)
    self.joint = [nn.Dense(3 * self.width) for _ in range(self.num_layers)]
    self.mix = [nn.Dense(self.width) for _ in range(self.num_layers)]
    self.wide = [nn.Dense(2 * self.width) for _ in range(self.num_layers)]
    self.back = [nn.Dense(self.width) for _ in range(self.num_layers)]
    norm = MemoryNorm if self.num_slots else nn.LayerNorm
    norms: list[Any] = [norm() for _ in range(2 * self.num_layers)]
    self.norms = [*norms, nn.LayerNorm()]
    if self.num_slots:
      self.memory = RelationalMemory(self.num_slots, self.width, self.num_heads)
    self.out = nn.Dense(self.num_words)

  def __call__(
    self, vectors: Float[Array, "*prefix code"], words: Int[Array, " word"]
  ) -> Float[Array, "word vocabulary"]:
    """Logits of every word of a text from the image and the words before it (teacher forcing).

    Args:
      vectors: [code] of an image, or [num_prefix, code].
      words: numbers of the words.
    """
    check.require(
      len(words) <= self.max_words,
      f"at most {self.max_words} words",
      f"{len(words)}",
      "raise max_words",
    )
    logits, _ = self._run(self._told(vectors), self.word(words[:-1]), self._empty())
    return logits[self.num_prefix - 1 :]

  def start(
    self, vectors: Float[Array, "*prefix code"]
  ) -> tuple[Float[Array, " vocabulary"], WordCache]:
    """Logits of the first word, and the cache."""
    no_words = jnp.zeros((0, self.width))
    logits, cache = self._run(self._told(vectors), no_words, self._empty())
    return logits[-1], cache

  def advance(
    self, cache: WordCache, word: Int[Array, ""]
  ) -> tuple[Float[Array, " vocabulary"], WordCache]:
    """Logits of the word after `word`, and the cache with it."""
    logits, cache = self._run(jnp.zeros((0, self.width)), self.word(word)[None], cache)
    return logits[-1], cache

  def _told(self, vectors: Float[Array, "*prefix code"]) -> Float[Array, "prefix width"]:
    vectors = jnp.atleast_2d(vectors)
    check.require(
      len(vectors) == self.num_prefix,
      f"{self.num_prefix} vectors of an image",
      f"{len(vectors)}",
      "set num_prefix",
    )
    return self.prefix(vectors)

  def _empty(self) -> WordCache:
    places = self.max_words + self.num_prefix
    shape = self.num_layers, places, self.num_heads, self.width // self.num_heads
    memory = self.memory.empty() if self.num_slots else jnp.zeros((0, self.width))
    return WordCache(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((), jnp.int32), memory)

  def _memories(
    self, told: Float[Array, "prefix width"], words: Float[Array, "word width"], memory: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The memory that belongs to each token [token, slot * width], and the last one.

    Vectors of the image change nothing in it; a word sees the memory that it has been written to.
    """
    before = jnp.broadcast_to(memory.reshape(-1), (len(told), memory.size))

    def write(
      module: RelationalMemory, memory: jax.Array, word: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
      memory = module(memory, word)
      return memory, memory.reshape(-1)

    if len(words) == 0 and not self.is_initializing():
      return before, memory
    scan = nn.scan(write, variable_broadcast="params", split_rngs={"params": False})
    memory, after = scan(self.memory, memory, words)
    return jnp.concatenate([before, after]), memory

  def _run(
    self, told: Float[Array, "prefix width"], words: Float[Array, "word width"], cache: WordCache
  ) -> tuple[Float[Array, "token vocabulary"], WordCache]:
    """Logits at all tokens given, which stand behind those of the cache."""
    x = jnp.concatenate([told, words])
    memory, memories = cache.memory, None
    if self.num_slots:
      memories, memory = self._memories(told, words, cache.memory)

    def norm(number: int, x: jax.Array) -> jax.Array:
      module: Any = self.norms[number]
      return module(x) if memories is None else module(x, memories)

    places = cache.length + jnp.arange(len(x))
    x = x + self.place(places)
    # A token sees itself and everything before it, and the image as a whole; places beyond are not
    # reached yet.
    every = jnp.arange(self.max_words + self.num_prefix)[None, :]
    seen = (every <= places[:, None]) | (every < self.num_prefix)
    keys, values = [], []
    for layer in range(self.num_layers):
      q, k, v = jnp.split(self.joint[layer](norm(2 * layer, x)), 3, axis=-1)
      q, k, v = (part.reshape(len(x), self.num_heads, -1) for part in (q, k, v))
      at = (cache.length, 0, 0)
      keys.append(jax.lax.dynamic_update_slice(cache.keys[layer], k, at))
      values.append(jax.lax.dynamic_update_slice(cache.values[layer], v, at))
      scores = jnp.einsum("ihc,jhc->hij", q, keys[-1]) / jnp.sqrt(jnp.float32(q.shape[-1]))
      weights = jax.nn.softmax(jnp.where(seen[None], scores, -jnp.inf), axis=-1)
      mixed = jnp.einsum("hij,jhc->ihc", weights, values[-1]).reshape(len(x), self.width)
      x = x + self.mix[layer](mixed)
      x = x + self.back[layer](nn.gelu(self.wide[layer](norm(2 * layer + 1, x))))
    kept = WordCache(jnp.stack(keys), jnp.stack(values), cache.length + len(places), memory)
    return self.out(self.norms[-1](x)), kept
