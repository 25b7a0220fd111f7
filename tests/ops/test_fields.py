import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check
from medjax.ops import fields, warp
from medjax.ops.materialise import materialise


@pytest.mark.parametrize(
  "source, target", [((5, 3), (9, 8)), ((2, 4, 3), (6, 5, 7)), ((9, 8), (4, 5)), ((4,), (4,))]
)
def test_resize_equals_jax_image_resize(source, target):
  field = jax.random.normal(jax.random.key(0), (*source, 2))
  expected = jax.image.resize(field, (*target, 2), "linear", antialias=False)
  resized = jax.jit(lambda x: fields.resize_linear(x, target))(field)
  np.testing.assert_allclose(resized, expected, atol=2e-6)


@pytest.mark.parametrize("source, target", [((2, 3), (9, 8)), ((2, 1, 3), (6, 5, 7))])
def test_interpolating_nodes_by_matrices_equals_resizing(source, target):
  nodes = jax.random.normal(jax.random.key(0), (*source, 2))
  expected, found = (
    jax.jit(f, static_argnums=1)(nodes, target)
    for f in (fields.resize_linear, fields.interpolate_nodes)
  )
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_resize_with_fewer_nodes_at_run_time_ignores_the_rest():
  field = jax.random.normal(jax.random.key(0), (6, 6, 1))
  resize = jax.jit(lambda n: fields.resize_linear(field, (13, 9), num_nodes=n))
  for count in (1, 2, 5, 6):
    expected = jax.jit(lambda x: fields.resize_linear(x, (13, 9)))(field[:count, :count])
    np.testing.assert_allclose(resize(jnp.array([count, count])), expected, atol=2e-6)


def test_random_field_takes_node_values_at_nodes():
  # 3 x the nodes: voxel 3 i + 1 sits exactly on node i.
  key = jax.random.key(1)
  field = jax.jit(lambda k: fields.random_field(k, (9, 12), (3, 4), channels=2))(key)
  nodes = jax.random.normal(key, (3, 4, 2))
  np.testing.assert_allclose(field[1::3, 1::3], nodes, atol=1e-6)


@pytest.mark.parametrize("shape", [(44, 2), (5, 4, 3), (6, 5, 1), (7,), (1, 1)])
def test_materialise_is_the_identity_and_so_is_its_derivative(shape):
  table = jax.random.normal(jax.random.key(0), shape)
  np.testing.assert_array_equal(materialise(table), table)
  weight = jax.random.normal(jax.random.key(1), shape)
  gradient = jax.grad(lambda t: jnp.sum(weight * materialise(t)))(table)
  np.testing.assert_array_equal(gradient, weight)


@pytest.mark.parametrize("shift", [(1.5, -2.25), (0.5, 1.0, -3.0)])
def test_a_constant_velocity_is_a_translation(shift):
  velocity = jnp.broadcast_to(
    jnp.array(shift).reshape((1,) * len(shift) + (-1,)), (8,) * len(shift) + (len(shift),)
  )
  np.testing.assert_allclose(jax.jit(fields.integrate_velocity)(velocity), velocity, atol=1e-5)


def smooth_velocity(std, shape=(32, 32), nodes=4):
  ndim = len(shape)
  draw = jax.jit(lambda key: fields.random_field(key, shape, (nodes,) * ndim, channels=ndim))
  return std * draw(jax.random.key(3))


def test_a_velocity_linear_in_space_gives_the_matrix_exponential():
  # dx/dt = a (x - c) has the flow c + e^a (x - c); interpolation is exact for linear fields.
  grid = warp.identity_coordinates((33, 33)) - 16
  rate = 0.1
  displacement = jax.jit(lambda v: fields.integrate_velocity(v, steps=10))(rate * grid)
  inner = slice(8, 25)  # the flow of these voxels stays inside
  expected = (np.exp(rate) - 1) * grid
  # (1 + a / 2^n)^(2^n) = e^a (1 - a^2 / 2^(n + 1)): an error of 5e-6 times 8 voxels, and rounding
  # of coordinates near 32 in float32 over ten squarings.
  np.testing.assert_allclose(displacement[inner, inner], expected[inner, inner], atol=5e-4)


def test_opposite_velocities_are_inverse_maps():
  velocity = smooth_velocity(1.0)
  flow = jax.jit(fields.integrate_velocity)
  forward, backward = flow(velocity), flow(-velocity)
  identity = warp.identity_coordinates((32, 32))
  composed = backward + jax.jit(warp.sample_linear)(forward, identity + backward)
  inner = slice(6, -6)  # outside the border values are continued, which is not the inverse
  assert jnp.max(jnp.abs(forward[inner, inner])) > 1.0
  # Kinks of the piecewise linear velocity cost 0.03 voxels here; without inversion it would be 2.
  assert jnp.max(jnp.abs(composed[inner, inner])) < 0.04


def test_integration_does_not_fold_where_the_velocity_itself_would():
  velocity = smooth_velocity(4.0)
  determinant = jax.jit(fields.jacobian_determinant)
  assert jnp.min(determinant(velocity)) < 0
  assert jnp.min(determinant(jax.jit(fields.integrate_velocity)(velocity))) > 0


def test_jacobian_of_a_scaling():
  displacement = 0.5 * warp.identity_coordinates((5, 4, 3))  # x -> 1.5 x
  determinant = jax.jit(fields.jacobian_determinant)(displacement)
  np.testing.assert_allclose(determinant, 1.5**3, rtol=1e-5)


@jax.jit
def rotate(label, angles):
  ndim = label.ndim
  matrix = fields.affine_matrix(angles, jnp.ones(ndim), jnp.zeros(ndim * (ndim - 1)))
  grid = warp.identity_coordinates(label.shape)
  coordinates = fields.affine_coordinates(matrix, jnp.zeros(ndim), grid, label.shape)
  return warp.sample_nearest(label, coordinates)


@pytest.mark.parametrize("size", [6, 7])
def test_rotation_by_a_right_angle_is_rot90(size):
  image = jnp.arange(size**2).reshape(size, size)
  np.testing.assert_array_equal(rotate(image, jnp.array([90.0])), np.rot90(image))
  volume = jnp.arange(size**3).reshape(size, size, size)
  # R0 = [[cos, -sin], [sin, cos]] on axes (1, 2): the opposite sense of the 2D matrix.
  np.testing.assert_array_equal(
    rotate(volume, jnp.array([90.0, 0, 0])), np.rot90(volume, -1, (1, 2))
  )
  np.testing.assert_array_equal(
    rotate(volume, jnp.array([0, 90.0, 0])), np.rot90(volume, -1, (2, 0))
  )
  np.testing.assert_array_equal(
    rotate(volume, jnp.array([0, 0, 90.0])), np.rot90(volume, -1, (0, 1))
  )


def test_affine_matrix_is_scaling_times_shear_times_rotation():
  rng = np.random.default_rng(0)
  scaling, shear, angle = rng.uniform(0.8, 1.2, 2), rng.normal(size=2), 30.0
  c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
  expected = np.diag(scaling) @ [[1, shear[0]], [shear[1], 1]] @ [[c, s], [-s, c]]
  matrix = fields.affine_matrix(jnp.array([angle]), jnp.array(scaling), jnp.array(shear))
  np.testing.assert_allclose(matrix, expected, rtol=1e-5)


def test_wrong_sizes_are_refused():
  with pytest.raises(check.InputError, match="angles"):
    fields.affine_matrix(jnp.zeros(3), jnp.ones(2), jnp.zeros(2))
  with pytest.raises(check.InputError, match="node counts"):
    fields.random_field(jax.random.key(0), (4, 4), (2,))
