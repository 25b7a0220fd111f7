import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check
from medjax.ops import fields
from medjax.synth import freesurfer, generator, grouping, intensity, presets
from medjax.synth.deformation import Deformation, DeformationParameters, Flip
from medjax.synth.noise import Noise

TABLE = freesurfer.by_tissue()


def head(shape):
  """Nested balls of FreeSurfer values: skin, bone, CSF, cortex, white matter, thalami."""
  grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), -1)
  radius = np.linalg.norm(grid, axis=-1)
  label = np.zeros(shape, np.int32)
  for bound, value in ((0.9, 511), (0.8, 515), (0.7, 24), (0.6, 3), (0.5, 2)):
    label[radius < bound] = value
  label[(radius < 0.2) & (grid[..., 0] < 0)] = 10
  label[(radius < 0.2) & (grid[..., 0] >= 0)] = 49
  return jnp.asarray(label)


PRESETS = {"synthseg": presets.synthseg(TABLE), "learn2synth": presets.learn2synth_base(TABLE)}
SHAPES = ((20, 18), (10, 12, 9))


@pytest.mark.parametrize(
  "name, shape",
  [
    ("learn2synth", (20, 18)),
    pytest.param("synthseg", (10, 12, 9), marks=pytest.mark.slow),
  ],
)
def test_presets_give_images_in_the_unit_interval_the_same_alone_and_in_a_batch(name, shape):
  label, keys = head(shape), jax.random.split(jax.random.key(0), 3)
  values = np.unique(label)
  generate = functools.partial(generator.generate, PRESETS[name])
  images, labels = jax.jit(jax.vmap(generate, (0, None)))(keys, label)
  assert images.shape == (3, *shape, 1) and images.dtype == jnp.float32
  assert labels.shape == (3, *shape) and labels.dtype == label.dtype
  assert jnp.all(jnp.isfinite(images)) and not np.allclose(images[0], images[1])
  for image, warped in zip(images, labels, strict=True):
    assert 0 <= jnp.min(image) < 1e-6 and 1 - 1e-6 < jnp.max(image) <= 1
    assert set(np.unique(warped)) <= set(values) | set(TABLE.mirror[values])  # sides may swap
  image, warped = jax.jit(generate)(keys[2], label)
  np.testing.assert_array_equal(labels[2], warped)
  # Matrix products of the blur add up in an order that depends on the batch.
  np.testing.assert_allclose(images[2], image, atol=2e-6)


def test_class_means_and_deviations_are_recovered_with_everything_else_off():
  config = generator.Generator(grouping.identity(4), quantiles=None)
  label = jnp.repeat(jnp.arange(4, dtype=jnp.int32), 1024).reshape(64, 64)
  parameters = config.draw(jax.random.key(3), label.shape)
  image, same = config.apply(parameters, label)
  np.testing.assert_array_equal(same, label)
  for c in range(4):
    values = np.asarray(image[..., 0])[np.asarray(label) == c]
    std = float(parameters["mixture"].stds[c])
    assert abs(values.mean() - parameters["mixture"].means[c]) <= 4 * std / 32 + 1e-4
    assert abs(values.std() - std) <= 4 * std / (32 * 2**0.5) + 1e-4  # deviation of a deviation


def test_background_is_zero_in_5_and_dark_in_25_percent():
  mixture = intensity.Mixture()
  keys = jax.random.split(jax.random.key(0), 4000)
  drawn = jax.jit(jax.vmap(lambda key: mixture.draw(key, (1, 1, 3))))(keys)
  zero = (drawn.means[:, 0] == 0) & (drawn.stds[:, 0] == 0)
  dark = (drawn.means[:, 0] <= 15) & (drawn.stds[:, 0] <= 5) & ~zero
  # By chance U(0, 250) and U(0, 30) are dark in 1 % of the other 70 %.
  np.testing.assert_allclose(jnp.mean(zero), 0.05, atol=4 * (0.05 * 0.95 / 4000) ** 0.5)
  np.testing.assert_allclose(jnp.mean(dark), 0.257, atol=4 * (0.26 * 0.74 / 4000) ** 0.5)
  for statistic, high in ((drawn.means[:, 1:], 250), (drawn.stds[:, 1:], 30)):
    assert jnp.min(statistic) >= 0 and 0.98 * high < jnp.max(statistic) <= high
    np.testing.assert_allclose(jnp.mean(statistic), high / 2, rtol=0.03)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_deformations_never_fold(name):
  deformation = PRESETS[name].deformation
  strongest = dataclasses.replace(deformation, elastic=(deformation.elastic[1],) * 2)
  for shape in ((48, 40), (20, 22, 18)):

    def smallest(key, shape=shape):
      displacement = strongest.displacement(strongest.draw(key, shape), shape)
      return jnp.min(fields.jacobian_determinant(displacement))

    keys = jax.random.split(jax.random.key(0), 8)
    assert jnp.min(jax.jit(jax.vmap(smallest))(keys)) > 0


def test_zero_ranges_leave_the_labels_alone():
  still = Deformation(0.0, (1.0, 1.0), 0.0, 0.0, (0.0, 0.0))
  for shape in SHAPES:
    label = head(shape)
    moved = jax.jit(lambda x: still.apply(still.draw(jax.random.key(0), x.shape), x))(label)
    np.testing.assert_array_equal(moved, label)


def test_translation_moves_labels_by_whole_voxels_and_brings_in_background():
  label = jnp.arange(1, 26, dtype=jnp.int32).reshape(5, 5)
  shift, still = jnp.array([2.0, 0.0]), jnp.zeros((2, 2, 2))
  moved = jax.jit(Deformation().apply)(DeformationParameters(jnp.eye(2), shift, still, None), label)
  expected = np.zeros((5, 5), int)
  expected[:3] = label[2:]  # pulled back: voxel x takes the label of x + 2
  np.testing.assert_array_equal(moved, expected)


def test_odd_and_even_grids_deform_alike_at_half_resolution():
  # A constant velocity is the same translation whatever the half grid is.
  deformation = Deformation()
  for shape in ((8, 9), (5, 6, 7)):
    shift = jnp.full((2,) * len(shape) + (len(shape),), 1.5)
    parameters = DeformationParameters(None, None, shift, None)
    displacement = jax.jit(lambda p, s=shape: deformation.displacement(p, s))(parameters)
    np.testing.assert_allclose(displacement, 1.5, rtol=1e-5)


def test_flip_mirrors_the_grid_and_swaps_sides():
  label = jnp.array([[10, 2, 0], [0, 41, 14]], jnp.int32).T  # axis 0 runs from left to right
  mirror = jnp.asarray(TABLE.mirror)
  flipped = Flip(0).apply(jnp.array(True), label, mirror)
  assert flipped.T.tolist() == [[0, 41, 49], [14, 2, 0]]
  np.testing.assert_array_equal(Flip(0).apply(jnp.array(True), flipped, mirror), label)
  np.testing.assert_array_equal(Flip(0).apply(jnp.array(False), label, mirror), label)


def test_flip_keeps_ignored_voxels_ignored():
  label = jnp.array([[0, -1], [2, 3]])
  flipped = Flip(0).apply(jnp.array(True), label, jnp.arange(4))
  np.testing.assert_array_equal(flipped, [[2, 3], [0, -1]])


def test_switching_a_component_off_keeps_the_draws_of_the_others():
  full = PRESETS["synthseg"].draw(jax.random.key(0), (12, 12))
  part = dataclasses.replace(PRESETS["synthseg"], bias=None, deformation=None)
  drawn = part.draw(jax.random.key(0), (12, 12))
  assert set(full) - set(drawn) == {"bias", "deformation"}
  jax.tree.map(np.testing.assert_array_equal, drawn, {name: full[name] for name in drawn})


def test_image_is_differentiable_in_every_drawn_number():
  config = dataclasses.replace(PRESETS["synthseg"], noise=Noise((0.1, 0.1), 1.0))
  label = head((10, 9))
  parameters = config.draw(jax.random.key(1), label.shape)
  mixture, gamma = parameters["mixture"], parameters["gamma"]

  def total(means, gamma):
    changed = {**parameters, "mixture": mixture._replace(means=means), "gamma": gamma}
    return jnp.sum(config.apply(changed, label)[0])

  gradients = jax.jit(jax.grad(total, (0, 1)))(mixture.means, gamma)
  for gradient in gradients:
    assert jnp.all(jnp.isfinite(gradient)) and jnp.any(gradient != 0)


def test_gamma_needs_rescaling():
  with pytest.raises(check.InputError, match="gamma"):
    generator.Generator(TABLE, gamma=intensity.Gamma(), quantiles=None)
