"""AJI, rates and Dice of objects against loops over sets of pixels, and by hand."""

import math

import numpy as np
import pytest

from medjax import check, metrics


def drawn(seed):
  """Two maps of rectangles, later ones over earlier ones, with numbers that do not correspond."""
  random = np.random.default_rng(seed)
  maps = np.zeros((2, 24, 24), np.int32)
  for i in range(6):
    for own, first in zip(maps, (3, 40), strict=True):
      if random.random() < 0.8:
        y, x = 8 * (i // 3) + random.integers(0, 4, 2), 7 * (i % 3) + random.integers(0, 4, 2)
        own[y[0] : y[0] + 6, x[0] : x[0] + 6] = first + 2 * i
  return maps


def objects(numbers):
  return [set(np.flatnonzero(numbers == n)) for n in np.unique(numbers[numbers > 0])]


def looped(prediction, target):
  found, true = objects(prediction), objects(target)
  taken, shared, whole = set(), 0, 0
  for t in true:  # Algorithm 1 of Kumar et al.
    scores = [len(t & p) / len(t | p) for p in found]
    j = scores.index(max(scores))
    if scores[j] > 0:
      taken.add(j)
      shared, whole = shared + len(t & found[j]), whole + len(t | found[j])
    else:
      whole += len(t)
  whole += sum(len(p) for j, p in enumerate(found) if j not in taken)
  right = sum(len(t & p) / len(t | p) > 0.5 for t in true for p in found)
  dice = 0.0
  for own, others in ((true, found), (found, true)):
    for a in own:
      b = max(others, key=lambda b, a=a: len(a & b))
      dice += len(a) / sum(map(len, own)) * 2 * len(a & b) / (len(a) + len(b)) / 2
  return shared / whole, 2 * right / (len(found) + len(true)), dice


def test_measures_of_objects_equal_loops_over_sets():
  for seed in range(8):
    prediction, target = drawn(seed)
    own = (
      metrics.aji(prediction, target),
      metrics.object_rates(prediction, target).f1,
      metrics.object_dice(prediction, target),
    )
    np.testing.assert_allclose(own, looped(prediction, target), rtol=1e-12)


def test_merged_objects_cost_in_every_measure_of_objects_though_no_pixel_is_wrong():
  truth = np.array([[1, 1, 2, 2]])
  merged = np.array([[5, 5, 5, 5]])
  # Both true objects take the one prediction: (2 + 2) / (4 + 4).
  assert metrics.aji(merged, truth) == 0.5
  assert metrics.object_rates(merged, truth).f1 == 0  # a Jaccard index of 1/2 is not above it
  assert math.isclose(metrics.object_dice(merged, truth), 2 / 3)
  assert metrics.aji(truth * 9, truth) == metrics.object_dice(truth * 9, truth) == 1


def test_maps_without_objects():
  none, some = np.zeros((3, 3), np.int32), np.eye(3, dtype=np.int32)
  for measure in (metrics.aji, metrics.object_dice):
    assert math.isnan(measure(none, none)) and measure(some, none) == measure(none, some) == 0
  rates = metrics.object_rates(none, some)
  assert math.isnan(rates.precision) and rates.recall == rates.f1 == 0


def test_what_numbers_no_objects_is_refused():
  some = np.eye(3, dtype=np.int32)
  with pytest.raises(check.InputError, match="numbers of objects from 0 as target"):
    metrics.aji(some, -some)
  with pytest.raises(check.InputError, match="shape"):
    metrics.object_dice(some, some[:2])
  with pytest.raises(check.InputError, match="overlap in"):
    metrics.object_rates(some, some, overlap=0.3)
