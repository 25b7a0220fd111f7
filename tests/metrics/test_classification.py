"""Confusion, rates and their intervals against counting, binomial laws and one another."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import metrics
from medjax.check import InputError
from medjax.metrics.classification import ratio_interval

RANDOM = np.random.default_rng(0)
TRUE, CALLED = (RANDOM.integers(0, 3, 60) for _ in range(2))


def test_the_confusion_matrix_counts_and_rates_are_its_quotients():
  weight = RANDOM.integers(0, 3, 60).astype(np.float32)
  known = np.where(np.arange(60) < 50, TRUE, -1)
  count = functools.partial(metrics.confusion_matrix, num_classes=3)
  found = jax.jit(count)(CALLED, known, weight=weight)
  for t in range(3):
    for c in range(3):
      assert found[t, c] == weight[(known == t) & (CALLED == c)].sum()
  np.testing.assert_array_equal(count(CALLED, TRUE).sum(), 60)
  got = metrics.rates(count(CALLED, TRUE))
  for k in range(3):
    t, c = set(np.flatnonzero(TRUE == k)), set(np.flatnonzero(CALLED == k))
    rest = set(range(60)) - t
    np.testing.assert_allclose(got.sensitivity[k], len(t & c) / len(t), rtol=1e-6)
    np.testing.assert_allclose(got.specificity[k], len(rest - c) / len(rest), rtol=1e-6)
    np.testing.assert_allclose(got.precision[k], len(t & c) / len(c), rtol=1e-6)
    np.testing.assert_allclose(got.f1[k], 2 * len(t & c) / (len(t) + len(c)), rtol=1e-6)
  absent = metrics.rates(count(np.zeros(4, int), np.zeros(4, int)))
  assert np.isnan(absent.sensitivity[1]) and np.isnan(absent.f1[1]) and absent.specificity[1] == 1
  with pytest.raises(
    InputError, match="drop the last axis of labels|drop the last axis of the lab"
  ):
    count(CALLED, TRUE[:, None])


def test_intervals_give_the_rates_and_count_people():
  found = metrics.rate_intervals(CALLED, TRUE, num_classes=3)
  want = metrics.rates(metrics.confusion_matrix(CALLED, TRUE, num_classes=3))
  for name, values in want._asdict().items():
    np.testing.assert_allclose([x.mean for x in found[name]], values, rtol=1e-6)
  np.testing.assert_allclose(found["accuracy"][0].mean, (TRUE == CALLED).mean())
  # Five equal images of every person tell as much as one.
  people = np.tile(np.arange(60), 5)
  often = metrics.rate_intervals(
    np.tile(CALLED, 5), np.tile(TRUE, 5), num_classes=3, subjects=people
  )
  for name, values in found.items():
    np.testing.assert_allclose([x[:4] for x in often[name]], [x[:4] for x in values])
  alone = metrics.rate_intervals(CALLED, TRUE, num_classes=3, subjects=np.zeros(60))
  assert np.isnan(alone["accuracy"][0].low) and alone["accuracy"][0].covers == ()


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_intervals_of_a_share_cover_as_they_say(share):
  # Exactly, over all outcomes of 20 people: a binomial law. Wilson's intervals swing about 95 %.
  covered = 0.0
  for right in range(21):
    found = ratio_interval(np.arange(20) < right, np.ones(20), np.arange(20))
    chance = math.comb(20, right) * share**right * (1 - share) ** (20 - right)
    covered += chance * (found.low <= share <= found.high)
  assert 0.92 < covered < 0.99
  none = ratio_interval(np.zeros(20), np.ones(20), np.arange(20))
  assert none.low == 0 and 0.1 < none.high < 0.3  # one-sided exact: 1 - .025^(1/20) = .168


def average_precision(scores, labels, weight):
  """From its definition: sum over thresholds of the step in recall times the precision."""
  area = last = 0.0
  for threshold in np.unique(scores)[::-1]:
    called = scores >= threshold
    hits = weight[called & (labels == 1)].sum()
    recall = hits / weight[labels == 1].sum()
    area += (recall - last) * hits / max(weight[called].sum(), 1e-9)
    last = recall
  return area


def test_average_precision_is_the_area_in_steps_and_equal_scores_go_together():
  scores = (RANDOM.integers(0, 7, 40) / 7).astype(np.float32)
  labels, weight = RANDOM.integers(0, 2, 40), RANDOM.integers(1, 4, 40).astype(np.float32)
  measure = jax.jit(metrics.average_precision)
  want = average_precision(scores, labels, weight)
  np.testing.assert_allclose(measure(scores, labels, weight=weight), want, rtol=1e-6)
  padded = measure(np.append(scores, 9), np.append(labels, 1), weight=np.append(weight, 0))
  np.testing.assert_allclose(padded, want, rtol=1e-6)
  # Scores that say nothing: the share of positives.
  np.testing.assert_allclose(measure(np.zeros(40), labels), labels.mean(), rtol=1e-6)
  assert float(measure(labels.astype(np.float32), labels)) == 1.0
  assert np.isnan(measure(scores, np.zeros(40, int))) and np.isnan(
    measure(scores, np.ones(40, int))
  )
  three = jax.nn.softmax(jnp.asarray(RANDOM.normal(size=(60, 3)), jnp.float32))
  each = [measure(three[:, k], (TRUE == k).astype(int)) for k in range(3)]
  np.testing.assert_allclose(measure(three, TRUE), np.mean(each), rtol=1e-6)


def test_an_interval_over_people_is_that_of_a_mean_and_counts_people():
  values = jnp.asarray(RANDOM.random(50) < 0.4, jnp.float32)

  def mean(weight):
    return (weight * jnp.resize(values, weight.shape)).sum() / weight.sum()

  found = metrics.interval_over_people(mean, np.arange(50))
  share = float(values.mean())
  # 1,999 draws: the deviation is known to 1 / sqrt(2 * 1999) = 1.6 %; three of these.
  np.testing.assert_allclose(found.standard_error, (share * (1 - share) / 50) ** 0.5, rtol=0.05)
  again = metrics.interval_over_people(mean, np.tile(np.arange(50), 2))
  np.testing.assert_allclose(again[:4], found[:4], rtol=1e-5)
  nothing = metrics.interval_over_people(lambda w: jnp.where(w[0] > 0, 1.0, jnp.nan), np.arange(9))
  assert nothing.mean == 1.0 and np.isnan(nothing.low)  # 1 draw in e lacks the one that counts
