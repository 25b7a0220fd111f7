import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax import check
from medjax.ops import warp


def random_coordinates(shape, margin=2.0, count=7):
  size = np.array(shape, np.float32)
  unit = np.random.default_rng(0).random((count, 5, len(shape)), np.float32)
  return jnp.asarray(unit * (size - 1 + 2 * margin) - margin)


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5)])
@pytest.mark.parametrize("fill, mode", [(None, "nearest"), (0.0, "grid-constant")])
def test_linear_sampling_equals_scipy(shape, fill, mode):
  array = np.random.default_rng(1).normal(size=(*shape, 2)).astype(np.float32)
  coordinates = random_coordinates(shape)
  sampled = jax.jit(lambda a, c: warp.sample_linear(a, c, fill=fill))(array, coordinates)
  for channel in range(2):
    points = np.moveaxis(coordinates, -1, 0)
    expected = ndimage.map_coordinates(array[..., channel], points, order=1, mode=mode, cval=0)
    np.testing.assert_allclose(sampled[..., channel], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5)])
def test_nearest_sampling_takes_the_rounded_voxel_or_background(shape):
  array = np.random.default_rng(1).integers(3, 9, shape)
  coordinates = np.asarray(random_coordinates(shape))
  expected = np.zeros(coordinates.shape[:-1], int)
  for position in np.ndindex(expected.shape):
    voxel = np.floor(coordinates[position] + 0.5).astype(int)
    if np.all(voxel >= 0) and np.all(voxel < shape):
      expected[position] = array[tuple(voxel)]
  assert 0 in expected
  np.testing.assert_array_equal(
    warp.sample_nearest(jnp.asarray(array), jnp.asarray(coordinates)), expected
  )


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5)])
def test_majority_sampling_takes_the_label_whose_mask_interpolates_above_one_half(shape):
  label = np.random.default_rng(1).integers(-1, 3, shape)
  coordinates = random_coordinates(shape, count=50)
  points = np.moveaxis(np.asarray(coordinates), -1, 0)
  nearest = np.asarray(warp.sample_nearest(jnp.asarray(label), coordinates, fill=-1))
  masks = [
    ndimage.map_coordinates(
      (label == value).astype(float), points, order=1, mode="grid-constant", cval=value == -1
    )
    for value in range(-1, 3)
  ]
  held = np.max(masks, axis=0)
  expected = np.where(held > 0.5, np.argmax(masks, axis=0) - 1, nearest)
  sampled = jax.jit(lambda a, c: warp.sample_majority(a, c, fill=-1))(label, coordinates)
  clear = abs(held - 0.5) > 1e-5
  assert np.any(expected != nearest) and np.any(held < 0.5) and np.mean(clear) > 0.9
  np.testing.assert_array_equal(np.asarray(sampled)[clear], expected[clear])


def test_identity_coordinates_give_the_array_back():
  array = jax.random.normal(jax.random.key(0), (4, 3, 5, 2))
  grid = warp.identity_coordinates((4, 3, 5))
  np.testing.assert_array_equal(jax.jit(warp.sample_linear)(array, grid), array)
  for sample in (warp.sample_nearest, warp.sample_majority):
    np.testing.assert_array_equal(jax.jit(sample)(array[..., 0], grid), array[..., 0])


def test_far_and_huge_coordinates_are_outside():
  far = jnp.array([[1e30, 0.0], [-1e30, 1.0], [0.0, 3e9]])
  assert warp.sample_nearest(jnp.ones((4, 4), jnp.int32), far).tolist() == [0, 0, 0]
  assert warp.sample_majority(jnp.ones((4, 4), jnp.int32), far, fill=7).tolist() == [7, 7, 7]
  assert warp.sample_linear(jnp.ones((4, 4, 1)), far, fill=0.0).ravel().tolist() == [0, 0, 0]


def test_gradient_in_coordinates_is_the_slope():
  ramp = 3.0 * warp.identity_coordinates((5, 5))[..., :1]
  value = jax.jit(jax.grad(lambda c: warp.sample_linear(ramp, c)[0, 0]))
  slope = value(jnp.array([[1.3, 2.6]]))
  np.testing.assert_allclose(slope, [[3.0, 0.0]], atol=1e-5)


def test_dimension_mismatch_is_refused():
  with pytest.raises(check.InputError, match="coordinates of 2 components"):
    warp.sample_nearest(jnp.zeros((3, 3), jnp.int32), jnp.zeros((4, 3)))
