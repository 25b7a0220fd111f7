import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax import check
from medjax.data.augmentation import intensity
from medjax.transforms import Fixed, Sometimes, SometimesParameters

COMPONENTS = (
  intensity.SharedNoise(),
  intensity.ChannelBlur(),
  intensity.Brightness(),
  intensity.Contrast(),
  intensity.LowResolution(),
  intensity.GammaRetainingStats(),
  intensity.GammaRetainingStats(inverted=True),
)
IDS = [f"{type(c).__name__}{i}" for i, c in enumerate(COMPONENTS)]


def draws(component, shape, count=4000):
  keys = jax.random.split(jax.random.key(0), count)
  return np.asarray(jax.jit(jax.vmap(lambda key: component.draw(key, shape)))(keys))


def picture(shape=(9, 8, 7, 2)):
  return 3 * jax.random.normal(jax.random.key(1), shape) - 1


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_missed_it_gives_the_image_back_and_hit_it_changes_it(component):
  image, key = picture(), jax.random.key(0)
  drawn = jax.jit(lambda k: component.draw(k, image.shape))(key)

  def applied(is_on):
    return apply(SometimesParameters(jnp.full(2, is_on), drawn), image)

  apply = jax.jit(Sometimes(component, 0.5).apply)
  np.testing.assert_array_equal(applied(False), image)
  changed = applied(True)
  assert changed.shape == image.shape and not np.any(np.all(changed == image, axis=(0, 1, 2)))


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_constant_images_stay_finite_and_black_stays_black(component):
  draw = component.draw
  change = jax.jit(lambda image: component.apply(draw(jax.random.key(0), image.shape), image))
  for value in (0.0, -2.5, 1e-30):
    changed = change(jnp.full((4, 5, 1), value))
    assert jnp.all(jnp.isfinite(changed))
    if not isinstance(component, (intensity.SharedNoise, intensity.Brightness)):
      np.testing.assert_allclose(changed, value, rtol=1e-6)


def test_noise_has_the_drawn_deviation_and_is_shared_by_the_channels():
  component = intensity.SharedNoise(std=(0.3, 0.3))
  noise = component.draw(jax.random.key(0), (100, 100, 3))
  assert abs(float(jnp.std(noise)) - 0.3) < 4 * 0.3 / 20000**0.5
  added = component.apply(noise, jnp.zeros((100, 100, 3)))
  np.testing.assert_array_equal(added, jnp.tile(noise, (1, 1, 3)))


def test_blur_equals_scipy_and_leaves_channels_that_it_misses():
  image = np.zeros((15, 17, 2), np.float32)
  image[7, 8] = 1
  blurred = jax.jit(intensity.ChannelBlur().apply)(jnp.array([[0.0, 0.0], [0.6, 1.0]]), image)
  np.testing.assert_array_equal(blurred[..., 0], image[..., 0])
  expected = ndimage.gaussian_filter(image[..., 1], (0.6, 1.0), truncate=8.0)
  np.testing.assert_allclose(blurred[..., 1], expected, atol=1e-6)


def test_half_resolution_of_a_channel_takes_every_second_voxel():
  component = intensity.LowResolution(scale=(0.5, 0.5), across=0)
  image = picture((3, 8, 2))
  counts = component.draw(jax.random.key(0), image.shape)
  np.testing.assert_array_equal(counts, [[3, 4], [3, 4]])
  taken = np.asarray(image)[:, 1::2]  # places 0.5, 2.5, ...: the upper voxels
  position = (np.arange(8) + 0.5) / 2 - 0.5
  low = jax.jit(component.apply)(counts, image)
  for row, channel in np.ndindex(3, 2):
    expected = np.interp(position, np.arange(4), taken[row, :, channel])
    np.testing.assert_allclose(low[row, :, channel], expected, atol=1e-5)


def test_contrast_stretches_about_the_mean_within_the_old_range():
  image = np.asarray(picture(), np.float64)
  factor = np.array([0.8, 1.25])
  mean, low, high = (f(image, (0, 1, 2)) for f in (np.mean, np.min, np.max))
  expected = np.clip((image - mean) * factor + mean, low, high)
  changed = jax.jit(intensity.Contrast().apply)(jnp.asarray(factor, jnp.float32), picture())
  np.testing.assert_allclose(changed, expected, atol=1e-5)
  assert jnp.sum(changed == jnp.max(changed, (0, 1, 2), keepdims=True)) > 2  # clipped


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_is_nnunet_s_with_retained_statistics(inverted):
  exponents = (0.7, 1.5)
  gamma = intensity.GammaRetainingStats(inverted=inverted)
  changed = jax.jit(gamma.apply)(jnp.array(exponents), picture())
  for channel, exponent in enumerate(exponents):
    x = np.asarray(picture(), np.float64)[..., channel] * (-1 if inverted else 1)
    mean, std, low, extent = x.mean(), x.std(), x.min(), np.ptp(x)
    y = ((x - low) / extent) ** exponent * extent + low
    y = (y - y.mean()) * std / y.std() + mean
    expected = -y if inverted else y
    np.testing.assert_allclose(changed[..., channel], expected, atol=2e-5)


def test_factors_lie_on_either_side_of_one_equally_often():
  drawn = draws(intensity.GammaRetainingStats(), (4, 4, 1))[:, 0]
  np.testing.assert_allclose((drawn < 1).mean(), 0.5, atol=4 * (0.25 / 4000) ** 0.5)
  # Each side is uniform: means 0.85 and 1.25, deviations width / sqrt(12)
  for side, mean, width in (
    (drawn[drawn < 1], 0.85, 0.3),
    (drawn[drawn > 1], 1.25, 0.5),
  ):
    np.testing.assert_allclose(side.mean(), mean, atol=4 * width / (12 * len(side)) ** 0.5)
    assert np.ptp(side) < width


def test_examples_are_chosen_first_and_then_their_channels():
  keys = jax.random.split(jax.random.key(0), 4000)
  chance = Sometimes(Fixed(jnp.negative), 0.2, channel_probability=0.5)
  is_on = np.asarray(jax.jit(jax.vmap(lambda key: chance.draw(key, (4, 4, 2)).is_on))(keys))
  error = 4 * (0.25 / 4000) ** 0.5
  np.testing.assert_allclose(is_on.mean(0), 0.2 * 0.5, atol=error)
  np.testing.assert_allclose((is_on[:, 0] & is_on[:, 1]).mean(), 0.2 * 0.25, atol=error)


def test_noise_is_a_uniform_deviation_times_a_normal_number():
  std = draws(intensity.SharedNoise(), (1, 1, 1))[:, 0, 0, 0]
  # n = s e, s ~ U(0, 0.1): E[n^2] = 0.01 / 3 and E[n^4] = 3 * 0.0001 / 5, so that the mean of 4000
  # squares has a standard error of 3.3 %; four of them.
  np.testing.assert_allclose(np.mean(std**2), 0.01 / 3, rtol=4 * (27 / 5 - 1) ** 0.5 / 4000**0.5)


def test_ranges_are_checked():
  with pytest.raises(check.InputError, match="low <= 1 <= high"):
    intensity.Contrast((1.1, 1.2))
  with pytest.raises(check.InputError, match="probability in"):
    Sometimes(intensity.SharedNoise(), 1.5)
  with pytest.raises(check.InputError, match="scale"):
    intensity.LowResolution((0.5, 2.0))
  with pytest.raises(check.InputError, match="sigma"):
    intensity.ChannelBlur((-1.0, 2.0))
