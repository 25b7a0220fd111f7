"""Quadratic kappa beside scikit-learn's, and parts that have its mean and its spread."""

import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics import kappa_parts, quadratic_kappa


@pytest.fixture
def judged():
  random = np.random.default_rng(0)
  labels = random.integers(0, 4, 300)
  return np.clip(labels + random.integers(-1, 2, 300), 0, 3), labels


def test_is_cohen_s_kappa(judged):
  reference = pytest.importorskip("sklearn.metrics").cohen_kappa_score
  found = quadratic_kappa(*judged)
  np.testing.assert_allclose(found, reference(*judged, weights="quadratic"), rtol=1e-12)
  assert quadratic_kappa(judged[0][::-1].copy(), judged[0]) < found


def test_parts_are_those_of_a_jackknife_and_have_the_mean_of_kappa(judged):
  predicted, labels = judged
  parts, n = kappa_parts(predicted, labels), len(labels)
  kappa = quadratic_kappa(predicted, labels)
  np.testing.assert_allclose(parts.mean(), kappa, rtol=1e-12)
  left_out = [quadratic_kappa(np.delete(predicted, i), np.delete(labels, i)) for i in range(n)]
  jackknife = n * kappa - (n - 1) * np.array(left_out)
  np.testing.assert_allclose(parts, jackknife, atol=20 / n)
  np.testing.assert_allclose(parts.std(), jackknife.std(), rtol=0.02)

  people = np.arange(n) % 100
  own = kappa_parts(predicted, labels, subjects=people)
  assert own.shape == (100,)
  np.testing.assert_allclose(own.mean(), kappa, rtol=1e-12)
  np.testing.assert_allclose(own, [parts[people == p].mean() for p in range(100)], rtol=1e-9)


def test_one_grade_only_has_no_kappa_and_no_cases_are_refused():
  assert np.isnan(quadratic_kappa(np.ones(3, int), np.ones(3, int)))
  with pytest.raises(InputError, match="judgements, got none"):
    quadratic_kappa(np.zeros(0, int), np.zeros(0, int))
