"""Overlap, surface distances, calibration, tables of cases, scores and comparison of methods."""

from medjax.metrics.auroc_parts import auroc_parts
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
from medjax.metrics.ranking import auroc
from medjax.metrics.report import SegmentationReport, segmentation_report
from medjax.metrics.scores import min_max_score, vendor_weighted
from medjax.metrics.surface_distance import assd, hausdorff, hd95
from medjax.metrics.surface_overlap import surface_dice
from medjax.metrics.temperature import Temperature, fit_temperature
from medjax.metrics.transfer import Transfer, transfer_summary

__all__ = [
  "Calibration",
  "Comparison",
  "Interval",
  "SegmentationReport",
  "Temperature",
  "Transfer",
  "assd",
  "auroc",
  "auroc_parts",
  "calibration_summary",
  "calibration_sums",
  "compare",
  "comparison_cells",
  "comparison_table",
  "dice",
  "ensemble_entropy",
  "equal_mass_edges",
  "fit_temperature",
  "hausdorff",
  "hd95",
  "holm",
  "jaccard",
  "mean_interval",
  "min_max_score",
  "predictive_entropy",
  "reliability_series",
  "segmentation_report",
  "surface_dice",
  "transfer_summary",
  "vendor_weighted",
]
