import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax import check
from medjax.data.augmentation.spatial import Spatial, SpatialParameters
from medjax.ops import fields, warp
from medjax.types import IGNORE

OFF = {"rotation_probability": 0.0, "scaling_probability": 0.0, "mirror_probability": 0.0}


def draws(spatial, patch, count):
  keys = jax.random.split(jax.random.key(0), count)
  return jax.jit(jax.vmap(lambda key: spatial.draw(key, patch)))(keys)


def moved_by(spatial, parameters, image, label, patch):
  return jax.jit(lambda p, i, m: spatial.apply(p, i, m, patch))(parameters, image, label)


def example(shape, channels=2):
  random = np.random.default_rng(0)
  label = random.integers(-1, 3, shape).astype(np.int32)
  return jnp.asarray(random.normal(size=(*shape, channels)).astype(np.float32)), jnp.asarray(label)


@pytest.mark.parametrize("source, patch", [((9, 8), (5, 5)), ((6, 7, 8), (6, 4, 3))])
def test_all_off_is_an_exact_crop_of_the_middle(source, patch):
  spatial = Spatial(**OFF, elastic_probability=1e-9)
  image, label = example(source)
  parameters = spatial.draw(jax.random.key(0), patch)
  moved, moved_label = moved_by(spatial, parameters, image, label, patch)
  starts = [(old - new) // 2 for old, new in zip(source, patch, strict=True)]
  crop = tuple(slice(a, a + new) for a, new in zip(starts, patch, strict=True))
  np.testing.assert_array_equal(moved, image[crop])
  np.testing.assert_array_equal(moved_label, label[crop])


@pytest.mark.parametrize("source, patch", [((12, 11), (8, 7)), ((9, 8, 7), (5, 6, 7))])
def test_image_is_scipy_s_affine_transform_and_labels_follow(source, patch):
  ndim = len(patch)
  image, label = example(source)
  matrix = np.random.default_rng(1).normal(size=(ndim, ndim)).astype(np.float32)
  parameters = SpatialParameters(jnp.asarray(matrix), None)
  moved, moved_label = moved_by(Spatial(), parameters, image, label, patch)
  centre = (np.array(patch) - 1) / 2
  start = (np.array(source) - np.array(patch)) // 2
  offset = centre + start - matrix @ centre

  def transform(array, outside):
    return ndimage.affine_transform(
      np.asarray(array, float), matrix, offset, patch, order=1, mode="grid-constant", cval=outside
    )

  for channel in range(2):
    np.testing.assert_allclose(moved[..., channel], transform(image[..., channel], 0), atol=1e-5)
  for value in (IGNORE, 0, 1, 2):
    held = transform(label == value, float(value == IGNORE))
    assert np.all(moved_label[held > 0.5 + 1e-5] == value)


def test_an_image_made_of_its_label_stays_in_step_with_it():
  grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij"))
  label = jnp.asarray((np.linalg.norm(grid, axis=0) < 0.7).astype(np.int32))
  spatial = Spatial(rotation_probability=1.0, elastic_probability=1.0, label_outside=0)
  keys = jax.random.split(jax.random.key(0), 4)

  def move(key):
    parameters = spatial.draw(key, (12, 10, 12))
    image = label[..., None].astype(jnp.float32)
    return spatial.apply(parameters, image, label, (12, 10, 12))

  images, labels = jax.jit(jax.vmap(move))(keys)
  assert jnp.all((images[..., 0] > 0.5) == (labels == 1)) and not jnp.all(labels[0] == labels[1])


def test_the_matrix_is_a_scaled_rotation_with_signs_drawn_as_often_as_stated():
  matrix = np.asarray(draws(Spatial(), (8, 8, 8), 4000).matrix, np.float64)
  scale = np.cbrt(np.abs(np.linalg.det(matrix)))
  np.testing.assert_allclose(
    np.swapaxes(matrix, 1, 2) @ matrix, scale[:, None, None] ** 2 * np.eye(3)[None], atol=1e-5
  )
  is_scaled = np.abs(scale - 1) > 1e-6
  assert 0.7 <= scale.min() < 0.72 and 1.38 < scale.max() <= 1.4 + 1e-6
  # Three angles within 30 degrees leave every diagonal entry of the rotation above 1/2.
  diagonal = np.diagonal(matrix, axis1=1, axis2=2) / scale[:, None]
  assert 0.5 < np.abs(diagonal).min() < 0.7
  is_rotated = np.abs(diagonal).min(axis=1) < 1 - 1e-5
  flipped = diagonal < 0
  error = 4 * (0.25 / 4000) ** 0.5
  np.testing.assert_allclose(is_scaled.mean(), 0.2, atol=error)
  np.testing.assert_allclose(is_rotated.mean(), 0.2, atol=error)
  np.testing.assert_allclose(flipped.mean(0), 0.5, atol=error)
  np.testing.assert_allclose((is_rotated & is_scaled & flipped[:, 0]).mean(), 0.02, atol=error)
  np.testing.assert_allclose((flipped[:, 0] & flipped[:, 1]).mean(), 0.25, atol=error)


def test_mirroring_is_a_flip_of_the_allowed_axes():
  spatial = Spatial(**{**OFF, "mirror_probability": 1.0}, mirror_axes=(1,))
  image, label = example((6, 5, 4))
  parameters = spatial.draw(jax.random.key(0), (6, 5, 4))
  moved, moved_label = moved_by(spatial, parameters, image, label, (6, 5, 4))
  np.testing.assert_array_equal(moved, np.flip(image, 1))
  np.testing.assert_array_equal(moved_label, np.flip(label, 1))


def test_thick_slices_stay_where_they_are():
  spatial = Spatial(180.0, 1.0, scaling_probability=1.0, elastic_probability=1.0, across=1)
  drawn = draws(spatial, (12, 3, 12), 50)
  unit = np.array([0.0, 1.0, 0.0])
  np.testing.assert_array_equal(np.abs(drawn.matrix[:, 1]), np.tile(unit, (50, 1)))
  np.testing.assert_array_equal(np.abs(drawn.matrix[:, :, 1]), np.tile(unit, (50, 1)))
  assert jnp.min(jnp.abs(drawn.matrix[:, 0, 0])) < 0.2 and jnp.all(
    drawn.elastic.velocity[..., 1] == 0
  )
  assert spatial.source_shape((12, 3, 12)) == (18, 3, 18)  # sqrt(2) * 12 = 17


def test_outside_is_zero_and_ignored():
  half = SpatialParameters(2 * jnp.eye(2), None)
  label = jnp.full((4, 4), 3, jnp.int32)
  image, moved = moved_by(Spatial(), half, jnp.ones((4, 4, 1)), label, (4, 4))
  assert image[0, 0, 0] == 0 and moved[0, 0] == IGNORE and moved[1, 1] == 3
  _, moved = moved_by(Spatial(label_outside=0), half, jnp.ones((4, 4, 1)), label, (4, 4))
  assert moved[0, 0] == 0


@pytest.mark.parametrize("patch", [(8, 9), (40, 20), (10, 16, 12)])
@pytest.mark.parametrize("degrees", [0.0, 15.0, 30.0, 180.0])
def test_the_block_just_covers_a_patch_that_turns_about_one_axis_or_shrinks(patch, degrees):
  ndim = len(patch)
  block = Spatial(degrees).source_shape(patch)
  corners = np.array(list(itertools.product((-0.5, 0.5), repeat=ndim))) * patch
  reach = 1.4 * np.max(corners, axis=0)
  planes = itertools.combinations(range(ndim), 2)
  for (a, b), angle in itertools.product(planes, np.deg2rad(np.linspace(-degrees, degrees, 721))):
    turned = corners.copy()
    turned[:, a] = np.cos(angle) * corners[:, a] - np.sin(angle) * corners[:, b]
    turned[:, b] = np.sin(angle) * corners[:, a] + np.cos(angle) * corners[:, b]
    reach = np.maximum(reach, turned.max(axis=0))
  spare = np.array(block) - 2 * reach
  assert np.all(spare >= -1e-3) and np.all(spare < 2 + 1e-3)
  assert all((new - old) % 2 == 0 for new, old in zip(block, patch, strict=True))
  assert Spatial(degrees, 0.0, scaling_probability=0.0).source_shape(patch) == patch


def test_elastic_deformation_moves_by_about_a_voxel_and_does_not_fold():
  patch = (32, 24, 32)
  spatial = Spatial(**OFF, elastic_probability=0.5)
  ramp = warp.identity_coordinates(patch)  # an image of the coordinates shows where it was read

  def displacement(key):
    image, _ = spatial.apply(spatial.draw(key, patch), ramp, None, patch)
    return (image - ramp)[6:-6, 6:-6, 6:-6]

  moved = jax.jit(jax.vmap(displacement))(jax.random.split(jax.random.key(0), 16))
  is_on = np.asarray(jnp.any(moved != 0, axis=(1, 2, 3, 4)))
  assert 3 <= is_on.sum() <= 13  # of 16 fair coins; outside with probability 0.4 %
  assert 0.5 < jnp.std(moved[is_on]) < 3
  assert jnp.min(jax.jit(jax.vmap(fields.jacobian_determinant))(moved)) > 0


def test_bad_axes_and_ranges_are_refused():
  key = jax.random.key(0)
  with pytest.raises(check.InputError, match="mirror axis to be one of 0, 1"):
    Spatial(mirror_axes=(2,)).draw(key, (4, 4))
  with pytest.raises(check.InputError, match="across"):
    Spatial(across=0).draw(key, (4, 4))
  with pytest.raises(check.InputError, match="scaling"):
    Spatial(scaling=(1.4, 0.7))
  with pytest.raises(check.InputError, match="rotation_probability"):
    Spatial(rotation_probability=2.0)
