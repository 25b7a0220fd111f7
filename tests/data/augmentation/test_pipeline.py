import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check
from medjax.data import augmentation
from medjax.types import IGNORE

COMPONENTS = [field.name for field in dataclasses.fields(augmentation.Augmentation)][1:]


def batch(config, count=4, channels=2):
  random = np.random.default_rng(0)
  shape = (count, *config.source_shape)
  image = random.normal(size=(*shape, channels)).astype(np.float32)
  return jnp.asarray(image), jnp.asarray(random.integers(-1, 3, shape).astype(np.int32))


def sure(config):
  """Everything with probability 1."""

  def certain(component):
    names = [name for name in vars(component) if name.endswith("probability")]
    return dataclasses.replace(component, **dict.fromkeys(names, 1.0))

  parts = {name: getattr(config, name) for name in COMPONENTS}
  return dataclasses.replace(config, **{n: c and certain(c) for n, c in parts.items()})


@pytest.mark.parametrize("patch", [(12, 10), (8, 6, 10)])
def test_an_example_alone_and_in_a_batch_gives_the_same(patch):
  config = dataclasses.replace(
    sure(augmentation.nnunet(patch, elastic_probability=1.0)), shift=augmentation.Shift()
  )
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
  config = augmentation.nnunet((6, 5, 4))
  changes = {
    name: dataclasses.replace(getattr(config, name), probability=0.0)
    for name in COMPONENTS
    if name != "spatial" and getattr(config, name) is not None
  }
  still = dataclasses.replace(
    config.spatial, rotation_probability=0.0, scaling_probability=0.0, mirror_probability=0.0
  )
  config = dataclasses.replace(config, spatial=still, **changes)
  image = jax.random.normal(jax.random.key(1), (9, 9, 8, 2))
  label = jnp.arange(9 * 9 * 8, dtype=jnp.int32).reshape(9, 9, 8)
  moved, moved_label = jax.jit(config)(jax.random.key(0), image, label)
  np.testing.assert_array_equal(moved, image[1:7, 2:7, 2:6])
  np.testing.assert_array_equal(moved_label, label[1:7, 2:7, 2:6])


def test_switching_a_component_off_leaves_the_draws_of_the_others():
  config = dataclasses.replace(
    augmentation.nnunet((6, 5), elastic_probability=0.5), shift=augmentation.Shift()
  )
  full = config.draw(jax.random.key(0), 2)
  assert sorted(full) == sorted(COMPONENTS)
  for name in COMPONENTS:
    fewer = dataclasses.replace(config, **{name: None}).draw(jax.random.key(0), 2)
    assert sorted([*fewer, name]) == sorted(COMPONENTS)
    for other, value in fewer.items():
      jax.tree.map(np.testing.assert_array_equal, value, full[other])


def test_elastic_off_leaves_the_affine_draws():
  key = jax.random.key(0)
  plain, elastic = (
    augmentation.nnunet((8, 8), elastic_probability=p).draw(key, 1)["spatial"] for p in (0.0, 1.0)
  )
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
    assert config.low_resolution.across == across


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
