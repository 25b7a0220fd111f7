"""Wrong updates that some clients send, to test aggregation rules with.

Every attack names what it may see: `attack.sees`.
"""

from medjax.federated.attacks.attack import Attack, Sight, View
from medjax.federated.attacks.bounded import fang, min_max, min_sum, sign, std, unit
from medjax.federated.attacks.disbelieve import (
  disbelieve_gradients,
  disbelieve_parameters,
  scale_within,
)
from medjax.federated.attacks.simple import ipm, lie, mimic, random_direction, sign_flip

__all__ = [
  "Attack",
  "Sight",
  "View",
  "disbelieve_gradients",
  "disbelieve_parameters",
  "fang",
  "ipm",
  "lie",
  "mimic",
  "min_max",
  "min_sum",
  "random_direction",
  "scale_within",
  "sign",
  "sign_flip",
  "std",
  "unit",
]
