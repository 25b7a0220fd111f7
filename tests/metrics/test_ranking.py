"""Area under the ROC curve against the pairs that it counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics.ranking import auroc

area = jax.jit(auroc)


def by_pairs(scores, labels, weight=None):
  """The definition: every pair of a positive and a negative, in float64."""
  weight = np.ones(len(labels)) if weight is None else np.asarray(weight, np.float64)
  won = pairs = 0.0
  for i in np.flatnonzero(labels == 1):
    for j in np.flatnonzero(labels == 0):
      pair = weight[i] * weight[j]
      won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
      pairs += pair
  return won / pairs


def drawn(seed, n=40, levels=7):
  """Scores with many ties, labels, weights of which some are 0."""
  random = np.random.default_rng(seed)
  scores = random.integers(0, levels, n).astype(np.float32) / levels
  return scores, random.integers(0, 2, n), random.integers(0, 4, n).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_share_of_pairs_won_and_ties_count_half(seed):
  scores, labels, weight = drawn(seed)
  # float32 sums of whole numbers below 2^24: only the last division rounds
  np.testing.assert_allclose(area(scores, labels), by_pairs(scores, labels), rtol=3e-7)
  got = area(scores, labels, weight=weight)
  np.testing.assert_allclose(got, by_pairs(scores, labels, weight), rtol=3e-7)


def test_a_whole_weight_counts_the_example_so_often_and_padding_counts_nowhere():
  scores, labels, weight = drawn(5)
  often = weight.astype(int)
  repeated = area(np.repeat(scores, often), np.repeat(labels, often))
  np.testing.assert_allclose(area(scores, labels, weight=weight), repeated, rtol=3e-7)
  padded = area(np.append(scores, np.nan), np.append(labels, 1), weight=np.append(weight, 0))
  np.testing.assert_allclose(padded, repeated, rtol=3e-7)
  ignored = area(np.append(scores, 9), np.append(labels, -1), weight=np.append(weight, 5))
  np.testing.assert_allclose(ignored, repeated, rtol=3e-7)


def test_only_the_order_matters_and_its_reverse_is_the_complement():
  scores, labels, _ = drawn(6)
  value = area(scores, labels)
  np.testing.assert_array_equal(area(np.exp(3 * scores), labels), value)
  np.testing.assert_allclose(area(-scores, labels), 1 - value, rtol=3e-7)
  assert float(area(labels.astype(np.float32), labels)) == 1.0
  assert float(area(np.zeros(8, np.float32), np.arange(8) % 2)) == 0.5


def test_several_classes_are_the_mean_of_one_against_the_rest():
  random = np.random.default_rng(0)
  logits = random.integers(1, 5, (50, 3)).astype(np.float32)
  logits /= logits.sum(1, keepdims=True)
  labels, weight = random.integers(0, 3, 50), random.integers(1, 3, 50).astype(np.float32)
  want = np.mean([by_pairs(logits[:, k], (labels == k).astype(int), weight) for k in range(3)])
  np.testing.assert_allclose(area(logits, labels, weight=weight), want, rtol=1e-6)
  known = np.where(np.arange(50) < 45, labels, -1)
  np.testing.assert_allclose(area(logits, known), area(logits[:45], labels[:45]), rtol=1e-6)
  # two classes of complementary scores rank alike
  two = np.stack([1 - logits[:, 0], logits[:, 0]], 1)
  binary = (labels == 0).astype(int)
  np.testing.assert_allclose(area(two, binary), area(logits[:, 0], binary), rtol=3e-7)


def test_nothing_to_compare_is_nan():
  scores = np.arange(4, dtype=np.float32)
  for labels in (np.zeros(4, int), np.ones(4, int), np.full(4, -1)):
    assert np.isnan(area(scores, labels))
  assert np.isnan(area(scores, np.array([0, 1, 0, 1]), weight=np.array([1.0, 0, 1, 0])))
  assert np.isnan(area(np.array([0, np.nan, 1], np.float32), np.array([0, 1, 1])))
  logits = np.eye(4, 3, dtype=np.float32)
  assert np.isnan(area(logits, np.array([0, 0, 1, 1])))  # no example of class 2


def test_it_maps_over_seeds():
  sets = [drawn(seed) for seed in range(3)]
  scores, labels = (np.stack([one[i] for one in sets]) for i in range(2))
  got = jax.jit(jax.vmap(auroc))(jnp.asarray(scores), jnp.asarray(labels))
  np.testing.assert_allclose(got, [by_pairs(*one[:2]) for one in sets], rtol=3e-7)


def test_scores_of_one_class_in_two_axes_are_refused():
  with pytest.raises(InputError, match=r"2 classes or more, got \(4, 1\)"):
    auroc(jnp.zeros((4, 1)), jnp.zeros(4, int))
  with pytest.raises(InputError, match="weight and labels of one shape"):
    auroc(jnp.zeros(4), jnp.zeros(4, int), weight=jnp.zeros(3))


def test_logits_of_several_classes_do_not_rank():
  # Always right; example i has the offset 10 i in all its logits, which softmax takes away.
  labels = np.array([0, 1, 2, 0, 1, 2])
  logits = np.eye(3, dtype=np.float32)[labels] + 10 * np.arange(6, dtype=np.float32)[:, None]
  assert float(auroc(jax.nn.softmax(jnp.asarray(logits)), labels)) == 1.0
  with pytest.raises(InputError, match=r"probabilities as scores .*rows that sum to 1..151; pass"):
    auroc(logits, labels)
  assert np.isnan(area(logits, labels))
