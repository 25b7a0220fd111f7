import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check
from medjax.data import augmentation
from medjax.types import IGNORE

KEY = jax.random.key(0)
STEPS = [name for name, _ in augmentation.nnunet((4, 4)).transforms.steps]


def batch(config, count=4, channels=2):
  random = np.random.default_rng(0)
  shape = (count, *config.source_shape)
  image = random.normal(size=(*shape, channels)).astype(np.float32)
  return jnp.asarray(image), jnp.asarray(random.integers(-1, 3, shape).astype(np.int32))


def with_chance(config, probability):
  """Every transform, and every part of the movement, with this probability."""

  def changed(record):
    names = [name for name, value in vars(record).items() if name.endswith("probability") and value]
    return dataclasses.replace(record, **dict.fromkeys(names, probability))

  steps = {name: changed(step) for name, step in config.transforms.steps}
  return dataclasses.replace(
    config, spatial=changed(config.spatial), transforms=config.transforms.replace(**steps)
  )


@pytest.mark.parametrize("patch", [(12, 10), pytest.param((8, 6, 10), marks=pytest.mark.slow)])
def test_an_example_alone_and_in_a_batch_gives_the_same(patch):
  config = with_chance(augmentation.nnunet(patch, elastic_probability=1.0), 1.0)
  images, labels = batch(config)
  keys = jax.random.split(jax.random.key(0), 4)
  whole, whole_labels = jax.jit(jax.vmap(config))(keys, images, labels)
  assert whole.shape == (4, *patch, 2) and whole.dtype == jnp.float32
  assert whole_labels.shape == (4, *patch) and whole_labels.dtype == jnp.int32
  assert jnp.all(jnp.isfinite(whole)) and set(np.unique(whole_labels)) == {IGNORE, 0, 1, 2}
  assert not any(np.array_equal(whole[0], other) for other in whole[1:])
  alone, alone_label = jax.jit(config)(keys[2], images[2], labels[2])
  # Means and matrix products add up in an order that depends on the batch.
  np.testing.assert_allclose(whole[2], alone, atol=1e-5)
  np.testing.assert_array_equal(whole_labels[2], alone_label)


def test_an_image_needs_no_label():
  config = augmentation.Augmentation((6, 5), spatial=augmentation.Spatial())
  image = jax.random.normal(jax.random.key(1), (8, 8, 2))
  augment = jax.jit(config)
  with_label, _ = augment(jax.random.key(0), image, jnp.zeros((8, 8), jnp.int32))
  without, label = augment(jax.random.key(0), image)
  np.testing.assert_array_equal(without, with_label)
  assert label is None


def test_with_every_component_missed_the_patch_is_the_middle_of_the_block():
  config = with_chance(augmentation.nnunet((6, 5, 4)), 0.0)
  image = jax.random.normal(jax.random.key(1), (9, 9, 8, 2))
  label = jnp.arange(9 * 9 * 8, dtype=jnp.int32).reshape(9, 9, 8)
  moved, moved_label = jax.jit(config)(jax.random.key(0), image, label)
  np.testing.assert_array_equal(moved, image[1:7, 2:7, 2:6])
  np.testing.assert_array_equal(moved_label, label[1:7, 2:7, 2:6])


def test_switching_a_step_off_leaves_the_draws_of_the_others():
  config, key, shape = augmentation.nnunet((6, 5), elastic_probability=0.5), KEY, (8, 8, 2)
  full = config.draw(key, shape)
  assert sorted(full) == sorted([*STEPS, "spatial"])
  for name in STEPS:
    fewer = dataclasses.replace(config, transforms=config.transforms.replace(**{name: None}))
    drawn = fewer.draw(key, shape)
    assert sorted([*drawn, name]) == sorted(full)
    for other, value in drawn.items():
      jax.tree.map(np.testing.assert_array_equal, value, full[other])


def test_artefacts_of_a_scanner_join_the_pipeline():
  base = with_chance(augmentation.nnunet((12, 10)), 0.0)
  artefacts = dict(augmentation.mr_artefacts((1.0, 1.0), probability=1.0).steps)
  config = dataclasses.replace(base, transforms=base.transforms.replace(**artefacts))
  image = jax.random.normal(jax.random.key(1), (*config.source_shape, 2))
  plain, _ = jax.jit(base)(KEY, image)
  changed, _ = jax.jit(config)(KEY, image)
  assert jnp.all(jnp.isfinite(changed)) and jnp.min(jnp.abs(changed - plain).max((0, 1))) > 0.01
  # A scanner's image has no negative values: in z-scores nothing goes below the minimum.
  assert jnp.all(changed.min((0, 1)) >= plain.min((0, 1)) - 1e-5)


def test_elastic_off_leaves_the_affine_draws():
  configs = (augmentation.nnunet((8, 8), elastic_probability=p) for p in (0.0, 1.0))
  plain, elastic = (config.draw(KEY, (8, 8, 1))["spatial"] for config in configs)
  np.testing.assert_array_equal(plain.matrix, elastic.matrix)
  assert plain.elastic is None


def test_the_preset_turns_as_nnunet_does():
  rotations = {
    (128, 128): (180.0, None),
    (160, 96): (15.0, None),
    (64, 64, 64): (30.0, None),
    (96, 96, 32): (30.0, None),
    (160, 160, 20): (180.0, 2),
    (16, 256, 192): (180.0, 0),
  }
  for patch, (degrees, across) in rotations.items():
    config = augmentation.nnunet(patch)
    assert (config.spatial.rotation_degrees, config.spatial.across) == (degrees, across)
    assert config.transforms["low_resolution"].transform.across == across


def test_a_block_smaller_than_the_patch_is_surrounded_by_zeros_and_ignored():
  config = augmentation.Augmentation((6, 6), spatial=augmentation.Spatial(mirror_probability=0.0))
  still = dataclasses.replace(config.spatial, rotation_probability=0.0, scaling_probability=0.0)
  config = dataclasses.replace(config, spatial=still)
  image, label = jax.jit(config)(
    jax.random.key(0), jnp.ones((4, 4, 1)), jnp.ones((4, 4), jnp.int32)
  )
  np.testing.assert_array_equal(image[..., 0], np.pad(np.ones((4, 4)), 1))
  np.testing.assert_array_equal(label, np.pad(np.ones((4, 4)), 1, constant_values=IGNORE))


def test_shapes_that_do_not_fit_are_refused():
  config = augmentation.nnunet((4, 4))
  key = jax.random.key(0)
  with pytest.raises(check.InputError, match="without a batch axis"):
    config(key, jnp.zeros((2, 4, 4, 1)))
  with pytest.raises(check.InputError, match="label and image of one shape"):
    config(key, jnp.zeros((4, 4, 1)), jnp.zeros((5, 4), jnp.int32))
  with pytest.raises(check.InputError, match="without spatial"):
    dataclasses.replace(config, spatial=None)(key, jnp.zeros((6, 6, 1)))
  with pytest.raises(check.InputError, match="patch of 2 or 3"):
    augmentation.Augmentation((4,))
