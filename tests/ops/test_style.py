"""Wavelet style transfer: what the result's statistics are, and many styles as one product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.ops import haar, style

statistics = jax.jit(style.statistics, static_argnums=1)
transfer = jax.jit(style.transfer, static_argnums=2)


def image(space, channels, seed):
  drawn = np.random.default_rng(seed).gamma(2.0, size=(*space, channels))
  return jnp.asarray(drawn, jnp.float32)


@pytest.mark.parametrize("space, channels", [((16, 8), 1), ((8, 8, 4), 2)])
def test_the_result_has_the_statistics_of_the_style(space, channels):
  wanted = statistics(3 * image(space, channels, 1), 2)
  styled = transfer(image(space, channels, 0), wanted, 2)
  np.testing.assert_allclose(statistics(styled, 2), wanted, atol=2e-5)


def test_statistics_are_those_of_numpy_on_the_bands():
  x = image((8, 12), 2, 0)
  pyramid = haar.analysis(x, 2)
  found = np.asarray(statistics(x, 2))
  assert found.shape == (style.size(2, 2), 2)
  low, details = np.asarray(pyramid.low), [np.asarray(band) for band in pyramid.details]
  flat = [band[:, :, k] for band in details for k in range(3)]
  np.testing.assert_allclose(found[0], low.mean((0, 1)), rtol=1e-5)
  np.testing.assert_allclose(found[1], low.std((0, 1)), rtol=1e-5)
  np.testing.assert_allclose(found[2:], [np.sqrt((b**2).mean((0, 1))) for b in flat], rtol=1e-5)


def test_flat_regions_stay_flat():
  # Half of the image is one value: no grid may appear there, whatever the style.
  x = image((16, 16), 1, 0).at[8:].set(0.5)
  styled = np.asarray(transfer(x, statistics(5 * image((16, 16), 1, 1), 3), 3))[8:]
  np.testing.assert_allclose(styled, styled[0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("space", [(13, 10), (8, 9, 8)])
def test_its_own_style_changes_nothing(space):
  x = image(space, 2, 0)
  np.testing.assert_allclose(transfer(x, statistics(x, 2), 2), x, atol=1e-5)


@pytest.mark.parametrize("space", [(13, 10), (8, 4, 4)])
def test_many_styles_at_once_are_the_styles_one_by_one(space):
  x = image(space, 2, 0)
  styles = jnp.stack([statistics(image(space, 2, seed), 2) for seed in (1, 2, 3)])
  many = jax.jit(style.transfer_many, static_argnums=2)(x, styles, 2)
  one = jnp.stack([transfer(x, s, 2) for s in styles])
  np.testing.assert_allclose(many, one, atol=1e-5)


def test_a_constant_image_takes_the_means_and_is_finite():
  wanted = statistics(image((16, 16), 1, 1), 3)
  for value in (0.0, 0.3, -1e6):
    styled = transfer(jnp.full((16, 16, 1), value), wanted, 3)
    found = np.asarray(statistics(styled, 3))
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    np.testing.assert_allclose(found[1:], 0.0, atol=1e-5)


def test_a_small_deviation_is_not_taken_for_none():
  # Of 1e-3 around 1: a hundred times the limit, a hundred times above rounding.
  x = 1 + 1e-3 * image((16, 16), 1, 0)
  np.testing.assert_allclose(
    jax.jit(lambda x: style.moments(style.normalised(x))[1])(x), 1.0, rtol=1e-3
  )


def test_slopes_are_finite_where_nothing_varies():
  flat = jnp.ones((4, 4, 1))
  slope = jax.jit(jax.grad(lambda x: style.moments(x).sum()))(flat)
  np.testing.assert_allclose(slope, 1 / 16)  # of the mean alone
  slope = jax.jit(jax.grad(lambda x: style.transfer(x, jnp.ones((5, 1)), 1).sum()))(flat)
  assert np.isfinite(slope).all()


def test_styles_of_other_channels_axes_or_levels_are_refused():
  wanted = statistics(image((16, 16), 1, 1), 2)
  for shape, levels in (((16, 16, 2), 2), ((8, 8, 8, 1), 2), ((16, 16, 1), 3)):
    with pytest.raises(InputError, match="a style of shape"):
      transfer(jnp.ones(shape), wanted, levels)
