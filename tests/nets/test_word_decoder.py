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


MEMORY = nets.WordDecoder(
  num_words=4, max_words=3, width=8, num_layers=2, num_heads=2, num_prefix=2, num_slots=3
)


@pytest.fixture(scope="module")
def remembering():
  vectors, words = jnp.array([[0.3, -1.0], [0.7, 0.2]]), jnp.array([2, 3, 1])
  start = jax.jit(MEMORY.init)(jax.random.key(0), vectors, words)
  random = np.random.default_rng(1)
  # The parts of the memory norms begin with zeros; then the memory would change nothing.
  params = jax.tree.map(lambda x: x + jnp.float32(0.5 * random.normal(size=x.shape)), start)
  return start, params, vectors, words, jax.jit(MEMORY.apply)


@jax.jit
def word_by_word(params, vectors, words):
  """Logits of all words, and the cache after all but the last."""
  logits, cache = MEMORY.apply(params, vectors, method="start")
  found = [logits]
  for word in words[:-1]:
    logits, cache = MEMORY.apply(params, cache, word, method="advance")
    found.append(logits)
  return jnp.stack(found), cache


def test_with_a_memory_too_the_cache_changes_nothing_and_no_word_sees_the_future(remembering):
  _, params, vectors, words, read = remembering
  whole = read(params, vectors, words)
  found, _ = word_by_word(params, vectors, words)
  np.testing.assert_allclose(found, whole, atol=2e-5)
  later = read(params, vectors, words.at[1].set(0))
  np.testing.assert_array_equal(whole[:2], later[:2])
  assert np.abs(whole[2] - later[2]).max() > 1e-3


def test_vectors_of_an_image_see_each_other_so_that_words_are_told_a_set(remembering):
  _, params, vectors, words, read = remembering
  table = params["params"]["place"]["embedding"]
  alike = {**params["params"], "place": {"embedding": table.at[1].set(table[0])}}
  one, other = (read({"params": alike}, own, words) for own in (vectors, vectors[::-1]))
  # The first word is said at the last vector; later ones see both alike, whichever comes first.
  np.testing.assert_allclose(one[1:], other[1:], atol=2e-5)
  assert np.abs(one[0] - other[0]).max() > 1e-3
  for k in range(2):
    assert np.abs(one[0] - read({"params": alike}, vectors.at[k].add(1.0), words)[0]).max() > 1e-3


def test_the_memory_is_written_as_the_paper_has_it_and_changes_nothing_at_the_start(remembering):
  start, params, vectors, words, read = remembering
  own = jax.tree.map(np.asarray, params["params"]["memory"])
  table = np.asarray(params["params"]["word"]["embedding"])

  def dense(name, x):
    return x @ own[name]["kernel"] + own[name]["bias"]

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  memory = np.eye(3, 8)
  for word in words[:-1]:
    seen = np.concatenate([memory, table[word][None]])
    q, k, v = dense("query", memory), dense("key", seen), dense("value", seen)
    heads = []
    for half in (slice(0, 4), slice(4, 8)):  # two heads
      weights = np.exp(q[:, half] @ k[:, half].T / 2)  # the root of 4 channels
      heads.append(weights / weights.sum(1, keepdims=True) @ v[:, half])
    z = memory + dense("mix", np.concatenate(heads, axis=1))
    new = z + np.maximum(dense("back", np.maximum(dense("wide", z), 0)), 0)
    gates = sigmoid(dense("by_word", table[word]) + dense("by_memory", np.tanh(memory)))
    memory = gates[:, :8] * np.tanh(new) + gates[:, 8:] * memory
  _, cache = word_by_word(params, vectors, words)
  np.testing.assert_allclose(cache.memory, memory, atol=1e-5)
  # With the weights of the start the norms are plain: another memory changes no logit.
  moved = jax.tree.map(lambda x: x, start)
  moved["params"]["memory"] = jax.tree.map(lambda x: 5 * x + 1, start["params"]["memory"])
  np.testing.assert_array_equal(read(start, vectors, words), read(moved, vectors, words))


def test_bad_input_is_named(trained):
  params, vector, _, _ = trained
  with pytest.raises(InputError, match="at most 3 words, got 4"):
    DECODER.apply(params, vector, jnp.zeros(4, jnp.int32))
  with pytest.raises(InputError, match="1 vectors of an image, got 2"):
    DECODER.apply(params, jnp.zeros((2, 2)), jnp.zeros(3, jnp.int32))
  with pytest.raises(InputError, match="1 to 8 slots.*got 9"):
    nets.RelationalMemory(9, 8).empty()
  with pytest.raises(InputError, match=r"end in \[0, 2\], got end=5"):
    inference.beam_search(lambda c, w: (jnp.zeros(3), c), jnp.zeros(3), (), num_words=2, end=5)
