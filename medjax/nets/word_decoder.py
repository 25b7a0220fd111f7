"""A small causal decoder: words one after the other, told by a vector of an image.

The tokens are [vector of the image; word 1; word 2; ...] and each sees those before it, so the
logits at the vector are those of the first word (prefix conditioning, as in Nguyen and Kwak, "GPC"
2023, and in captioning before it). `WordDecoder.__call__` reads a whole text at once, for training;
`start` and `advance` go word by word and keep keys and values, for `inference.beam_search`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from medjax import check


class WordCache(NamedTuple):
  """What the words so far have left behind.

  Attributes:
    keys, values: [layer, place, head, channel]; places that are not reached yet hold zeros.
    length: [] tokens so far, the vector of the image included.
  """

  keys: jax.Array
  values: jax.Array
  length: jax.Array


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
  """

  num_words: int
  max_words: int
  width: int = 48
  num_layers: int = 2
  num_heads: int = 4

  def setup(self) -> None:
    check.require(
      self.width % self.num_heads == 0,
      "a width that num_heads divides",
      f"width {self.width} and {self.num_heads} heads",
      "change one of them",
    )
    self.prefix = nn.Dense(self.width)
    self.word = nn.Embed(self.num_words, self.width)
    self.place = nn.Embed(self.max_words + 1, self.width)
    self.joint = [nn.Dense(3 * self.width) for _ in range(self.num_layers)]
    self.mix = [nn.Dense(self.width) for _ in range(self.num_layers)]
    self.wide = [nn.Dense(2 * self.width) for _ in range(self.num_layers)]
    self.back = [nn.Dense(self.width) for _ in range(self.num_layers)]
    self.norms = [nn.LayerNorm() for _ in range(2 * self.num_layers + 1)]
    self.out = nn.Dense(self.num_words)

  def __call__(
    self, vector: Float[Array, " code"], words: Int[Array, " word"]
  ) -> Float[Array, "word vocabulary"]:
    """Logits of every word of a text from the vector and the words before it (teacher forcing)."""
    check.require(
      len(words) <= self.max_words,
      f"at most {self.max_words} words",
      f"{len(words)}",
      "raise max_words",
    )
    x = jnp.concatenate([self.prefix(vector)[None], self.word(words[:-1])])
    return self._run(x, self._empty(), last_only=False)[0]

  def start(self, vector: Float[Array, " code"]) -> tuple[Float[Array, " vocabulary"], WordCache]:
    """Logits of the first word, and the cache."""
    logits, cache = self._run(self.prefix(vector)[None], self._empty())
    return logits[0], cache

  def advance(
    self, cache: WordCache, word: Int[Array, ""]
  ) -> tuple[Float[Array, " vocabulary"], WordCache]:
    """Logits of the word after `word`, and the cache with it."""
    logits, cache = self._run(self.word(word)[None], cache)
    return logits[0], cache

  def _empty(self) -> WordCache:
    shape = self.num_layers, self.max_words + 1, self.num_heads, self.width // self.num_heads
    return WordCache(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((), jnp.int32))

  def _run(
    self, x: Float[Array, "token width"], cache: WordCache, *, last_only: bool = True
  ) -> tuple[Float[Array, "token vocabulary"], WordCache]:
    """Tokens behind those of the cache."""
    places = cache.length + jnp.arange(len(x))
    x = x + self.place(places)
    # A token sees itself and everything before it; places beyond are not reached yet.
    seen = jnp.arange(self.max_words + 1)[None, :] <= places[:, None]
    keys, values = [], []
    for layer in range(self.num_layers):
      q, k, v = jnp.split(self.joint[layer](self.norms[2 * layer](x)), 3, axis=-1)
      q, k, v = (part.reshape(len(x), self.num_heads, -1) for part in (q, k, v))
      at = (cache.length, 0, 0)
      keys.append(jax.lax.dynamic_update_slice(cache.keys[layer], k, at))
      values.append(jax.lax.dynamic_update_slice(cache.values[layer], v, at))
      scores = jnp.einsum("ihc,jhc->hij", q, keys[-1]) / jnp.sqrt(jnp.float32(q.shape[-1]))
      weights = jax.nn.softmax(jnp.where(seen[None], scores, -jnp.inf), axis=-1)
      mixed = jnp.einsum("hij,jhc->ihc", weights, values[-1]).reshape(len(x), self.width)
      x = x + self.mix[layer](mixed)
      x = x + self.back[layer](nn.gelu(self.wide[layer](self.norms[2 * layer + 1](x))))
    x = x[-1:] if last_only else x
    kept = WordCache(jnp.stack(keys), jnp.stack(values), cache.length + len(places))
    return self.out(self.norms[-1](x)), kept
