"""Corruptions: more is more, and each is what its name says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from medjax.check import InputError
from medjax.data.augmentation import CORRUPTIONS, Corrupted
from medjax.data.augmentation.corruptions import _LUMINANCE, _block_means

SHAPE = (18, 13, 2)  # sides that neither 2, 4 nor 8 divides
# An edge, a slope and some texture, all of [0, 1].
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
GREY = 0.3 + 0.3 * (X > 6) + 0.01 * Y + 0.05 * np.sin(2.1 * X + 1.3 * Y)
IMAGE = jnp.asarray(np.stack([GREY, GREY[::-1]], -1), jnp.float32)


@jax.jit
def every():
  """Name -> [severity, *image]; one program for all tests."""
  found = {}
  for name in CORRUPTIONS:
    drawn = Corrupted(name, 1).draw(jax.random.key(3), SHAPE)
    found[name] = jnp.stack([Corrupted(name, s).apply(drawn, IMAGE) for s in range(1, 6)])
  return found


FOUND = {}


def found(name):
  if not FOUND:
    FOUND.update({name: np.asarray(x) for name, x in every().items()})
  return FOUND[name]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_changes_more_and_stays_in_range(name):
  images = found(name)
  assert images.shape == (5, *SHAPE)
  assert images.min() >= -1e-5 and images.max() <= 1 + 1e-5
  change = np.sqrt(np.square(images - np.asarray(IMAGE)).mean((1, 2, 3)))
  assert change[0] > 1e-4 and change[4] > 1.2 * change[0]
  if CORRUPTIONS[name].is_monotone:
    assert (np.diff(change) > -1e-6).all(), change


@pytest.mark.parametrize("name", ["noise", "shot", "contrast", "brightness", "hairs"])
def test_the_change_grows_at_every_pixel(name):
  change = np.abs(found(name) - np.asarray(IMAGE))
  assert (np.diff(change, axis=0) > -1e-6).all()


def test_blocks_are_means_also_at_the_edges():
  image = np.asarray(IMAGE)
  means = np.asarray(_block_means(IMAGE, 4))
  np.testing.assert_allclose(
    means[:4, :4], image[:4, :4].mean((0, 1)) * np.ones((4, 4, 2)), rtol=1e-5
  )
  np.testing.assert_allclose(means[17, 12], image[16:, 12:].mean((0, 1)), rtol=1e-5)


def test_blur_keeps_the_mean_and_damps_each_cosine():
  blurred = found("blur")[4]
  np.testing.assert_allclose(blurred.mean((0, 1)), np.asarray(IMAGE).mean((0, 1)), rtol=1e-5)
  before, after = (scipy.fft.dctn(x[..., 0], norm="ortho") for x in (np.asarray(IMAGE), blurred))
  rates = [np.pi * np.arange(n) / n for n in SHAPE[:2]]
  sigma = 0.03 * min(SHAPE[:2])
  damping = np.exp(-0.5 * sigma**2 * (rates[0][:, None] ** 2 + rates[1][None] ** 2))
  np.testing.assert_allclose(after, damping * before, atol=1e-4)


def test_jpeg_keeps_whole_multiples_of_the_scaled_table():
  """Against SciPy's cosine transform, in a block whose values are not cut."""
  block = found("jpeg")[2][:8, :8, 0] * 255.0 - 128
  table = np.floor(_LUMINANCE * 50 / 12 + 0.5).clip(1, 255)
  levels = scipy.fft.dctn(block, norm="ortho") / table
  np.testing.assert_allclose(levels, np.round(levels), atol=2e-3)
  given = scipy.fft.dctn(np.asarray(IMAGE)[:8, :8, 0] * 255.0 - 128, norm="ortho") / table
  np.testing.assert_array_equal(np.round(levels), np.round(given))


def test_an_unknown_corruption_or_severity_is_refused():
  with pytest.raises(InputError, match="corruption to be one of 'noise'"):
    Corrupted("rain", 1)
  with pytest.raises(InputError, match="severity to be one of 1, 2"):
    Corrupted("noise", 6)
