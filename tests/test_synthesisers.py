"""Learned synthesisers on disk: what is loaded is what was saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check, nets, synth, synthesisers

KEY = jax.random.key(3)
LABEL = jnp.tile(jnp.arange(3, dtype=jnp.int32).repeat(4), (12, 1))


def of(augmentation, theta, **more):
  grouping = synth.with_clusters(synth.identity(3), 1)
  generator = synth.learn2synth_base(grouping)
  return synthesisers.Synthesiser(generator, augmentation, theta, (0, 4, 9), **more)


def parametric(**options):
  augmentation = synth.ParametricAugmentation(**options)
  return of(augmentation, augmentation.init(sigma=0.07), axis=2)


@pytest.mark.parametrize("options", [{}, {"noise": "ranged", "grids": (2, 3)}, {"bias": False}])
def test_a_loaded_synthesiser_makes_the_same_images(options, tmp_path):
  made = parametric(**options)
  synthesisers.save(tmp_path / "synthesisers" / "one.safetensors", made)
  loaded = synthesisers.load(tmp_path)
  assert (loaded.label_values, loaded.axis) == ((0, 4, 9), 2)
  assert loaded.augmentation == made.augmentation
  for own, other in zip(made(KEY, LABEL), loaded(KEY, LABEL), strict=True):
    np.testing.assert_array_equal(own, other)


def test_a_network_that_changes_images_is_kept_with_its_weights(tmp_path):
  network = nets.UNet(num_outputs=1, widths=(2, 4))
  augmentation = synth.UNetResidual(nets.from_linen(network), gain=0.1)
  made = of(augmentation, augmentation.init(KEY, jnp.zeros((12, 12, 1))))
  path = tmp_path / "one.safetensors"
  with pytest.raises(check.InputError, match="network of UNetResidual"):
    synthesisers.save(path, made)
  synthesisers.save(path, made, network=network)
  for own, other in zip(made(KEY, LABEL), synthesisers.load(path)(KEY, LABEL), strict=True):
    np.testing.assert_allclose(own, other, atol=1e-6)


def test_files_that_hold_none_and_names_that_are_not_there_are_refused(tmp_path):
  with pytest.raises(check.InputError, match="learned synthesisers"):
    synthesisers.load(tmp_path)
  for name in ("one", "two"):
    synthesisers.save(tmp_path / "synthesisers" / f"{name}.safetensors", parametric())
  with pytest.raises(check.InputError, match="one, two"):
    synthesisers.load(tmp_path)
  with pytest.raises(check.InputError, match="three"):
    synthesisers.load(tmp_path, "three")
  loaded = synthesisers.load(tmp_path, "two")
  other = tmp_path / "other.safetensors"
  synthesisers.weights.save_weights(other, {"theta": loaded.theta})
  with pytest.raises(check.InputError, match="a synthesiser in"):
    synthesisers.load(other)


def test_a_volume_is_made_slice_by_slice_where_slices_were_learnt():
  volume = np.stack([np.asarray(LABEL), np.asarray(LABEL.T)], axis=2)
  image, target = synthesisers.synthesise_volume(parametric(), KEY, volume)
  assert image.shape == target.shape == (12, 12, 2)
  own = parametric()(jax.random.fold_in(KEY, 1), LABEL.T)
  np.testing.assert_array_equal(target[..., 1], own[1])
