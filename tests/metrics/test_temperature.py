"""Temperature against a grid, a known scale, closed forms and the identities of the likelihood."""

import math

import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics import temperature
from medjax.metrics.temperature import fit_temperature
from medjax.types import IGNORE


def sampled(random, n, *, scale=1.0, classes=4):
  """Logits whose softmax, at temperature `scale`, the labels are drawn from."""
  z = 2 * random.normal(size=(n, classes))
  p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  return scale * z, (random.random((n, 1)) > p.cumsum(-1)[:, :-1]).sum(-1)


def nll(logits, labels, temperature):
  z = logits / temperature
  return np.mean(np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), labels])


def test_a_known_scale_is_found():
  random = np.random.default_rng(0)
  for scale in (0.4, 1.0, 3.0):
    fit = fit_temperature(*sampled(random, 40_000, scale=scale))
    assert fit.temperature == pytest.approx(scale, rel=0.03)  # 4 standard errors of about 0.7 %
    assert not fit.at_bound


def test_it_is_the_best_of_a_grid():
  logits, labels = sampled(np.random.default_rng(1), 300, scale=2.5)
  fit = fit_temperature(logits, labels)
  assert fit.nll_after == pytest.approx(nll(logits, labels, fit.temperature), rel=1e-12)
  assert fit.nll_before == pytest.approx(nll(logits, labels, 1.0), rel=1e-12)
  grid = np.exp(np.linspace(-3, 3, 601))
  best = grid[np.argmin([nll(logits, labels, t) for t in grid])]
  assert abs(math.log(fit.temperature / best)) <= 0.01
  for t in (1 - 1e-4, 1 + 1e-4):
    assert nll(logits, labels, t * fit.temperature) > fit.nll_after


def test_two_classes_in_closed_form():
  """A margin d, right in a share q of the voxels: sigmoid(d / T) = q."""
  for d, right in ((2.0, 9), (30.0, 6), (0.5, 8)):
    logits = np.zeros((10, 2))
    logits[:, 0] = d
    labels = np.array([0] * right + [1] * (10 - right))
    expected = d / math.log(right / (10 - right))
    fit = fit_temperature(logits, labels, bounds=(0.01, 1000.0))
    assert fit.temperature == pytest.approx(expected, rel=1e-9)


def test_scale_carries_over_and_offsets_order_and_unknown_voxels_do_not_matter():
  random = np.random.default_rng(2)
  logits, labels = sampled(random, 200)
  t = fit_temperature(logits, labels).temperature
  order = random.permutation(200)
  assert fit_temperature(3 * logits, labels).temperature == pytest.approx(3 * t, rel=1e-9)
  moved = logits + 100 * random.normal(size=(200, 1))
  assert fit_temperature(moved, labels).temperature == pytest.approx(t, rel=1e-9)
  volume = logits[order].reshape(10, 20, 4), labels[order].reshape(10, 20)
  assert fit_temperature(*volume).temperature == pytest.approx(t, rel=1e-9)
  more = np.concatenate([logits, 50 * random.normal(size=(30, 4))])
  unknown = np.concatenate([labels, np.full(30, IGNORE)])
  assert fit_temperature(more, unknown).temperature == pytest.approx(t, rel=1e-9)


def test_likelihoods_without_a_minimum_end_at_a_bound_and_say_so():
  logits = np.array([[3.0, 0.0], [0.0, 2.0]])
  right = fit_temperature(logits, [0, 1])
  wrong = fit_temperature(logits, [1, 0])
  assert (right.temperature, right.at_bound) == (pytest.approx(0.05), True)
  assert (wrong.temperature, wrong.at_bound) == (pytest.approx(20.0), True)
  equal = fit_temperature(np.zeros((3, 2)), [0, 1, 1])
  assert equal.temperature == 1.0 and not equal.at_bound


def test_huge_logits_do_not_overflow():
  logits = np.array([[1e4, 0.0]] * 4)
  fit = fit_temperature(logits, [0, 0, 0, 1], bounds=(0.05, 1e6))
  assert fit.temperature == pytest.approx(1e4 / math.log(3), rel=1e-9)


def test_newton_needs_few_passes_also_from_far_away(monkeypatch):
  passes, nll_at = [], temperature._nll
  monkeypatch.setattr(temperature, "_nll", lambda z, b: passes.append(b) or nll_at(z, b))
  for scale in (1.0, 10.0, 0.1):
    passes.clear()
    fit_temperature(*sampled(np.random.default_rng(3), 1000, scale=scale))
    assert len(passes) <= 16  # 4 of them are the two values and the two ends


@pytest.mark.parametrize(
  "logits, labels, text",
  [
    (np.zeros((3, 2)), [0, 1], "one shape"),
    (np.zeros((2, 2)), [IGNORE, IGNORE], "a voxel with a label"),
    (np.zeros((2, 2)), [0, 2], "labels in 0..1"),
    (np.full((2, 2), np.nan), [0, 1], "finite logits"),
  ],
)
def test_bad_arguments_are_named(logits, labels, text):
  with pytest.raises(InputError, match=text):
    fit_temperature(logits, labels)
