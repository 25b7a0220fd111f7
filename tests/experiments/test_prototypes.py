"""Centroids are running means, pruning keeps the closest, maps are judged by masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import lesion_sets, prototype_maps
from experiments import prototype_learning as learning
from medjax import data, nets
from medjax.check import InputError
from tests.data import folders

RANDOM = np.random.default_rng(0)


def test_centroids_of_a_batch_are_those_of_one_example_after_the_other():
  """Eq. 2 as printed, an example at a time, in NumPy; an example of padding moves nothing."""
  middle = RANDOM.normal(size=(2, 2, 3, 4))
  count = RANDOM.integers(0, 3, (2, 2, 3)).astype(float)
  codes = RANDOM.normal(size=(6, 2, 4))
  nearest, labels = RANDOM.integers(0, 3, (6, 2)), RANDOM.integers(0, 2, 6)
  is_there = np.array([True] * 5 + [False])
  want, number = middle.copy(), count.copy()
  for i in range(5):
    for branch in range(2):
      place = branch, labels[i], nearest[i, branch]
      number[place] += 1
      want[place] = (1 - 1 / number[place]) * want[place] + codes[i, branch] / number[place]
  old = learning.Centroids(jnp.asarray(middle), jnp.asarray(count))
  found = learning.moved(old, *map(jnp.asarray, (codes, nearest, labels, is_there)))
  np.testing.assert_allclose(found.middle, want, atol=1e-5)
  np.testing.assert_array_equal(found.count, number)


@pytest.fixture(scope="module")
def learnt():
  """A network after three updates with k-means, the states before and after, and its inputs."""
  net = nets.Prototypes(2, 3, 4, (4,))
  images = RANDOM.normal(size=(6, 8, 8, 1)).astype(np.float32)
  batch = {"image": jnp.asarray(images), "label": jnp.array([0, 1, 0, 1, 0, 1])}
  step = learning.step_of(net, optax.sgd(0.1), strength=0.5, epoch_steps=2)
  state = step.init(jax.jit(net.init)(jax.random.key(0), images[0]), jax.random.key(0))
  update, states = jax.jit(step.update), [state]
  for i in range(3):
    state, metrics = update(state, batch, jax.random.key(i))
    states.append(state)
  return net, images, states, metrics


def test_an_epoch_starts_again_and_every_image_is_assigned_once_a_branch(learnt):
  _, _, states, metrics = learnt
  counts = [np.asarray(state.extra.count.sum((1, 2))).tolist() for state in states]
  assert counts == [[0, 0], [6, 6], [12, 12], [6, 6]]
  assert np.isfinite(metrics["loss"]) and metrics["cluster"] > 0


def test_logits_are_the_printed_averages(learnt):
  """Eq. 4 in NumPy from the cosines; and the map's maximum is the local likeness."""
  net, images, states, _ = learnt
  found = jax.jit(net.apply)(states[-1].params, images[0])
  likeness = np.asarray(found.likeness)
  assert likeness.shape == (2, 2, 3) and np.abs(likeness).max() <= 1 + 1e-6
  np.testing.assert_allclose(found.maps.max((0, 1)), likeness[1], rtol=1e-6)
  shares = np.exp(likeness.sum(-1) / 3 / 0.07)
  shares /= shares.sum(-1, keepdims=True)
  np.testing.assert_allclose(found.probabilities, shares.mean(0), rtol=1e-4)
  unit = np.asarray(states[-1].params["params"]["prototypes"])[0]
  code = np.asarray(found.image)
  cosines = unit @ code / np.linalg.norm(unit, axis=-1) / np.linalg.norm(code)
  np.testing.assert_allclose(cosines, likeness[0], atol=1e-5)


def test_the_second_stage_begins_with_the_first_ones_averages():
  likeness = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
  start = {"weights": jnp.asarray(learning.block_weights(3, 4))}
  example = {"likeness": jnp.asarray(likeness.ravel()), "mask": jnp.ones(24)}
  found = learning.second_logits(start, example, 0.5)
  np.testing.assert_allclose(found, likeness.mean(-1).mean(0) / 0.5, rtol=1e-5)


def test_pruning_keeps_one_prototype_for_each_nearest_image():
  likeness = RANDOM.uniform(size=(5, 2, 2, 4))
  keep = learning.pruned(likeness)
  for branch in range(2):
    flat = likeness[:, branch].reshape(5, -1)
    own, nearest = keep[branch].ravel(), flat.argmax(0)
    assert sorted(nearest[own]) == sorted(set(nearest))  # one for each image that is nearest to any
    for k in np.flatnonzero(~own):
      rival = np.flatnonzero(own & (nearest == nearest[k]))[0]
      assert flat.max(0)[rival] >= flat.max(0)[k]


def test_a_map_that_is_the_mask_lies_inside_and_names_what_the_score_needs(learnt):
  net, images, states, _ = learnt
  masks = np.zeros((2, 8, 8), bool)
  masks[:, 2:5, 3:6] = True
  keys = jax.random.split(jax.random.key(0), 2)
  the_mask = lambda params, image: jnp.asarray(masks[0], jnp.float32)  # noqa: E731
  found = prototype_maps.judged(net, states[-1].params, the_mask, images[:2], masks, keys)
  np.testing.assert_allclose([found["inside"], found["hit"]], 1)
  assert np.isfinite(found["faithful"]).all()
  nothing = prototype_maps.judged(net, states[-1].params, the_mask, images[:2], None, keys)
  assert np.isnan(nothing["inside"]).all()
  np.testing.assert_allclose(nothing["faithful"], found["faithful"], rtol=1e-5)


def test_the_rare_class_is_thinned_to_what_is_asked_for():
  label = np.array([0] * 40 + [1] * 20)
  train = np.arange(60)
  found = lesion_sets.thinned(label, train, 20.0, 0)
  assert np.bincount(label[found]).tolist() == [40, 2] and len(set(found)) == 42
  np.testing.assert_array_equal(lesion_sets.thinned(label, train, 0.0, 0), train)
  with pytest.raises(InputError, match="1 to 20 of the rare class, got 0"):
    lesion_sets.thinned(label, train, 100.0, 0)


def test_real_lesions_have_their_diagnoses():
  path = folders.real_set("skin_ph2")
  names = data.NnUNetFolder(path).subjects
  found = lesion_sets.diagnoses(path, names)
  assert len(found) == 160 and sum("elanoma" in own for own in found) == 31
  with pytest.raises(InputError, match="a diagnosis of every case"):
    lesion_sets.diagnoses(path, (*names, "IMD999"))
