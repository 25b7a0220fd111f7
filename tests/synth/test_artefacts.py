"""Effects in k-space: nothing at strength 0, and closed forms at the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.ops import kspace
from medjax.synth.artefacts import Ghosting, IntensityCurve, Motion, Ringing

KEY = jax.random.key(0)


def image(*shape):
  values = np.abs(np.random.default_rng(0).normal(size=shape)).astype(np.float32)
  return jnp.asarray(values[..., None])


@pytest.mark.parametrize("shape", [(12, 9), pytest.param((8, 7, 6), marks=pytest.mark.slow)])
def test_no_strength_gives_the_image_back(shape):
  x = image(*shape)
  motion = Motion(translation_mm=0.0, rotation_degrees=0.0)
  moved = motion.apply(motion.draw(KEY, x.shape), x)
  ghosting = Ghosting(amplitude=(0.0, 0.0))
  curve = IntensityCurve(strength=0.0)
  np.testing.assert_allclose(moved, x, atol=1e-5)
  np.testing.assert_allclose(ghosting.apply(ghosting.draw(KEY, x.shape), x), x, atol=1e-5)
  np.testing.assert_allclose(Ringing().apply(jnp.float32(1), x), x, atol=1e-5)
  np.testing.assert_allclose(curve.apply(curve.draw(KEY, x.shape), x), x, atol=1e-5)


def test_motion_of_every_line_alike_is_a_shift():
  x = image(12, 10)
  motion = Motion(num_events=2, rotation_degrees=0.0, spacing=(2.0, 1.0))
  parameters = motion.draw(KEY, x.shape)._replace(
    translation_mm=jnp.tile(jnp.array([[4.0, -3.0]]), (3, 1))
  )
  got = jax.jit(lambda p, x: motion.apply(p, x))(parameters, x)
  np.testing.assert_allclose(got, jnp.roll(x, (2, -3), (0, 1)), atol=1e-5)


def test_rotation_of_every_line_alike_turns_the_head():
  x = jnp.zeros((15, 15, 1)).at[7, 11].set(1.0)  # 4 voxels from the centre along axis 1
  motion = Motion(num_events=1, translation_mm=0.0, rotation_degrees=90.0)
  parameters = motion.draw(KEY, x.shape)._replace(rotation_degrees=jnp.full((2, 1), 90.0))
  got = motion.apply(parameters, x)
  place = np.unravel_index(int(got.argmax()), (15, 15))
  assert place in ((3, 7), (11, 7))
  np.testing.assert_allclose(got.max(), 1, atol=1e-4)


def test_the_pose_of_the_centre_of_k_space_is_the_original():
  """One pose is at rest, that of k = 0: labels stay in place."""
  motion = Motion()
  for seed in range(5):
    parameters = motion.draw(jax.random.key(seed), (9, 9, 1))
    at_rest = (parameters.translation_mm == 0).all(1) & (parameters.rotation_degrees == 0).all(1)
    assert int(at_rest.sum()) == 1
    assert bool(at_rest[np.searchsorted(parameters.times, 0.5)])


@pytest.mark.parametrize("period", [2, 3, 4])
def test_ghosts_stand_at_n_equal_distances_with_the_amplitude(period):
  size = 24
  x = jnp.zeros((size, 3, 1)).at[1, 1].set(1.0)
  ghosting = Ghosting()
  parameters = ghosting.draw(KEY, x.shape)._replace(
    period=jnp.int32(period), amplitude=jnp.float32(0.1), phase=jnp.float32(np.pi / 2)
  )
  got = np.asarray(ghosting.apply(parameters, x))[:, 1, 0]
  want = np.zeros(size)
  want[(1 + np.arange(period) * size // period) % size] = 0.1
  want[1] = abs(1 + 0.1j)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_gibbs_overshoot():
  """A step rings to 8.95 % of its jump: (1/pi) Si(pi) - 1/2 (Wilbraham 1848, Gibbs 1899)."""
  size = 4096
  x = jnp.zeros((size, 1, 1)).at[size // 4 : 3 * size // 4].set(1.0)
  got = Ringing(axes=(0,)).apply(jnp.float32(0.05), x)
  np.testing.assert_allclose(float(got.max()) - 1, 0.0895, atol=5e-4)


def test_energy_of_the_kept_lines_is_that_of_the_image():
  """Parseval, for the complex image before the magnitude."""
  x = image(10, 9)
  weights = (jnp.abs(kspace.frequencies(10)) <= 3).astype(jnp.float32)
  filtered = kspace.weight_lines(x, weights, 0)
  spectrum = np.fft.fft(np.asarray(x), axis=0) * np.asarray(weights)[:, None, None]
  want = (np.abs(spectrum) ** 2).sum() / 10
  np.testing.assert_allclose((jnp.abs(filtered) ** 2).sum(), want, rtol=1e-5)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0)])
def test_whole_translations_are_rolls(shift):
  x = image(8, 7)
  got = x
  for axis, size in enumerate((8, 7)):
    got = kspace.weight_lines(got, kspace.ramp(size, jnp.float32(shift[axis])), axis)
  np.testing.assert_allclose(got, jnp.roll(x, tuple(map(int, shift)), (0, 1)), atol=1e-5)


def test_half_a_voxel_keeps_a_real_image_real():
  moved = kspace.weight_lines(image(8, 7), kspace.ramp(8, jnp.float32(0.5)), 0)
  np.testing.assert_allclose(moved.imag, 0, atol=1e-6)


def test_curves_rise_from_0_to_1_and_go_on_along_their_tangent():
  curve = IntensityCurve()
  x = jnp.linspace(0, 1.5, 301)
  for seed in range(5):
    increments = curve.draw(jax.random.key(seed), x.shape)
    y = jax.jit(curve.apply)(increments, x)
    np.testing.assert_allclose(y[0], 0, atol=1e-6)
    np.testing.assert_allclose(y[200], 1, rtol=1e-5)
    assert (jnp.diff(y) > 0).all()
    np.testing.assert_allclose(jnp.diff(y)[201:], curve.degree * increments[-1] * 0.005, rtol=1e-2)
