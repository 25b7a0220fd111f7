"""Local gradient sign: against loops over cells, and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.ops.local_gradient_sign import local_gradient_sign, pixel_gradient_sign, random_cells

SPACES = [((8, 12), 4), ((7, 9), 4), ((6, 5, 7), 3), ((5, 9), (1, 4))]


def gradient(space, channels=2):
  # Integers: their sums are exact in any order.
  drawn = np.random.default_rng(0).integers(-3, 4, size=(*space, channels))
  return jnp.asarray(drawn, jnp.float32)


def step(grad, **settings):
  return np.asarray(jax.jit(lambda g: local_gradient_sign(g, **settings))(grad))


def by_loops(grad, eps, pool, order):
  """Cell by cell, with the voxels that each cell has."""
  sides = (pool,) * (grad.ndim - 1) if isinstance(pool, int) else pool
  result = np.empty_like(grad)
  counts = [-(-size // side) for size, side in zip(grad.shape, sides, strict=False)]
  for cell in np.ndindex(*counts):
    where = tuple(slice(i * side, (i + 1) * side) for i, side in zip(cell, sides, strict=True))
    for channel in range(grad.shape[-1]):
      block = grad[(*where, channel)]
      value = np.sign(block.mean()) if order == "sign_of_mean" else np.sign(block).mean()
      result[(*where, channel)] = max(eps * value, 0)
  return result


@pytest.mark.parametrize("order", ["sign_of_mean", "mean_of_sign"])
@pytest.mark.parametrize("space, pool", SPACES)
def test_equals_a_loop_over_cells(space, pool, order):
  grad = gradient(space)
  want = by_loops(np.asarray(grad), 0.25, pool, order)
  np.testing.assert_allclose(step(grad, pool=pool, order=order), want, rtol=1e-6)


def test_bilinear_is_image_resize_of_the_cells():
  grad = gradient((8, 12))
  want = jax.image.resize(step(grad)[::4, ::4], grad.shape, "bilinear")
  np.testing.assert_allclose(step(grad, upsample="bilinear"), want, atol=1e-6)


def test_bilinear_of_a_size_that_the_pool_does_not_divide_is_cropped():
  np.testing.assert_allclose(step(jnp.ones((7, 9, 1)), upsample="bilinear"), 0.25)


def test_pooling_of_one_voxel_is_the_sign_and_without_pooling_zero_steps_too():
  grad = gradient((5, 6))
  np.testing.assert_array_equal(step(grad, pool=1), 0.25 * (grad > 0))
  np.testing.assert_array_equal(pixel_gradient_sign(grad), 0.25 * (grad >= 0))


@pytest.mark.parametrize("order", ["sign_of_mean", "mean_of_sign"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_zero_stays_zero_and_a_positive_factor_changes_nothing(order, upsample):
  settings = {"order": order, "upsample": upsample}
  grad = gradient((8, 8))
  assert not step(jnp.zeros_like(grad), **settings).any()
  once = step(grad, **settings)
  np.testing.assert_array_equal(once, step(2.0**-30 * grad, **settings))
  assert once.min() >= 0 and 0 < once.max() <= 0.25


def test_nothing_flows_through():
  slope = jax.jit(jax.grad(lambda g: local_gradient_sign(g, order="mean_of_sign").sum()))
  assert not slope(gradient((8, 8))).any()


def test_random_cells_are_constant_on_cells_and_half_of_them_rise():
  signs = np.asarray(random_cells(jax.random.key(0), (203, 201), pool=4))
  assert signs.shape == (203, 201, 1)
  np.testing.assert_array_equal(
    signs[:200, :200], np.kron(signs[:200:4, :200:4, 0], np.ones((4, 4)))[..., None]
  )
  share = (signs[::4, ::4] > 0).mean()  # 2,601 coins: standard deviation 0.0098
  assert abs(share - 0.5) < 0.05


@pytest.mark.parametrize(
  "space, options, said",
  [
    ((3, 9), {}, "at least one cell of 4x4"),
    ((9, 9), {"pool": 0}, "pool >= 1"),
    ((9, 9), {"pool": (4, 4, 4)}, "axes of pool"),
    ((9, 9), {"eps": 0}, "eps > 0"),
    ((9, 9), {"eps": 1.5}, "eps in"),
  ],
)
def test_bad_settings_are_refused_in_one_line(space, options, said):
  with pytest.raises(InputError, match=said) as error:
    step(jnp.ones((*space, 1)), **options)
  assert "\n" not in str(error.value)
