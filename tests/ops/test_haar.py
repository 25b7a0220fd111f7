"""The Haar pyramid: orthonormal, against a matrix built with NumPy, and its inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.ops import haar

analysis = jax.jit(haar.analysis, static_argnums=1)


def image(space, channels=2):
  return np.random.default_rng(0).normal(size=(*space, channels)).astype(np.float32)


@pytest.mark.parametrize("space, levels", [((8, 16), 3), ((7, 9), 2), ((4, 8, 6), 1), ((5,), 2)])
def test_synthesis_inverts_analysis(space, levels):
  x = image(space)
  there_and_back = jax.jit(lambda x: haar.synthesis(haar.analysis(x, levels), space))
  np.testing.assert_allclose(there_and_back(x), x, atol=2e-6)


def test_integers_that_no_level_halves_come_back_exactly():
  # Over two axes the factor is 1/2 each way: for multiples of 4 nothing is ever rounded.
  x = 4 * np.random.default_rng(0).integers(-50, 50, size=(8, 8, 1)).astype(np.float32)
  back = jax.jit(lambda x: haar.synthesis(haar.analysis(x, 2), (8, 8)))(x)
  np.testing.assert_array_equal(back, x)


def test_energy_is_kept():
  x = image((8, 16))
  pyramid = analysis(x, 3)
  energy = sum(float(jnp.sum(jnp.square(band))) for band in jax.tree.leaves(pyramid))
  np.testing.assert_allclose(energy, np.sum(np.square(x, dtype=np.float64)), rtol=1e-5)


def test_one_level_is_the_product_with_the_haar_matrix():
  x = image((4, 6), 1)[..., 0]
  low, high = np.array([1, 1]) / np.sqrt(2), np.array([-1, 1]) / np.sqrt(2)

  def rows(taps, size):
    return np.kron(np.eye(size // 2), taps)

  bands = jax.jit(haar.split)(x[..., None])
  for number in range(4):
    first, second = (high if number & 1 else low), (high if number & 2 else low)
    want = rows(first, 4) @ x @ rows(second, 6).T
    np.testing.assert_allclose(bands[..., number, 0], want, atol=1e-6)


def test_details_of_a_constant_are_exactly_zero():
  pyramid = analysis(jnp.full((7, 9, 1), 0.3), 2)
  assert not any(detail.any() for detail in pyramid.details)


def test_images_too_small_and_odd_sides_are_refused():
  with pytest.raises(InputError, match="at least 8 voxels"):
    haar.analysis(jnp.ones((7, 16, 1)), 3)
  with pytest.raises(InputError, match="levels"):
    haar.analysis(jnp.ones((8, 8, 1)), 0)
  with pytest.raises(InputError, match="even"):
    haar.split(jnp.ones((7, 8, 1)))
