"""GradCAM against a closed form and finite differences; maps in boxes; a network cut at a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import explain, nets
from medjax.check import InputError

RANDOM = np.random.default_rng(0)


def test_of_a_mean_and_a_linear_layer_it_is_cam_over_the_places():
  activations, weights = RANDOM.normal(size=(4, 5, 3)), RANDOM.normal(size=3)
  got = explain.gradcam(lambda a: a.mean((0, 1)) @ jnp.asarray(weights), jnp.asarray(activations))
  np.testing.assert_allclose(got, np.maximum(activations @ weights, 0) / 20, rtol=1e-5, atol=1e-6)


def test_its_weights_are_finite_differences_of_a_curved_score():
  """Adding h to a whole feature moves the score by h times the number of places times alpha."""
  activations = RANDOM.normal(size=(3, 2, 4))
  mix = RANDOM.normal(size=(24,))

  def score(a):
    return jnp.tanh(a.ravel() @ jnp.asarray(mix)) + (a[0, 0] ** 2).sum()

  h, alpha = 1e-5, []
  with jax.enable_x64():
    for feature in range(4):
      step = h * np.eye(4)[feature]
      ends = [float(score(jnp.asarray(activations + sign * step))) for sign in (1, -1)]
      alpha.append((ends[0] - ends[1]) / (2 * h) / 6)
    got = explain.gradcam(score, jnp.asarray(activations))
  np.testing.assert_allclose(got, np.maximum(activations @ np.array(alpha), 0), atol=1e-8)


def test_a_network_cut_at_a_layer_is_the_whole_network():
  """`nets.features` and `nets.from_features`, with words that go round the layer."""
  module = nets.ImageText(3, widths=(2, 4), text="mean", has_map=True)
  image, words = jnp.asarray(RANDOM.normal(size=(4, 4, 1))), jnp.ones((2, 3))
  is_word = jnp.array([True, False])

  @jax.jit
  def run(key, words):
    whole, variables = module.init_with_output(key, image, words, is_word)
    own = nets.features(module, "encoder0")(variables["params"], image, words, is_word)
    rest = nets.from_features(module, "encoder0")
    cut = rest(variables["params"], own, image, words, is_word)
    return whole, cut, rest(variables["params"], 0 * own, image, words, is_word)

  whole, cut, other = run(jax.random.key(0), words)
  np.testing.assert_allclose(cut.logits, whole.logits, rtol=1e-6)
  np.testing.assert_allclose(cut.heat, whole.heat, rtol=1e-6)
  assert not np.allclose(other.logits, whole.logits)
  # a word after the end of the text changes nothing, whatever it holds
  lost, *_ = run(jax.random.key(0), words.at[1].set(jnp.nan))
  np.testing.assert_array_equal(lost.logits, whole.logits)
  with pytest.raises(InputError, match="the layer 'encoder9'"):
    jax.eval_shape(
      nets.from_features(module, "encoder9"),
      jax.eval_shape(module.init, jax.random.key(0), image, words, is_word)["params"],
      jnp.ones((4, 4, 2)),
      image,
      words,
      is_word,
    )


def test_an_lstm_reads_the_order_of_words_up_to_the_end_of_the_text():
  module = nets.ImageText(2, widths=(2,), text="lstm", num_states=3)
  image, words = jnp.zeros((2, 2, 1)), jnp.asarray(RANDOM.normal(size=(3, 2)), jnp.float32)
  params = jax.jit(module.init)(jax.random.key(1), image, words, jnp.ones(3, bool))
  call = jax.jit(module.apply)
  short = call(params, image, words, jnp.array([True, True, False])).logits
  np.testing.assert_array_equal(
    short, call(params, image, words.at[2].set(jnp.nan), jnp.array([True, True, False])).logits
  )
  assert not np.allclose(short, call(params, image, words, jnp.ones(3, bool)).logits)
  swapped = call(params, image, words[jnp.array([1, 0, 2])], jnp.array([True, True, False])).logits
  assert not np.allclose(short, swapped)


def test_attention_in_a_box_by_numpy_and_by_chance():
  attention, box = RANDOM.uniform(0, 255, (6, 8)), np.zeros((6, 8), bool)
  box[1:4, 2:7] = True
  found = explain.attention_in_box(jnp.asarray(attention), jnp.asarray(box))
  inside, outside = attention[box], attention[~box]
  np.testing.assert_allclose(found.published, inside[inside > 100].sum() / outside.sum(), rtol=1e-5)
  want = inside.mean() / (inside.mean() + outside.mean())
  np.testing.assert_allclose(found.by_area, want, rtol=1e-5)
  for size in (1, 20):  # the published measure of a flat map grows with the box, the other is 1/2
    large = jnp.arange(48).reshape(6, 8) < size
    flat = explain.attention_in_box(jnp.full((6, 8), 200.0), large)
    np.testing.assert_allclose([flat.published, flat.by_area], [size / (48 - size), 0.5], rtol=1e-6)
  nothing = explain.attention_in_box(jnp.zeros((6, 8)), jnp.asarray(box))
  assert (float(nothing.published), float(nothing.by_area)) == (0, 0.5)
