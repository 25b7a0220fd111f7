"""Segmentation by a support: who is shown, how often, and that a wrong mask loses its weight."""

import jax.numpy as jnp
import numpy as np
import pytest

from medjax import inference
from medjax.check import InputError
from medjax.methods import support


def pool_of(number=6, volumes=2):
  """Volumes of 3 slices of 4 x 4; the structure is absent from the first slice of each."""
  random = np.random.default_rng(0)
  images = [random.random((3, 4, 4, 1)).astype(np.float32) for _ in range(number // 3)]
  labels = [np.zeros((3, 4, 4), np.int32) for _ in images]
  for label in labels:
    label[1:, :2] = 2
  del volumes
  return inference.support_pool(images, labels, 2)


def test_a_pool_knows_its_slices():
  pool = pool_of()
  assert pool.places.tolist() == [0, 1, 2] * 2 and pool.volumes.tolist() == [0] * 3 + [1] * 3
  assert pool.masks.sum((1, 2)).tolist() == [0, 8, 8] * 2


def test_slices_are_drawn_as_often_as_the_formula_says():
  pool, random = pool_of(), np.random.default_rng(1)
  counts = np.zeros(6)
  for _ in range(4000):
    counts[inference.draw_support(pool, 0, 1, random)] += 1
  wanted = 1 / (np.abs(pool.places - 0) + 1)
  np.testing.assert_allclose(counts / 4000, wanted / wanted.sum(), atol=0.03)
  even = np.zeros(6)
  for _ in range(2000):
    even[inference.draw_support(pool, 0, 2, random, weigh=inference.anywhere)] += 1
  np.testing.assert_allclose(even / 2000, 1 / 3, atol=0.04)  # two of six, without replacement


def test_inclusive_shows_the_structure_and_small_pools_are_shown_whole():
  pool, random = pool_of(), np.random.default_rng(2)
  assert inference.draw_support(pool, 0, 9, random).tolist() == list(range(6))
  assert inference.draw_support(pool, 0, 9, random, inclusive=True).tolist() == [1, 2, 4, 5]
  for _ in range(50):
    own = inference.draw_support(pool, 0, 2, random, inclusive=True)
    assert len(set(own)) == 2 and not set(own) & {0, 3}


def mean_mask(params, query, images, masks, weights):
  """A network that says the weighted mean of the masks, as logits of slope `params`."""
  del query, images
  return params * (jnp.tensordot(weights / weights.sum(), masks, 1) - 0.5)


def test_the_segmenter_fills_up_with_pairs_of_weight_0_and_averages_draws():
  pool = pool_of()
  queries = np.zeros((5, 4, 4, 1), np.float32)
  segmenter = inference.SupportSegmenter(mean_mask, 2.0, number=8, chunk=2)
  found = segmenter(queries, [0, 1, 2, 0, 1], pool, seed=0)
  mean = 2.0 * (pool.masks.mean(0) - 0.5)
  np.testing.assert_allclose(found, np.stack([1 / (1 + np.exp(-mean))] * 5), rtol=1e-5)
  trust = np.array([1, 0, 0, 1, 0, 0], np.float32)  # slices without the structure alone
  found = segmenter(queries[:1], [0], pool, seed=0, trust=trust)
  np.testing.assert_allclose(found, 1 / (1 + np.exp(1.0)), rtol=1e-5)
  one = [
    inference.SupportSegmenter(mean_mask, 2.0, number=1, draws=n)(queries, range(5), pool, seed=0)
    for n in (1, 40)
  ]
  assert np.abs(one[0][:, 0, 0] - 0.5).min() > 0.2  # one pair: its mask or nothing
  assert 0.3 < one[1][0, 0, 0] < 0.7


def test_trust_leaves_a_slice_whose_mask_is_wrong():
  masks = np.zeros((6, 4, 4), np.float32)
  masks[:, :2] = 1
  masks[4] = 1 - masks[4]
  pool = pool_of()._replace(masks=masks, places=np.zeros(6, int), volumes=np.zeros(6, int))
  trust = inference.fit_trust(mean_mask, 8.0, pool, support.mask_loss, 0, number=5)
  assert trust.mean() == pytest.approx(1, abs=1e-5)
  assert trust[4] < 0.2 < trust[[0, 1, 2, 3, 5]].min()


def test_what_cannot_be_asked_is_refused_in_one_line():
  image, label = np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 4, 4), np.int32)
  with pytest.raises(InputError, match="one labelled volume or more, got an empty support"):
    inference.support_pool([], [], 1)
  label[0, 0, 0] = 3
  message = r"a support that shows the liver \(class id 1\), got class ids \[3\]"
  with pytest.raises(InputError, match=message):
    inference.support_pool([image], [label], 1, "the liver")
  with pytest.raises(InputError, match="labels"):
    inference.support_pool([image], [label[:1]], 3)
  pool = inference.support_pool([image], [label], 3)
  empty, random = pool._replace(masks=0 * pool.masks), np.random.default_rng(0)
  with pytest.raises(InputError, match="a labelled slice that shows the structure, got an empty"):
    inference.draw_support(empty, 0, 2, random, inclusive=True)
  with pytest.raises(InputError, match="one labelled slice or more, got an empty support"):
    inference.draw_support(inference.SupportPool(*(x[:0] for x in pool)), 0, 2, random)
  with pytest.raises(InputError, match="two labelled slices or more"):
    one = inference.SupportPool(*(x[:1] for x in pool))
    inference.fit_trust(mean_mask, 1.0, one, support.mask_loss, 0)
