"""Rollout, insertion and deletion curves, and maps under shuffled weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from medjax import explain
from medjax.check import InputError

RANDOM = np.random.default_rng(0)
KEY = jax.random.key(0)


def test_rollout_by_numpy_and_a_padded_token_reaches_nobody():
  attention = RANDOM.dirichlet(np.ones(4), size=(3, 2, 5))
  attention = np.concatenate([attention, np.zeros((3, 2, 5, 1))], axis=-1)  # the last key is padded
  whole = np.eye(5)
  for layer in attention:
    whole = (layer.mean(0) + np.eye(5)) / 2 @ whole
  found = np.asarray(explain.attention_rollout(jnp.asarray(attention)))
  np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
  assert (found[:4, 4] == 0).all()
  with pytest.raises(InputError, match="layer, head, token, token"):
    explain.attention_rollout(jnp.ones((2, 5, 5)))


def test_curves_of_a_sum_are_sums_of_the_sorted_parts():
  """The right order has the largest insertion area of all orders, the reverse the smallest."""
  image = RANDOM.uniform(size=(3, 4, 2))
  run = jax.jit(
    lambda values: explain.map_curves(
      jnp.sum, jnp.asarray(image), values, KEY, num_steps=12, chunk=5
    )
  )
  parts = np.sort(image.sum(-1).ravel())[::-1]
  want = np.concatenate([[0], np.cumsum(parts)])
  right = run(jnp.asarray(image.sum(-1)))
  np.testing.assert_allclose(right.insertion, want, rtol=1e-5)
  np.testing.assert_allclose(right.deletion, want[-1] - want, atol=1e-5)
  np.testing.assert_allclose(right.insertion_area, np.trapezoid(want) / 12, rtol=1e-5)
  wrong = run(-jnp.asarray(image.sum(-1)))
  chance = run(jnp.asarray(RANDOM.normal(size=(3, 4))))
  assert wrong.insertion_area < chance.insertion_area < right.insertion_area
  assert wrong.deletion_area > chance.deletion_area > right.deletion_area


def test_a_map_that_says_nothing_is_judged_by_chance_and_not_by_position():
  """All weight at the top of the image: a flat map, averaged over keys, has the area of chance."""
  image = jnp.zeros((8, 1, 1)).at[:2].set(1.0)
  areas = jax.jit(
    jax.vmap(
      lambda key: (
        explain.map_curves(jnp.sum, image, jnp.zeros((8, 1)), key, num_steps=8).insertion_area
      )
    )
  )(jax.random.split(KEY, 400))
  assert abs(float(areas.mean()) - 1.0) < 0.05  # 2 * 1/2; by position it would be 1.875
  with pytest.raises(InputError, match="num_steps"):
    explain.map_curves(jnp.sum, image, jnp.zeros((8, 1)), KEY, num_steps=9)


def test_rank_correlation_is_scipys_also_with_ties():
  for _ in range(3):
    one, other = RANDOM.integers(0, 5, (2, 6, 7)).astype(float)
    want = scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic
    got = explain.rank_correlation(jnp.asarray(one), jnp.asarray(other))
    np.testing.assert_allclose(got, want, atol=1e-6)
  flat, steep = jnp.ones(4), jnp.arange(4.0)
  assert float(explain.rank_correlation(flat, 2 * flat)) == 1
  assert float(explain.rank_correlation(flat, steep)) == 0


def test_shuffling_goes_from_the_output_down_and_moves_nothing_else():
  """The gradient of v'(u * x) is v * u: its correlation is that of the shuffled product."""
  params = {"first": {"u": jnp.asarray(RANDOM.normal(size=30))}, "last": jnp.arange(1.0, 31.0)}
  images = jnp.asarray(RANDOM.normal(size=(2, 30)))
  gradient = jax.grad(lambda x, p: p["last"] @ (p["first"]["u"] * x))
  found = explain.randomised_weights(
    lambda p, x: gradient(x, p), params, images, KEY, layers=("last", "first/u")
  )
  assert list(found) == ["last", "first/u"]
  for layer, chosen in (("last", {"last"}), ("first/u", {"last", "first/u"})):
    other = explain.shuffled_weights(params, KEY, lambda name, chosen=chosen: name in chosen)
    if layer == "last":
      np.testing.assert_array_equal(other["first"]["u"], params["first"]["u"])
    np.testing.assert_array_equal(np.sort(other["last"]), params["last"])
    before, after = (p["last"] * p["first"]["u"] for p in (params, other))
    want = scipy.stats.spearmanr(before, after).statistic
    np.testing.assert_allclose(found[layer], [want] * 2, atol=1e-6)
    assert want < 0.95


def test_a_map_of_the_image_alone_is_found_out():
  params = {"w": jnp.asarray(RANDOM.normal(size=20))}
  images = jnp.asarray(RANDOM.normal(size=(3, 20)))
  edges = explain.randomised_weights(lambda p, x: jnp.diff(x) ** 2, params, images, KEY)
  np.testing.assert_allclose(edges[""], 1, atol=1e-6)
  mixed = explain.randomised_weights(lambda p, x: p["w"] * x, params, images, KEY)
  assert (mixed[""] < 0.8).all()
  with pytest.raises(InputError, match="begins with 'head'"):
    explain.randomised_weights(lambda p, x: x, params, images, KEY, layers=("head",))


def test_every_leaf_has_an_order_of_its_own():
  twins = {"one": jnp.arange(20), "two": jnp.arange(20)}
  found = explain.shuffled_weights(twins, KEY, lambda name: True)
  assert not np.array_equal(found["one"], found["two"])
