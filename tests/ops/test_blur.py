import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax import check
from medjax.ops import blur


@pytest.mark.parametrize("sigma", [(1.0, 2.5), (0.0, 0.7), (1.5, 0.5, 2.0)])
def test_blur_of_an_impulse_equals_scipy(sigma):
  shape = (25, 31, 27)[: len(sigma)]
  image = np.zeros(shape, np.float32)
  image[(12, 15, 13)[: len(sigma)]] = 1
  expected = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=8.0)
  blurred = jax.jit(blur.gaussian_blur)(image[..., None], jnp.array(sigma))[..., 0]
  # 4.8 sigma from the border renormalisation and truncation weigh less than 1e-6.
  np.testing.assert_allclose(blurred, expected, atol=2e-6)


def test_sigma_zero_is_the_identity_and_constants_stay():
  image = jax.random.normal(jax.random.key(0), (6, 5, 4, 2))
  gaussian_blur = jax.jit(blur.gaussian_blur)
  np.testing.assert_array_equal(gaussian_blur(image, jnp.zeros(3)), image)
  constant = gaussian_blur(jnp.full((6, 5, 1), 3.0), jnp.array([2.0, 50.0]))
  np.testing.assert_allclose(constant, 3.0, rtol=1e-6)


def test_gradient_in_sigma_equals_finite_differences():
  image = jax.random.normal(jax.random.key(0), (9, 8, 1))

  @jax.jit
  def energy(sigma):
    return jnp.sum(jnp.square(blur.gaussian_blur(image, sigma)))

  gradient = jax.jit(jax.grad(energy))
  sigma, step = jnp.array([0.8, 1.3]), 1e-2
  slopes = gradient(sigma)
  for axis in range(2):
    offset = step * jnp.eye(2)[axis]
    slope = (energy(sigma + offset) - energy(sigma - offset)) / (2 * step)
    np.testing.assert_allclose(slopes[axis], slope, rtol=5e-3)  # step^2 and float32
  assert jnp.all(jnp.isfinite(gradient(jnp.zeros(2))))


def test_one_sigma_per_axis():
  with pytest.raises(check.InputError, match="sigma"):
    blur.gaussian_blur(jnp.zeros((4, 4, 1)), jnp.ones(3))


@pytest.mark.parametrize("num_samples", [(4, 7), (6, 5), (3, 1), (12, 7)])
def test_low_resolution_is_nearest_sampling_and_linear_interpolation(num_samples):
  image = np.random.default_rng(0).random((12, 7), np.float32)
  expected = image
  for axis, count in enumerate(num_samples):
    size = image.shape[axis]
    places = (np.arange(count) + 0.5) * size / count
    taken = np.take(expected, np.floor(places).astype(int), axis)  # halves: the upper voxel

    def back(samples, count=count, size=size):
      return np.interp((np.arange(size) + 0.5) * count / size - 0.5, np.arange(count), samples)

    expected = np.apply_along_axis(back, axis, taken)
  low = jax.jit(blur.low_resolution)(image[..., None], jnp.array(num_samples))
  np.testing.assert_allclose(low[..., 0], expected, atol=1e-6)
  if num_samples == image.shape:
    np.testing.assert_array_equal(low[..., 0], image)
