"""Rules that join client vectors: means, and rules that withstand clients that are wrong.

Each function gives a `Rule`, to be called as `rule(rows [clients, parameters], weight [clients])`.
"""

from medjax.federated.aggregate.averages import mean, norm_clipping, weighted
from medjax.federated.aggregate.centres import centred_clipping, geometric_median
from medjax.federated.aggregate.coordinates import median, trimmed_mean
from medjax.federated.aggregate.divergence import fed_ncl_v2, fed_ncl_v4
from medjax.federated.aggregate.krum import bucketing, krum, multi_krum, nearest_neighbour_mixing
from medjax.federated.aggregate.learned import auto_fedavg
from medjax.federated.aggregate.outliers import dos
from medjax.federated.aggregate.rule import Aggregate, Rule
from medjax.federated.aggregate.trust import fltrust

__all__ = [
  "Aggregate",
  "Rule",
  "auto_fedavg",
  "bucketing",
  "centred_clipping",
  "dos",
  "fed_ncl_v2",
  "fed_ncl_v4",
  "fltrust",
  "geometric_median",
  "krum",
  "mean",
  "median",
  "multi_krum",
  "nearest_neighbour_mixing",
  "norm_clipping",
  "trimmed_mean",
  "weighted",
]
