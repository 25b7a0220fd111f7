"""Procrustes against SciPy, its derivative against differences, ICP against a loop and library."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from medjax.check import InputError
from medjax.ops import rigid
from tests.oracles import make_registration_values


def cloud(seed, n=40, axes=2):
  return np.random.default_rng(seed).normal(size=(n, axes)) * 5


def turn(angle):
  return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_paired_points_in_3d_are_aligned_as_scipy_aligns_them():
  x, weight = cloud(0, axes=3), np.random.default_rng(3).uniform(0.1, 1, 40)
  y = x @ Rotation.from_rotvec([0.3, -1.2, 0.7]).as_matrix().T + cloud(1, axes=3) * 0.1 + 9
  found = rigid.procrustes(jnp.float32(x), jnp.float32(y), jnp.float32(weight))
  a, b = (p - weight @ p / weight.sum() for p in (x, y))
  want = Rotation.align_vectors(b, a, weights=weight)[0].as_matrix()
  np.testing.assert_allclose(found.rotation, want, atol=1e-5)
  centre, there = (weight @ p / weight.sum() for p in (x, y))
  np.testing.assert_allclose(found.shift, there - want @ centre, atol=1e-4)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_mirrored_cloud_is_turned_and_not_mirrored_back(axes):
  x = cloud(2, axes=axes)
  mirrored = x * np.array([-1] + [1] * (axes - 1))
  found = rigid.procrustes(jnp.float32(x), jnp.float32(mirrored))
  assert np.linalg.det(found.rotation) == pytest.approx(1, abs=1e-5)


def test_weight_0_is_as_good_as_absent_and_without_weight_nothing_turns():
  x, y = jnp.float32(cloud(0)), jnp.float32(cloud(1))
  weight = jnp.ones(40).at[30:].set(0)
  some = rigid.procrustes(x, y.at[30:].set(1e6), weight)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), some, rigid.procrustes(x[:30], y[:30])
  )
  nothing = rigid.procrustes(x, y, jnp.zeros(40))
  np.testing.assert_allclose(np.abs(nothing.rotation), np.eye(2), atol=1e-6)


@pytest.mark.parametrize("case", ["plain", "equal singular values", "mirrored"])
def test_the_derivative_is_that_of_central_differences(case):
  with jax.enable_x64():
    x = np.array([[1.0, 1], [-1, 1], [-1, -1], [1, -1]])  # its covariance is a multiple of 1
    y = {"equal singular values": x @ turn(0.4).T, "mirrored": x * [-2, 1], "plain": cloud(1, 4)}[
      case
    ]
    direction, probe = cloud(2, 4), cloud(3, 2)

    def f(s):
      return jnp.sum(
        rigid.procrustes(jnp.asarray(x), jnp.asarray(y + s * direction)).rotation * probe
      )

    found = float(jax.grad(f)(0.0))
    assert found == pytest.approx(float(f(1e-6) - f(-1e-6)) / 2e-6, rel=1e-6)


def test_closest_points_are_those_of_a_tree_also_far_from_the_origin():
  x, y = (np.float32(cloud(s, 60) + 3e4) for s in (0, 1))
  index, squares = rigid.nearest(jnp.asarray(x), jnp.asarray(y))
  distance, want = cKDTree(y.astype(float)).query(x.astype(float))
  np.testing.assert_array_equal(index, want)
  np.testing.assert_allclose(np.sqrt(squares), distance, rtol=1e-5)


def by_loop(x, y, num_steps, most):
  rotation, shift = np.eye(2), y.mean(0) - x.mean(0)
  for _ in range(num_steps):
    distance, index = cKDTree(y).query(x @ rotation.T + shift)
    near = distance <= most
    a, b = x[near], y[index][near]
    u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    rotation = vt.T @ np.diag([1, np.linalg.det(vt.T @ u.T)]) @ u.T
    shift = b.mean(0) - rotation @ a.mean(0)
  return rotation, shift


@pytest.mark.parametrize("most", [None, 1.5])
def test_icp_is_that_of_a_loop_with_a_tree_and_padding_changes_nothing(most):
  x = cloud(0, 200)
  y = x[20:180] @ turn(0.2).T + [3, -7] + cloud(1, 160) * 0.02
  found = rigid.icp(jnp.float32(x), jnp.float32(y), max_distance=most, num_steps=8)
  rotation, shift = by_loop(x, y, 8, np.inf if most is None else most)
  np.testing.assert_allclose(found.rotation, rotation, atol=1e-5)
  np.testing.assert_allclose(found.shift, shift, atol=1e-4)
  padded = rigid.icp(
    jnp.float32(np.vstack([x, [[50, 50]]])),
    jnp.float32(np.vstack([y, [[0, 0]]])),
    moving_weight=jnp.ones(201).at[-1].set(0),
    fixed_weight=jnp.ones(161).at[-1].set(0),
    max_distance=most,
    num_steps=8,
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), padded, found)


@pytest.mark.parametrize("name", ["sheet", "layer"])
def test_icp_ends_where_that_of_small_gicp_ends(name):
  moving, fixed = make_registration_values.clouds()[name]
  path = make_registration_values.HERE / "registration_values.json"
  want = np.array(json.loads(path.read_text())["values"][name])
  found = rigid.icp(jnp.float32(moving), jnp.float32(fixed), num_steps=100)
  axes = moving.shape[1]
  np.testing.assert_allclose(found.rotation, want[:axes, :axes], atol=2e-5)
  np.testing.assert_allclose(found.shift, want[:axes, 3], atol=2e-5)
  assert np.abs(want[:3, :3] - np.eye(3)).max() > 0.05  # something had to be turned


def test_layers_come_home_along_the_stack():
  first = cloud(0)
  truth = [(turn(a), np.array(t)) for a, t in ((0.1, [1, 2]), (-0.2, [0, 3]), (0.3, [5, 0]))]
  layers = [first]
  for rotation, shift in truth:  # layer k + 1 is where `truth` brings it to layer k
    layers.append((layers[-1] - shift) @ rotation)
  pairs = jax.vmap(rigid.procrustes)(jnp.float32(layers[1:]), jnp.float32(layers[:-1]))
  placed = rigid.compose(pairs)
  for k in range(3):
    back = rigid.Rigid(placed.rotation[k], placed.shift[k])(jnp.float32(layers[k + 1]))
    np.testing.assert_allclose(back, first, atol=1e-4)


def test_a_cross_is_the_union_of_two_bands_and_a_square_their_intersection():
  points = jnp.float32([[4, 0], [0, 4], [3, 3], [1, 1], [-8, -8]])  # around (0, 0)
  kept, _ = rigid.subset(points, rigid.cross_distance(points), 2)
  assert sorted(kept.tolist()) == [[0, 4], [4, 0]]
  near = rigid.square_distance(points)
  np.testing.assert_allclose(near, [4, 4, 3, 1, 8])
  kept, weight = rigid.subset(points, near, 4, jnp.float32([1, 1, 1, 0, 1]))
  assert sorted(kept.tolist()) == [[-8, -8], [0, 4], [3, 3], [4, 0]] and weight.all()


def test_too_few_points_are_refused():
  with pytest.raises(InputError, match="three points or more"):
    rigid.icp(jnp.zeros((2, 2)), jnp.zeros((5, 2)))
  with pytest.raises(InputError, match="one number of axes"):
    rigid.icp(jnp.zeros((5, 2)), jnp.zeros((5, 3)))
