"""The protocol of random changes: every transform keeps it, and wrappers do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data import augmentation
from medjax.synth import BiasField, Blur, Gamma, Noise, Resolution, style_bank
from medjax.synth.artefacts import Ghosting, IntensityCurve, Motion, Ringing
from medjax.transforms import AboveMinimum, Fixed, Sometimes, Transform, pipeline

KEY = jax.random.key(0)
IMAGE = jax.random.uniform(jax.random.key(1), (9, 8, 2))
TRANSFORMS = (
  BiasField(),
  Blur(),
  Gamma(),
  Noise(rician_probability=0.5),
  Resolution(),
  Ghosting(),
  IntensityCurve(),
  Motion(num_events=1),
  Ringing(),
  style_bank([np.asarray(IMAGE)]),
  augmentation.Brightness(),
  augmentation.ChannelBlur(),
  augmentation.Contrast(),
  augmentation.GammaRetainingStats(),
  augmentation.LowResolution(),
  augmentation.SharedNoise(),
  augmentation.Corrupted("hairs", 2),
  augmentation.Corrupted("motion", 3),
  augmentation.Cutout(),
  augmentation.Translated(),
  augmentation.siamese(),
)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_a_transform_keeps_the_shape_and_is_a_function_of_its_draws(transform):
  assert isinstance(transform, Transform)

  @jax.jit
  def change(key, image):
    drawn = transform.draw(key, image.shape)
    return transform.apply(drawn, image), transform.apply(drawn, image)

  first, second = change(KEY, IMAGE)
  assert first.shape == IMAGE.shape and first.dtype == IMAGE.dtype
  assert jnp.all(jnp.isfinite(first))
  np.testing.assert_array_equal(first, second)


def test_sometimes_is_the_image_or_the_whole_change():
  image = jnp.ones((2, 2, 3))
  double = Fixed(lambda x: 2 * x)
  for probability, want in ((0.0, 1.0), (1.0, 2.0)):
    chance = Sometimes(double, probability)
    np.testing.assert_array_equal(chance.apply(chance.draw(KEY, image.shape), image), want * image)
  one_of_three = Sometimes(double, 1.0).draw(KEY, image.shape)
  one_of_three = one_of_three._replace(is_on=jnp.array([False, True, False]))
  changed = Sometimes(double, 1.0).apply(one_of_three, image)
  np.testing.assert_array_equal(changed[0, 0], [1, 2, 1])


def test_the_minimum_of_every_channel_counts_as_0():
  x = jnp.array([[-1.0, 5.0], [2.0, 4.0]])  # minima -1 and 4
  doubled = AboveMinimum(Fixed(lambda x: 2 * x)).apply((), x)
  np.testing.assert_array_equal(doubled, [[-1, 6], [5, 4]])


def test_steps_run_in_order_and_keep_their_numbers_when_others_come_and_go():
  noise = augmentation.SharedNoise((1.0, 1.0))
  steps = pipeline(double=Fixed(lambda x: 2 * x), noise=noise)
  alone = steps.replace(double=None)
  assert [name for name, _ in alone.steps] == ["noise"] and alone["noise"] is noise
  added = alone(KEY, IMAGE) - IMAGE
  np.testing.assert_allclose(steps(KEY, IMAGE), 2 * IMAGE + added, atol=1e-6)
  last = pipeline(noise=noise, double=Fixed(lambda x: 2 * x))
  np.testing.assert_allclose(last(KEY, IMAGE), 2 * (IMAGE + added), atol=1e-6)
