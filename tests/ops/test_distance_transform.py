"""Exact distances: against SciPy in float64, closed forms, and the batch against its members."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax.ops.distance_transform import _transform, distance_at, distance_transform

RELATIVE = 1e-6  # a few roundings of float32


def masks(shape, seed=0):
  """From one True voxel to half of them."""
  random = np.random.default_rng(seed)
  some = [random.random(shape) < share for share in (0.5, 0.05, 0.005)]
  single = np.zeros(shape, bool)
  single[tuple(n // 3 for n in shape)] = True
  return np.stack([*(mask for mask in some if mask.any()), single])


@pytest.mark.parametrize(
  "shape", [(1,), (70,), (9, 37), (64, 32), (33, 3, 18), (17, 20, 40), (2, 1, 5)]
)
def test_equals_scipy(shape):
  random = np.random.default_rng(1)
  for mask in masks(shape):
    spacing = tuple(random.uniform(0.3, 10, len(shape)))
    want = ndimage.distance_transform_edt(~mask, sampling=spacing)
    found = distance_transform(mask, spacing=spacing)
    np.testing.assert_allclose(found, want, rtol=RELATIVE)
    points = random.integers(0, mask.size, 5000)
    at = distance_at(mask, points, spacing=spacing)
    np.testing.assert_allclose(at, want.ravel()[points], rtol=RELATIVE)


@pytest.mark.parametrize("place", [0, 31, 32, 63, 64, 99])
def test_along_one_axis_across_words_of_32_bits(place):
  mask = jnp.zeros(100, bool).at[place].set(True)
  found = distance_transform(mask, spacing=(0.5,))
  np.testing.assert_array_equal(found, 0.5 * abs(np.arange(100) - place))


def test_nothing_is_infinitely_far_and_everything_is_here():
  mask, spacing = jnp.zeros((4, 40), bool), (1.0, 2.0)
  assert jnp.isinf(distance_transform(mask, spacing=spacing)).all()
  assert jnp.isinf(distance_at(mask, jnp.array([3]), spacing=spacing)).all()
  assert (distance_transform(~mask, spacing=spacing) == 0).all()
  assert distance_at(mask, jnp.zeros(0, int), spacing=spacing).shape == (0,)


def test_vmap_over_masks_and_over_spacings():
  stack = jnp.asarray(masks((6, 35, 18)))
  spacings = jnp.array([[1.0, 1.0, 1.0], [1.25, 1.25, 10.0], [3.0, 0.5, 0.7], [2.0, 2.0, 1.0]])
  points = jnp.arange(4 * 50).reshape(4, 50)
  both = jax.jit(jax.vmap(lambda m, s: distance_transform(m, spacing=s)))(stack, spacings)
  one = jax.jit(jax.vmap(lambda m: distance_transform(m, spacing=(3.0, 0.5, 0.7))))(stack)
  at = jax.jit(jax.vmap(lambda m, p, s: distance_at(m, p, spacing=s)))(stack, points, spacings)
  for k in range(4):
    want = distance_transform(stack[k], spacing=spacings[k])
    np.testing.assert_allclose(both[k], want, rtol=RELATIVE)
    np.testing.assert_allclose(at[k], want.ravel()[points[k]], rtol=RELATIVE)
  np.testing.assert_allclose(one[2], both[2], rtol=RELATIVE)


def test_one_program_for_all_spacings():
  mask = jnp.zeros((5, 7), bool).at[2, 3].set(True)
  first = distance_transform(mask, spacing=(1.0, 2.0))
  programs = _transform._cache_size()
  np.testing.assert_array_equal(distance_transform(mask, spacing=(4, 8)), 4 * first)
  np.testing.assert_array_equal(distance_transform(mask, spacing=np.array([2.0, 4.0])), 2 * first)
  assert _transform._cache_size() == programs


@pytest.mark.parametrize("at_points", [False, True])
def test_memory_grows_with_the_voxels_only(at_points):
  mask = jnp.zeros((24, 48, 40), bool)
  points = jnp.arange(mask.size)
  call = (
    (lambda m, s: distance_at(m, points, spacing=s))
    if at_points
    else (lambda m, s: distance_transform(m, spacing=s))
  )
  memory = jax.jit(call).lower(mask, jnp.ones(3)).compile().memory_analysis()
  assert memory is not None
  # A row of 40 for each of the points, or 24 terms of a sum for each voxel, would be far more.
  some = 4096 * 40 + 12 * mask.size if at_points else 4 * mask.size
  assert memory.temp_size_in_bytes < 4 * some


def test_no_gradient_flows():
  mask = jnp.zeros((5, 7), bool).at[2, 3].set(True)
  gradient = jax.grad(lambda s: distance_transform(mask, spacing=s).sum())(jnp.ones(2))
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, np.nan), (1.0, np.inf)])
def test_spacing_that_is_none(spacing):
  with pytest.raises(ValueError, match="spacing in mm"):
    distance_transform(jnp.ones((3, 3), bool), spacing=spacing)


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 2, 2, 2)])
def test_masks_that_are_none(shape):
  with pytest.raises(ValueError, match="1, 2 or 3 axes"):
    distance_transform(jnp.ones(shape, bool), spacing=(1.0,) * len(shape))


def test_programs_of_many_shapes_are_not_kept(monkeypatch):
  module = importlib.import_module("medjax.ops.distance_transform")
  monkeypatch.setattr(module, "_PROGRAMS", 2)
  for size in range(3, 9):
    found = module.distance_at(np.arange(size) == 0, np.array([size - 1], np.int32), spacing=(2.0,))
    assert found[0] == 2.0 * (size - 1) and module._at._cache_size() <= 3
