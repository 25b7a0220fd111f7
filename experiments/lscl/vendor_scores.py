"""One number a method, where several hospitals tested it: the scores of the M&Ms challenge.

  DSC_w = (A + B + 2 C + 2 D) / 6,   HD_w likewise      (vendors C and D were not trained on)
  MM    = 1/2 [(DSC_w - min DSC_w) / (max DSC_w - min DSC_w) + (max HD_w - HD_w) / (max - min HD_w)]

with minimum and maximum over the methods compared, so that a score means nothing beside those of
another table. The weights are inferred: they reproduce all rows of Table 1 of Liu et al., "Local
style curriculum learning", which prints the scores and no formula for them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax import check

VENDOR_WEIGHTS = (1.0, 1.0, 2.0, 2.0)


def vendor_weighted(table: Any, *, weights: Sequence[float | int] = VENDOR_WEIGHTS) -> np.ndarray:
  """Weighted mean over vendors, [method, metric] float64, NumPy on the host.

  Args:
    table: [method, vendor, metric], finite.
    weights: weight of each vendor, 0 or more; only their ratios count.
  Raises:
    InputError: another number of axes or vendors, weights that are negative or all 0, figures that
      are not finite.
  """
  table = np.asarray(table, np.float64)
  given = np.asarray(weights, np.float64)
  check.require(
    table.ndim == 3, "a table [method, vendor, metric]", f"shape {table.shape}", "stack the methods"
  )
  check.require(
    given.shape == table.shape[1:2],
    f"a weight for each of {table.shape[1]} vendors",
    f"{weights}",
    "pass weights=... for other vendors than A to D",
  )
  check.require(
    (given >= 0).all() and given.sum() > 0, "weights of 0 or more", f"{weights}", "correct them"
  )
  check.require(
    np.isfinite(table).all(),
    "finite figures",
    "NaN or infinity",
    'average distances with empty="diagonal", and over cases that hold the structure',
  )
  return np.einsum("mvf,v->mf", table, given / given.sum())


def min_max_score(table: Any, *, weights: Sequence[float | int] = VENDOR_WEIGHTS) -> np.ndarray:
  """Rank score in [0, 1] of each method, [method]; 1 is best in both, 0 worst in both.

  >>> min_max_score([[[0.8, 12.0]] * 4, [[0.9, 11.0]] * 4, [[0.85, 10.0]] * 4])
  array([0.  , 0.75, 0.75])

  Args:
    table: [method, vendor, 2] of at least two methods, Dice and Hausdorff distance in mm.
    weights: see `vendor_weighted`.
  Returns:
    NaN where all methods are equal in Dice or in distance: there is no scale then.
  Raises:
    InputError: one method, a metric too many, and as `vendor_weighted`.
  """
  means = vendor_weighted(table, weights=weights)
  check.require(
    means.shape[0] > 1 and means.shape[1] == 2,
    "at least 2 methods with (DSC, HD)",
    f"{means.shape[0]} with {means.shape[1]} figures",
    "a min-max score compares methods",
  )
  worst = np.array([means[:, 0].min(), means[:, 1].max()])
  best = np.array([means[:, 0].max(), means[:, 1].min()])
  span = np.where(best == worst, np.nan, best - worst)
  return ((means - worst) / span).mean(axis=-1)
