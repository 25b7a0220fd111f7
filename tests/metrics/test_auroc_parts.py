"""Parts of an AUROC: their mean is the area, their spread is that of the area."""

import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics import auroc_parts
from medjax.types import IGNORE

random = np.random.default_rng(0)
LABELS = random.integers(0, 2, 200)
SCORES = random.normal(size=200).round(1) + LABELS  # with ties


def area(scores, labels):
  """Over all pairs, a tie for half."""
  apart = scores[labels == 1][:, None] - scores[labels == 0][None]
  return ((apart > 0) + 0.5 * (apart == 0)).mean()


def test_the_mean_is_the_area_and_the_unknown_count_nowhere():
  np.testing.assert_allclose(auroc_parts(SCORES, LABELS).mean(), area(SCORES, LABELS))
  partly = np.where(np.arange(200) < 50, IGNORE, LABELS)
  found = auroc_parts(SCORES, partly)
  want = area(SCORES[50:], LABELS[50:])
  np.testing.assert_allclose([found.mean(), *found[:50]], want)


@pytest.mark.parametrize("unknown", [0, 80])
def test_parts_are_what_leaving_a_person_out_changes(unknown):
  """Jackknife: without one of P people the area moves by its part / (P - 1), up to 1 / P^2."""
  people = np.arange(200) % 40
  labels = np.where(np.arange(200) < unknown, IGNORE, LABELS)
  parts = auroc_parts(SCORES, labels, subjects=people)
  whole = area(SCORES, labels)
  assert parts.shape == (40,)
  np.testing.assert_allclose(parts.mean(), whole)
  without = np.array([area(SCORES[people != p], labels[people != p]) for p in range(40)])
  moved, wanted = 39 * (whole - without), parts - whole
  np.testing.assert_allclose(moved, wanted, atol=0.1 * np.abs(wanted).max())
  np.testing.assert_allclose(moved.std(), wanted.std(), rtol=0.1)


def test_several_classes_are_ranked_one_against_the_rest():
  labels = random.integers(0, 3, 100)
  scores = np.exp(random.normal(size=(100, 3)) + np.eye(3)[labels])
  scores /= scores.sum(1, keepdims=True)
  each = [area(scores[:, k], (labels == k).astype(int)) for k in range(3)]
  np.testing.assert_allclose(auroc_parts(scores, labels).mean(), np.mean(each))


def test_a_class_without_both_outcomes_is_refused():
  with pytest.raises(InputError, match="leave out the class"):
    auroc_parts(np.arange(3.0), np.array([1, 1, IGNORE]))
