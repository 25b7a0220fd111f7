"""Receive profiles against the field of a loop, and the symmetries of a ring of loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.synth.coils import Coil, CoilParameters


def centred(num_axes):
  return CoilParameters(angle=jnp.zeros(()), position=jnp.zeros(num_axes))


def test_one_element_falls_off_as_the_axis_of_a_loop():
  """B(d) / B(0) = (1 + d^2 / a^2)^(-3/2), along the line from the element through the head."""
  coil, size = Coil(num_elements=1, distance=1.5, radius=0.8), 32
  got = np.asarray(coil.profile(centred(2), (size, 1)))[:, 0, 0]
  distance = 1.5 - ((2 * np.arange(size) + 1) / size - 1)
  want = (1 + (distance / 0.8) ** 2) ** -1.5
  np.testing.assert_allclose(got, want / want.mean(), rtol=1e-5)
  assert (np.diff(got) > 0).all()  # brighter towards the element


def test_a_ring_of_four_looks_the_same_from_four_sides_and_brightest_at_the_rim():
  got = np.asarray(jax.jit(lambda: Coil(num_elements=4).profile(centred(2), (16, 16)))())[..., 0]
  np.testing.assert_allclose(got, np.rot90(got), rtol=1e-5)
  np.testing.assert_allclose(got.mean(), 1, rtol=1e-5)
  assert got[0, 8] > got[8, 8] < got[8, 0]


@pytest.mark.parametrize("slice_axis", [0, 2])
def test_the_middle_slice_of_a_volume_has_the_ring_of_a_plane(slice_axis):
  coil = Coil(num_elements=3)
  shape = [10, 10]
  shape.insert(slice_axis, 5)
  volume = coil.profile(centred(3), tuple(shape), slice_axis=slice_axis)[..., 0]
  volume = np.moveaxis(np.asarray(volume), slice_axis, 0)
  plane = np.asarray(coil.profile(centred(2), (10, 10)))[..., 0]
  np.testing.assert_allclose(volume[2] / volume[2].mean(), plane, rtol=1e-5)
  np.testing.assert_allclose(volume[0], volume[4], rtol=1e-5)
  assert (volume[2] > volume[0]).all()


def test_a_person_lies_where_the_draw_says():
  """A head two voxels further sees the profile two voxels further."""
  coil, size = Coil(num_elements=1, jitter=0.2), 20
  moved = CoilParameters(angle=jnp.zeros(()), position=jnp.array([2 * 2 / size, 0.0]))
  here, there = (np.asarray(coil.profile(p, (size, size)))[..., 0] for p in (centred(2), moved))
  ratio = there[:-2] / here[2:]
  np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
  keys = jax.random.split(jax.random.key(0), 500)
  drawn = jax.vmap(lambda k: coil.draw(k, (9, 9, 9, 1)).position)(keys)
  np.testing.assert_allclose(drawn.std(), 0.2, rtol=4 / (2 * 1500) ** 0.5)
