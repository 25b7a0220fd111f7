"""Scores over vendors: Table 1 of the LSCL paper, all rows."""

import numpy as np
import pytest

from experiments.lscl.vendor_scores import min_max_score, vendor_weighted
from medjax.check import InputError

# Method: Dice of vendors A-D, Hausdorff distance of vendors A-D, printed scores (LSCL, Table 1).
TABLE_1 = {
  "U-net": ((0.858, 0.835, 0.822, 0.835), (17.113, 13.392, 17.616, 17.153), (0.8345, 16.674, 0)),
  "Mixup": (
    (0.872, 0.859, 0.837, 0.837),
    (10.441, 11.483, 12.596, 11.904),
    (0.8465, 11.821, 0.528),
  ),
  "P3": ((0.878, 0.887, 0.865, 0.864), (12.587, 9.872, 10.461, 13.969), (0.8705, 11.887, 0.779)),
  "LSCL": ((0.877, 0.865, 0.857, 0.866), (9.888, 10.746, 11.224, 11.479), (0.8647, 11.007, 0.789)),
  "P2": ((0.884, 0.892, 0.870, 0.867), (12.461, 9.796, 9.548, 13.432), (0.8750, 11.370, 0.869)),
  "LSCL-TTA": (
    (0.884, 0.876, 0.865, 0.868),
    (9.802, 10.238, 10.592, 11.195),
    (0.8710, 10.602, 0.890),
  ),
  "P1": ((0.889, 0.893, 0.876, 0.877), (12.072, 9.482, 9.465, 13.091), (0.8813, 11.111, 0.958)),
}
TABLE = np.array([np.transpose(row[:2]) for row in TABLE_1.values()])
PRINTED = np.array([row[2] for row in TABLE_1.values()])


def test_table_1_of_the_lscl_paper():
  """Printed with 4, 3 and 3 decimals from figures of 3 decimals."""
  means = vendor_weighted(TABLE)
  np.testing.assert_allclose(means[:, 0], PRINTED[:, 0], atol=1e-4)
  np.testing.assert_allclose(means[:, 1], PRINTED[:, 1], atol=1e-3)
  np.testing.assert_allclose(min_max_score(TABLE), PRINTED[:, 2], atol=1e-3)


def test_units_and_the_best_method_do_not_change_the_score():
  rescaled = TABLE * [100, 0.1] + [3, 7]
  np.testing.assert_allclose(min_max_score(rescaled), min_max_score(TABLE), atol=1e-12)
  better = np.concatenate([TABLE, [[[1.0, 0.0]] * 4]])
  assert min_max_score(better)[-1] == 1 and min_max_score(better)[0] == 0
  assert np.isnan(min_max_score([TABLE[0], TABLE[0]])).all()


def test_equal_weights_are_the_plain_mean():
  np.testing.assert_allclose(vendor_weighted(TABLE, weights=(5, 5, 5, 5)), TABLE.mean(1))


@pytest.mark.parametrize(
  ("table", "weights", "message"),
  [
    (TABLE[0], (1, 1, 2, 2), "a table"),
    (TABLE[:1], (1, 1, 2, 2), "at least 2 methods"),
    (TABLE, (1, 1), "a weight for each of 4 vendors"),
    (TABLE, (0, 0, 0, 0), "weights of 0 or more"),
    (np.where(TABLE > 17, np.inf, TABLE), (1, 1, 2, 2), 'empty="diagonal"'),
  ],
)
def test_bad_tables_are_refused(table, weights, message):
  with pytest.raises(InputError, match=message):
    min_max_score(table, weights=weights)
