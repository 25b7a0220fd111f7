"""Training methods, one `Step` factory a file."""

from medjax.methods.averaged import Averaged, averaged
from medjax.methods.learn2synth import learn2synth
from medjax.methods.octl import continued_adam, octl, remembering
from medjax.methods.supervised import supervised

__all__ = [
  "Averaged",
  "averaged",
  "continued_adam",
  "learn2synth",
  "octl",
  "remembering",
  "supervised",
]
