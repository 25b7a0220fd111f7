"""Training methods, one `Step` factory a file."""

from medjax.methods.averaged import Averaged, averaged
from medjax.methods.fine_tuning import l2sp, only, pull_to_start
from medjax.methods.learn2synth import learn2synth
from medjax.methods.octl import continued_adam, octl, remembering
from medjax.methods.private import private
from medjax.methods.supervised import supervised

__all__ = [
  "Averaged",
  "averaged",
  "continued_adam",
  "l2sp",
  "learn2synth",
  "octl",
  "only",
  "private",
  "pull_to_start",
  "remembering",
  "supervised",
]
