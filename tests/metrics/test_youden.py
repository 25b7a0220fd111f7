"""The best cut by trying all, ties, and what has none."""

import numpy as np
import pytest

from medjax import metrics
from medjax.check import InputError

RANDOM = np.random.default_rng(0)


def test_it_is_the_best_of_all_cuts_and_the_highest_of_these():
  for _ in range(20):
    labels = np.array([0, 1, *RANDOM.integers(0, 2, 12)])
    scores = RANDOM.integers(0, 6, 14) / 4  # with ties
    found = metrics.youden_cut(scores, labels)
    tried = {}
    for cut in np.arange(-0.125, 1.6, 0.25):
      above = scores > cut
      tried[cut] = above[labels == 1].mean() + (~above[labels == 0]).mean()
    above = scores > found.value
    own = above[labels == 1].mean(), (~above[labels == 0]).mean()
    np.testing.assert_allclose((found.sensitivity, found.specificity), own)
    np.testing.assert_allclose(sum(own), max(max(tried.values()), 1.0))
    best = [cut for cut, gain in tried.items() if np.isclose(gain, sum(own))]
    higher = [cut for cut in best if above.sum() > (scores > cut).sum()]
    assert not higher  # none of the same J calls fewer positive


def test_scores_of_one_label_or_without_a_number_have_no_cut():
  with pytest.raises(InputError, match="both present"):
    metrics.youden_cut(np.arange(3.0), np.ones(3, int))
  with pytest.raises(InputError, match="finite scores"):
    metrics.youden_cut(np.array([0.0, np.nan]), np.array([0, 1]))
