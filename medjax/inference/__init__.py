"""From a trained network and an image of any size to class probabilities."""

from medjax.inference.beam import Texts, beam_search
from medjax.inference.components import remove_small_components
from medjax.inference.exported import export_member, load_exported
from medjax.inference.predictor import Ensemble, Member, Predictor
from medjax.inference.test_time import IDENTITY, Symmetry, both, mirrorings, rotations
from medjax.inference.window import slide

__all__ = [
  "IDENTITY",
  "Ensemble",
  "Member",
  "Predictor",
  "Symmetry",
  "Texts",
  "beam_search",
  "both",
  "export_member",
  "load_exported",
  "mirrorings",
  "remove_small_components",
  "rotations",
  "slide",
]
