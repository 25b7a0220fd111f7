import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from medjax.synth import intensity, noise, resolution


@pytest.mark.parametrize("signal", [0.0, 0.1, 1.0])
def test_rician_noise_has_the_moments_of_the_rice_distribution(signal):
  sigma, count = 0.1, 40_000
  model = noise.Noise((sigma, sigma), rician_probability=1.0)
  image = jnp.full((200, 200, 1), signal)
  noisy = np.asarray(model.apply(model.draw(jax.random.key(0), image.shape), image))
  rice = stats.rice(signal / sigma, scale=sigma)
  assert abs(noisy.mean() - rice.mean()) < 4 * rice.std() / count**0.5
  # E[y^2] = x^2 + 2 sigma^2, with the variance of y^2 = 4 x^2 sigma^2 + 4 sigma^4
  spread = (4 * signal**2 * sigma**2 + 4 * sigma**4) ** 0.5
  assert abs((noisy**2).mean() - signal**2 - 2 * sigma**2) < 4 * spread / count**0.5


def test_gaussian_noise_is_the_image_plus_sigma_eps():
  model = noise.Noise((0.0, 0.3))
  image = jax.random.uniform(jax.random.key(1), (6, 5, 4, 1))
  drawn = model.draw(jax.random.key(0), image.shape)
  np.testing.assert_allclose(
    model.apply(drawn, image), image + drawn.std * drawn.parts[0], atol=1e-7
  )
  np.testing.assert_array_equal(model.apply(drawn._replace(std=jnp.zeros(())), image), image)


def test_rician_gradient_is_finite_where_there_is_no_signal():
  model = noise.Noise((0.0, 0.0), rician_probability=1.0)
  image = jnp.zeros((3, 3, 1))
  drawn = model.draw(jax.random.key(0), image.shape)
  assert jnp.all(jnp.isfinite(jax.grad(lambda x: jnp.sum(model.apply(drawn, x)))(image)))


def brute_force_acquisition(signal, spacing, thickness):
  """Blur, take slices, interpolate: as loops over voxels and slices."""
  size = len(signal)
  ratio = min(spacing, thickness)
  sigma = 0.75 * ratio if ratio > 1 else 0.5
  voxels = np.arange(size)
  slices = []
  for j in range(int(np.ceil(size / spacing))):
    nearest = min(int(np.floor((j + 0.5) * spacing + 1e-3)), size - 1)
    weights = np.exp(-0.5 * ((voxels - nearest) / sigma) ** 2)
    slices.append(weights @ signal / weights.sum())
  positions = (voxels + 0.5) / spacing - 0.5
  return np.interp(positions, np.arange(len(slices)), slices)


@pytest.mark.parametrize(
  "spacing, thickness", [(1.0, 1.0), (2.0, 2.0), (3.3, 1.7), (8.0, 5.0), (30.0, 4.0)]
)
def test_thick_slices_equal_blur_then_sample_then_interpolate(spacing, thickness):
  signal = np.random.default_rng(0).random(23)
  matrix = resolution.acquisition_matrix(23, jnp.array(spacing), jnp.array(thickness))
  expected = brute_force_acquisition(signal, spacing, thickness)
  np.testing.assert_allclose(matrix @ signal.astype(np.float32), expected, atol=1e-5)


def test_resolution_changes_one_axis_all_or_none_as_often_as_stated():
  model = resolution.Resolution()
  keys = jax.random.split(jax.random.key(0), 4000)
  drawn = jax.jit(jax.vmap(lambda key: model.draw(key, (9, 9, 9, 1))))(keys)
  changed = np.asarray(drawn.spacing > 1)
  assert np.all(np.isin(changed.sum(1), (0, 1, 3)))
  for count, probability in ((0, 0.05), (3, 0.95 * 0.1), (1, 0.95 * 0.9)):
    error = 4 * (probability * (1 - probability) / 4000) ** 0.5
    np.testing.assert_allclose(np.mean(changed.sum(1) == count), probability, atol=error)
  np.testing.assert_allclose(changed[changed.sum(1) == 1].mean(0), 1 / 3, atol=0.04)
  assert np.all((drawn.thickness >= 1) & (drawn.thickness <= drawn.spacing))
  assert 7.9 < drawn.spacing.max() <= 8
  coarse = resolution.Resolution(voxel_mm=10.0).draw(keys[0], (9, 9, 1))
  np.testing.assert_array_equal(coarse.spacing, 1.0)  # 8 mm slices of 10 mm voxels


def test_bias_field_is_smooth_positive_and_off_at_zero_strength():
  model = intensity.BiasField((0.5, 0.5), nodes=(2, 4))
  drawn = model.draw(jax.random.key(0), (16, 12, 1))
  assert [nodes.shape for nodes in drawn] == [(2, 2, 1), (4, 4, 1)]
  field = model.apply(drawn, jnp.ones((16, 12, 1)))
  assert jnp.min(field) > 0 and jnp.std(field) > 0.05
  # Linear interpolation moves by at most the largest node difference per node distance.
  step = sum(float(jnp.ptp(nodes)) * nodes.shape[0] / 16 for nodes in drawn)
  assert jnp.max(jnp.abs(jnp.diff(jnp.log(field), axis=0))) <= step + 1e-6
  off = jax.tree.map(jnp.zeros_like, drawn)
  image = jax.random.uniform(jax.random.key(1), (16, 12, 1))
  np.testing.assert_array_equal(model.apply(off, image), image)


def test_gamma_zero_is_the_identity_and_its_gradient_is_finite_at_black():
  image = jnp.array([0.0, 0.25, 1.0])
  model = intensity.Gamma()
  np.testing.assert_allclose(model.apply(jnp.array(0.0), image), image, atol=2e-6)
  np.testing.assert_allclose(model.apply(jnp.log(0.5), image), [0.001, 0.5, 1.0], atol=1e-6)
  assert jnp.all(jnp.isfinite(jax.grad(lambda x: jnp.sum(model.apply(-jnp.ones(()), x)))(image)))


def test_rescale_maps_quantiles_to_the_ends():
  image = jnp.arange(101.0).reshape(101, 1)
  np.testing.assert_allclose(intensity.rescale(image), image / 100, atol=1e-6)
  expected = np.clip((np.arange(101.0) - 10) / 80, 0, 1)
  np.testing.assert_allclose(intensity.rescale(image, (0.1, 0.9))[:, 0], expected, atol=1e-5)
  np.testing.assert_array_equal(intensity.rescale(jnp.full((3, 3), 7.0)), 0.0)
  noisy = jax.random.normal(jax.random.key(0), (64, 64))
  sampled = intensity.rescale(noisy, (0.01, 0.99), max_samples=1000)
  # Clipped fractions of a sample of 800: 1 % with a deviation of 0.35 %.
  np.testing.assert_allclose(jnp.mean(sampled == 0), 0.01, atol=0.014)


def test_blur_draws_widths_in_its_range():
  model = resolution.Blur((1.0, 3.0))
  keys = jax.random.split(jax.random.key(0), 200)
  sigma = jax.vmap(lambda key: model.draw(key, (9, 9, 1)))(keys)
  fwhm = sigma * (8 * np.log(2)) ** 0.5
  assert jnp.min(fwhm) >= 1 - 1e-5 and jnp.max(fwhm) <= 3 + 1e-5
  np.testing.assert_array_equal(sigma[:, 0], sigma[:, 1])
