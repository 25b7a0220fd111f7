"""Overlap, calibration, tables of cases, and paired comparison of methods."""

from medjax.metrics.bootstrap import Interval, mean_interval
from medjax.metrics.calibration import (
  Calibration,
  calibration_summary,
  calibration_sums,
  ensemble_entropy,
  equal_mass_edges,
  predictive_entropy,
  reliability_series,
)
from medjax.metrics.compare import Comparison, compare, comparison_cells, comparison_table, holm
from medjax.metrics.overlap import dice, jaccard
from medjax.metrics.temperature import Temperature, fit_temperature

__all__ = [
  "Calibration",
  "Comparison",
  "Interval",
  "Temperature",
  "calibration_sums",
  "calibration_summary",
  "compare",
  "comparison_cells",
  "comparison_table",
  "dice",
  "ensemble_entropy",
  "equal_mass_edges",
  "fit_temperature",
  "holm",
  "jaccard",
  "mean_interval",
  "predictive_entropy",
  "reliability_series",
]
