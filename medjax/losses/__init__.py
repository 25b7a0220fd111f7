"""Losses of ONE example: logits [*space, class] and label map in, scalar out; findings of images.

Voxels labelled `types.IGNORE` count in no sum; labels that are no class are refused, see
`medjax.labels`.
"""

from medjax.losses.agreement import decorrelation, view_similarity
from medjax.losses.class_masks import class_masks
from medjax.losses.composed import SegmentationLoss, deep_supervision, weighted_sum
from medjax.losses.entropy import binary_cross_entropy, cross_entropy, focal
from medjax.losses.imbalance import logit_adjusted, margin_calibrated
from medjax.losses.normalised_focal import normalised_focal
from medjax.losses.overlap import soft_dice, tversky
from medjax.losses.partial_labels import (
  conditional_distillation,
  keep_labelled,
  labelled_classes,
  labelled_dice,
  merge_unlabelled,
)
from medjax.losses.size import released_size_penalty, size_margin, size_penalty
from medjax.losses.survival import cox

__all__ = [
  "SegmentationLoss",
  "binary_cross_entropy",
  "class_masks",
  "conditional_distillation",
  "cox",
  "cross_entropy",
  "decorrelation",
  "deep_supervision",
  "focal",
  "keep_labelled",
  "labelled_classes",
  "labelled_dice",
  "logit_adjusted",
  "margin_calibrated",
  "merge_unlabelled",
  "normalised_focal",
  "released_size_penalty",
  "size_margin",
  "size_penalty",
  "soft_dice",
  "tversky",
  "view_similarity",
  "weighted_sum",
]
