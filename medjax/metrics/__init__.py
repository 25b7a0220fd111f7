"""Overlap, surface distances, calibration, tables of cases, scores and comparison of methods."""

from medjax.metrics.agreement import kappa_parts, quadratic_kappa
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
from medjax.metrics.classification import Rates, confusion_matrix, rate_intervals, rates
from medjax.metrics.clicks import ClicksNeeded, clicks_needed
from medjax.metrics.compare import Comparison, compare, comparison_cells, comparison_table, holm
from medjax.metrics.graphs import GraphScore, graph_score
from medjax.metrics.image_quality import psnr, ssim
from medjax.metrics.instances import ObjectRates, aji, object_dice, object_rates
from medjax.metrics.overlap import dice, jaccard
from medjax.metrics.ranking import auroc, average_precision
from medjax.metrics.relative_gain import relative_gain
from medjax.metrics.report import SegmentationReport, segmentation_report
from medjax.metrics.resampling import interval_over_people
from medjax.metrics.surface_distance import assd, hausdorff, hd95
from medjax.metrics.surface_overlap import surface_dice
from medjax.metrics.survival import concordance, concordance_parts
from medjax.metrics.temperature import Temperature, fit_temperature
from medjax.metrics.transfer import Transfer, transfer_summary
from medjax.metrics.youden import YoudenCut, youden_cut

__all__ = [
  "kappa_parts",
  "quadratic_kappa",
  "relative_gain",
  "Calibration",
  "ClicksNeeded",
  "Comparison",
  "YoudenCut",
  "GraphScore",
  "ObjectRates",
  "Interval",
  "Rates",
  "SegmentationReport",
  "Temperature",
  "Transfer",
  "aji",
  "assd",
  "auroc",
  "auroc_parts",
  "average_precision",
  "calibration_summary",
  "calibration_sums",
  "clicks_needed",
  "compare",
  "comparison_cells",
  "comparison_table",
  "concordance",
  "concordance_parts",
  "confusion_matrix",
  "dice",
  "psnr",
  "ssim",
  "ensemble_entropy",
  "equal_mass_edges",
  "fit_temperature",
  "graph_score",
  "hausdorff",
  "hd95",
  "holm",
  "interval_over_people",
  "jaccard",
  "mean_interval",
  "object_dice",
  "object_rates",
  "predictive_entropy",
  "rate_intervals",
  "rates",
  "reliability_series",
  "segmentation_report",
  "surface_dice",
  "transfer_summary",
  "youden_cut",
]
