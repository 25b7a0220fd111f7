"""Dataset condensation: a few pictures that are learnt so that they stand for many.

The parameters of the Step are the pixels. `condensed` makes it from a rule that says how well the
pictures match a client's data under a network drawn anew in every update.

matching      distribution matching (DM) and its generalisable form (GDD-FL)
by_gradients  gradient matching (DC, with Siamese augmentation DSA)
released      statistics of the data that are released once, with noise, and what matches them
"""

from medjax.methods.condensation.by_gradients import gradient_matching, layer_distance
from medjax.methods.condensation.matching import Matching, Uncertain, distribution_matching
from medjax.methods.condensation.pictures import condensed
from medjax.methods.condensation.released import (
  RandomNetworks,
  ReleasedMeans,
  released_means,
  statistic_matching,
  statistics_step,
)

__all__ = [
  "Matching",
  "RandomNetworks",
  "ReleasedMeans",
  "Uncertain",
  "condensed",
  "distribution_matching",
  "gradient_matching",
  "layer_distance",
  "released_means",
  "statistic_matching",
  "statistics_step",
]
