"""The likeliest text of a decoder that goes word by word: greedy and beam search in one scan."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax import check

CacheT = TypeVar("CacheT")


class Texts(NamedTuple):
  """Texts that were found, the likeliest first.

  Attributes:
    words: [beam, word]; behind the end of a text stands its end again.
    log_probability: [beam] of the text and its end.
  """

  words: jax.Array
  log_probability: jax.Array


def beam_search(
  advance: Callable[[CacheT, Int[Array, ""]], tuple[Float[Array, " vocabulary"], CacheT]],
  logits: Float[Array, " vocabulary"],
  cache: CacheT,
  *,
  num_words: int,
  end: int,
  num_beams: int = 1,
) -> Texts:
  """The likeliest texts that a search of limited width finds; greedy with one beam.

  At each word every text that is kept is continued by every word, and the `num_beams` likeliest are
  kept. A text that has ended stays as it is. With as many beams as there are beginnings nothing is
  lost; with one, the likeliest next word is taken each time.

  >>> table = jnp.log(jnp.array([[0.1, 0.6, 0.3], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]]))
  >>> advance = lambda state, word: (table[word], state)
  >>> found = beam_search(advance, table[0], (), num_words=3, end=0)
  >>> found.words.tolist()  # after the start 1 is likeliest, and after 1 the end
  [[1, 0, 0]]
  >>> found = beam_search(advance, table[0], (), num_words=3, end=0, num_beams=3)
  >>> found.words.tolist()[0]  # .3 x .9 is more than .6 x .4
  [2, 0, 0]

  Args:
    advance: `advance(cache, word) -> (logits of the next word, cache)`, such as
      `WordDecoder.advance`.
    logits, cache: of the start: logits of the first word.
    num_words: longest text, its end included; one that has not ended by then is cut.
    end: the word that ends a text.
    num_beams: texts that are kept.
  """
  check.positive("num_words", num_words)
  check.positive("num_beams", num_beams)
  size = logits.shape[-1]
  check.in_interval("end", end, 0, size - 1)
  # One live beam at first: copies of it would fill the search with one text.
  scores = jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf)
  caches = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_beams, *leaf.shape)), cache)
  nexts = jnp.broadcast_to(logits, (num_beams, size))
  words = jnp.full((num_beams, num_words), end, jnp.int32)
  done = jnp.zeros(num_beams, bool)
  # A text that has ended goes on with its end alone, at no cost.
  stay = jnp.where(jnp.arange(size) == end, 0.0, -jnp.inf)

  def one(carry, place):
    scores, caches, nexts, words, done = carry
    costs = jnp.where(done[:, None], stay, jax.nn.log_softmax(nexts, axis=-1))
    best, flat = jax.lax.top_k((scores[:, None] + costs).reshape(-1), num_beams)
    beam, word = flat // size, (flat % size).astype(jnp.int32)
    words = words[beam].at[:, place].set(word)
    caches = jax.tree.map(lambda leaf: leaf[beam], caches)
    nexts, caches = jax.vmap(advance)(caches, word)
    return (best, caches, nexts, words, done[beam] | (word == end)), None

  carry = scores, caches, nexts, words, done
  (scores, _, _, words, _), _ = jax.lax.scan(one, carry, jnp.arange(num_words))
  return Texts(words, scores)
