"""Occlusion and path gradients against closed forms, NumPy and Shapley values by enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import explain
from medjax.check import InputError

RANDOM = np.random.default_rng(0)


def test_integrated_gradients_of_a_quadratic_by_hand():
  """f = x'Ax/2 + w'x has IG_i = (x - b)_i (w + A (x + b) / 2)_i, since its slope is linear in t."""
  a, w, x, b = RANDOM.normal(size=(5, 5)), *RANDOM.normal(size=(3, 5))
  a = a + a.T
  with jax.enable_x64():
    score = lambda v: v @ jnp.asarray(a) @ v / 2 + jnp.asarray(w) @ v  # noqa: E731
    for num_steps in (1, 4):  # one node of Gauss is exact for a slope of degree 1
      found = explain.integrated_gradients(
        score, jnp.asarray(x), jnp.asarray(b), num_steps=num_steps
      )
      np.testing.assert_allclose(found.values, (x - b) * (w + a @ (x + b) / 2), rtol=1e-12)
      assert abs(float(found.gap)) < 1e-12


def test_attributions_are_complete_and_the_gap_says_where_they_are_not():
  """A smooth network to 1e-5 of f - E f; a rectified one with one node is not, and says so."""
  w, v = jnp.asarray(RANDOM.normal(size=(6, 8)) / 2), jnp.asarray(RANDOM.normal(size=8))
  image, background = RANDOM.normal(size=6), RANDOM.normal(size=(7, 6))

  @jax.jit
  def run(image, background):
    smooth = lambda x: jnp.tanh(x @ w) @ v  # noqa: E731
    bent = lambda x: jax.nn.relu(x @ w) @ v  # noqa: E731
    exact = explain.expected_gradients(smooth, image, background, num_steps=16)
    rough = explain.integrated_gradients(bent, image, background[0], num_steps=1)
    return exact, smooth(image) - jax.vmap(smooth)(background).mean(), rough, (
      bent(image) - bent(background[0])
    )  # fmt: skip

  exact, wanted, rough, rise = run(jnp.asarray(image), jnp.asarray(background))
  assert abs(float(exact.values.sum() - wanted)) < 1e-5 and abs(float(exact.gap)) < 1e-5
  assert abs(float(rough.gap)) > 1e-2
  np.testing.assert_allclose(rough.gap, rough.values.sum() - rise, atol=1e-5)


def shapley(score, x, background):
  """Shapley values by all coalitions; features outside come from the background, row by row."""
  num = len(x)
  found = np.zeros(num)
  for size in range(num):
    weight = math.factorial(size) * math.factorial(num - size - 1) / math.factorial(num)
    for inside in itertools.combinations(range(num), size):
      for i in set(range(num)) - set(inside):
        mixed = background.copy()
        mixed[:, list(inside)] = x[list(inside)]
        with_i = mixed.copy()
        with_i[:, i] = x[i]
        found[i] += weight * np.mean([score(a) - score(b) for a, b in zip(with_i, mixed)])  # noqa: B905
  return found


def test_expected_gradients_of_a_sum_or_product_are_shapley_values():
  x, background = RANDOM.normal(size=4), RANDOM.normal(size=(3, 4))

  def score(v, lib=np):
    return lib.sin(v[0]) + v[1] ** 3 - 2 * v[2] + v[1] * v[3]  # products of two share by halves

  with jax.enable_x64():
    found = explain.expected_gradients(
      lambda v: score(v, jnp), jnp.asarray(x), jnp.asarray(background), num_steps=12
    )
  np.testing.assert_allclose(found.values, shapley(score, x, background), atol=1e-10)


def test_occlusion_by_numpy_with_windows_that_overlap_and_end_with_the_image():
  image, mix = RANDOM.normal(size=(5, 4, 2)), RANDOM.normal(size=(5, 4, 2))
  score = lambda x, lib=np: lib.tanh((x * mix).sum()) + (x[1] ** 2).sum()  # noqa: E731
  total, count = np.zeros((5, 4)), np.zeros((5, 4))
  for top in (0, 2):  # a window of 3, stride 2, on 5 places
    for left in (0, 1, 2):  # a window of 2, stride 1, on 4
      hidden = image.copy()
      hidden[top : top + 3, left : left + 2] = 0.5
      total[top : top + 3, left : left + 2] += score(image) - score(hidden)
      count[top : top + 3, left : left + 2] += 1
  with jax.enable_x64():
    run = jax.jit(
      lambda x: explain.occlusion(
        lambda y: score(y, jnp), x, window=(3, 2), stride=(2, 1), fill=0.5, chunk=4
      )
    )
    np.testing.assert_allclose(run(jnp.asarray(image)), total / count, atol=1e-12)


def test_of_a_sum_windows_that_do_not_overlap_add_up_to_what_was_covered():
  """Also where the last window is moved back: places that two windows hold get their mean."""
  image = jnp.asarray(RANDOM.normal(size=(6, 1)))
  found = explain.occlusion(jnp.sum, image, window=4)
  ends = [float(image[:4].sum()), float(image[2:].sum())]
  want = [ends[0]] * 2 + [sum(ends) / 2] * 2 + [ends[1]] * 2
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_what_cannot_be_explained_is_refused():
  image = jnp.ones((4, 4, 1))
  for options, said in (
    ({"window": 5}, "windows of 1 to 4"),
    ({"window": 2, "stride": 3}, "a stride of 1 to 2"),
    ({"window": (2,)}, "window for 2 axes"),
  ):
    with pytest.raises(InputError, match=said):
      explain.occlusion(jnp.sum, image, **options)
  with pytest.raises(InputError, match="image"):
    explain.integrated_gradients(jnp.sum, image, jnp.zeros((4, 4)))
  with pytest.raises(InputError, match="an empty background"):
    explain.expected_gradients(jnp.sum, image, jnp.zeros((0, 4, 4, 1)))
