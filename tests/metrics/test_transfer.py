"""Transfer summaries on matrices worked out by hand."""

import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics.transfer import transfer_summary

R = np.array([[0.8, 0.2, 0.1], [0.9, 0.9, 0.3], [0.6, 0.8, 0.7]])
BASE = np.array([0.05, 0.1, 0.2])


def test_a_matrix_by_hand():
  found = transfer_summary(R, baseline=BASE)
  np.testing.assert_allclose(found.acc, (0.6 + 0.8 + 0.7) / 3)
  np.testing.assert_allclose(found.bwt, ((0.6 - 0.8) + (0.8 - 0.9)) / 2)
  np.testing.assert_allclose(found.bwt_of_centre, [-0.2, -0.1])
  np.testing.assert_allclose(found.fwt, ((0.2 - 0.1) + (0.3 - 0.2)) / 2)
  np.testing.assert_allclose(found.forgetting, ((0.9 - 0.6) + (0.9 - 0.8)) / 2)
  np.testing.assert_allclose(found.mean_all_centres, R.mean(1))
  np.testing.assert_allclose(found.zero_shot, [(0.2 + 0.1) / 2, 0.3])


def test_division_by_the_number_of_centres_is_the_released_code():
  ours, code = (transfer_summary(R, baseline=BASE, divide_by=d) for d in ("k-1", "k"))
  np.testing.assert_allclose(code.bwt, ours.bwt * 2 / 3)
  np.testing.assert_allclose(code.fwt, ours.fwt * 2 / 3)
  np.testing.assert_allclose(code.acc, ours.acc)


def test_runs_are_kept_apart():
  many = np.random.default_rng(0).uniform(size=(2, 3, 4, 4))
  found = transfer_summary(many, baseline=np.full(4, 0.1))
  for i in np.ndindex(2, 3):
    alone = transfer_summary(many[i], baseline=np.full(4, 0.1))
    for name in found._fields:
      np.testing.assert_allclose(getattr(found, name)[i], getattr(alone, name))


def test_a_learner_that_forgets_nothing_has_no_backward_transfer():
  kept = np.tril(np.full((5, 5), 0.7))
  found = transfer_summary(kept)
  assert found.bwt == found.forgetting == 0
  assert np.isnan(found.fwt)


@pytest.mark.parametrize("r", [np.ones(3), np.ones((1, 1)), np.ones((3, 2))])
def test_no_matrix_is_refused(r):
  with pytest.raises(InputError, match="K >= 2"):
    transfer_summary(r)
  with pytest.raises(InputError, match="each of 3 centres"):
    transfer_summary(R, baseline=np.ones(2))
