"""From a trained network and an image of any size to class probabilities."""

from medjax.inference.adaptation import (
  entropy,
  noise_outside,
  over_copies,
  prototypes,
  surest,
  tent,
)
from medjax.inference.beam import Texts, beam_search
from medjax.inference.channels import (
  at_points,
  channel_scores,
  highest,
  select_channels,
  softly_highest,
)
from medjax.inference.components import remove_small_components
from medjax.inference.exported import export_member, load_exported
from medjax.inference.predictor import Ensemble, Member, Predictor
from medjax.inference.support import (
  SupportPool,
  SupportSegmenter,
  anywhere,
  draw_support,
  fit_trust,
  near,
  support_pool,
)
from medjax.inference.test_time import IDENTITY, Symmetry, both, mirrorings, rotations
from medjax.inference.window import slide

__all__ = [
  "IDENTITY",
  "Ensemble",
  "Member",
  "Predictor",
  "SupportPool",
  "SupportSegmenter",
  "Symmetry",
  "Texts",
  "at_points",
  "over_copies",
  "beam_search",
  "both",
  "channel_scores",
  "draw_support",
  "entropy",
  "anywhere",
  "export_member",
  "fit_trust",
  "highest",
  "load_exported",
  "mirrorings",
  "near",
  "noise_outside",
  "prototypes",
  "remove_small_components",
  "rotations",
  "select_channels",
  "slide",
  "softly_highest",
  "support_pool",
  "surest",
  "tent",
]
