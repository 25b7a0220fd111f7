"""A causal decoder: words do not see the future, and the cache changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import inference, nets
from medjax.check import InputError

DECODER = nets.WordDecoder(num_words=4, max_words=3, width=8, num_layers=2, num_heads=2)
END = 0


@pytest.fixture(scope="module")
def trained():
  vector, words = jnp.array([0.3, -1.0]), jnp.array([2, 3, 1])
  params = jax.jit(DECODER.init)(jax.random.key(0), vector, words)
  # Larger weights: with those of the start every word is about as likely.
  params = jax.tree.map(lambda leaf: 3 * leaf, params)
  read = jax.jit(lambda vector, words: DECODER.apply(params, vector, words))
  return params, vector, words, read


def test_a_word_does_not_see_those_behind_it(trained):
  _, vector, words, read = trained
  first = read(vector, words)
  np.testing.assert_array_equal(first[0], read(vector, words.at[0].set(1))[0])
  later = read(vector, words.at[1].set(0))
  np.testing.assert_array_equal(first[:2], later[:2])
  assert np.abs(first[2] - later[2]).max() > 1e-3
  assert np.abs(first[0] - read(vector + 1, words)[0]).max() > 1e-3


def test_word_by_word_with_a_cache_gives_the_logits_of_the_whole_text(trained):
  params, vector, words, read = trained
  logits, cache = DECODER.apply(params, vector, method="start")
  found = [logits]
  for word in words[:-1]:
    logits, cache = DECODER.apply(params, cache, word, method="advance")
    found.append(logits)
  np.testing.assert_allclose(np.stack(found), read(vector, words), atol=1e-5)
  assert int(cache.length) == 3


def every_text(read, vector):
  """Text -> log probability, of all texts of at most three words, by reading each."""
  found = {}
  for text in np.ndindex(4, 4, 4):
    costs = np.asarray(jax.nn.log_softmax(read(vector, jnp.array(text))))
    length = text.index(END) + 1 if END in text else 3
    cut = (*text[:length], *(3 - length) * (END,))
    found[cut] = float(sum(costs[i, word] for i, word in enumerate(text[:length])))
  return found


def test_search_finds_the_likeliest_of_all_texts_and_greedy_takes_the_likeliest_next_word(trained):
  params, vector, _, read = trained
  texts = every_text(read, vector)
  np.testing.assert_allclose(np.exp(list(texts.values())).sum(), 1, rtol=1e-4)
  logits, cache = DECODER.apply(params, vector, method="start")

  def search(num_beams):
    return inference.beam_search(
      lambda cache, word: DECODER.apply(params, cache, word, method="advance"),
      logits,
      cache,
      num_words=3,
      end=END,
      num_beams=num_beams,
    )

  best = sorted(texts, key=texts.get, reverse=True)
  wide = search(16)
  for place in range(3):
    assert tuple(wide.words[place].tolist()) == best[place]
    np.testing.assert_allclose(wide.log_probability[place], texts[best[place]], atol=1e-4)
  greedy, text = search(1), []
  for place in range(3):
    row = read(vector, jnp.array([*text, *(3 - place) * (0,)]))[place]
    text.append(int(np.argmax(row)))
    if text[-1] == END:
      break
  assert greedy.words[0].tolist() == [*text, *(3 - len(text)) * (END,)]


def test_bad_input_is_named(trained):
  params, vector, _, _ = trained
  with pytest.raises(InputError, match="at most 3 words, got 4"):
    DECODER.apply(params, vector, jnp.zeros(4, jnp.int32))
  with pytest.raises(InputError, match=r"end in \[0, 2\], got end=5"):
    inference.beam_search(lambda c, w: (jnp.zeros(3), c), jnp.zeros(3), (), num_words=2, end=5)
