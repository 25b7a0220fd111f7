"""Sources that a function draws: anatomies of any number, without a download."""

from medjax.data.simulated.cardiac import CardiacAnatomy
from medjax.data.simulated.context import context_problems
from medjax.data.simulated.procedural import ProceduralAnatomy
from medjax.data.simulated.source import Simulated

__all__ = [
  "CardiacAnatomy",
  "ProceduralAnatomy",
  "Simulated",
  "context_problems",
]
