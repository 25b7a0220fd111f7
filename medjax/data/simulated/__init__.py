"""Sources that a function draws: anatomies of any number, without a download."""

from medjax.data.simulated.cardiac import CardiacAnatomy
from medjax.data.simulated.context import context_problems
from medjax.data.simulated.instruments import INSTRUMENTS, instrument_scenes
from medjax.data.simulated.procedural import ProceduralAnatomy
from medjax.data.simulated.radiographs import radiographs
from medjax.data.simulated.shapes import random_shapes
from medjax.data.simulated.source import Simulated
from medjax.data.simulated.vectors import feature_vectors

__all__ = [
  "INSTRUMENTS",
  "CardiacAnatomy",
  "ProceduralAnatomy",
  "Simulated",
  "context_problems",
  "feature_vectors",
  "instrument_scenes",
  "radiographs",
  "random_shapes",
]
