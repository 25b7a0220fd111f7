"""One direction out of the gradients of several tasks, examples or domains that disagree.

Each factory gives a `Combiner`, a function `(rows [tasks, parameters], key) -> [parameters]`. Those
whose direction is a weighted sum of the rows also have `.weights(gramian, key) -> [tasks]`, for
which the matrix of inner products is enough (`grads.gramian`). A row that holds NaN or infinity has
weight 0 and the others go on as if it were not there. Two more rules, `dwa` and `uncertainty`, look
at the losses in place of the gradients and remember them (`LossWeights`). `TABLE` has all of them.
"""

from collections.abc import Callable, Mapping

from medjax.grads.combine.aligned import aligned_mtl
from medjax.grads.combine.base import Combiner, Conflicts, conflicts, gramian_of_rows
from medjax.grads.combine.by_losses import LossWeights, dwa, uncertainty
from medjax.grads.combine.equal import config, imtl_g
from medjax.grads.combine.nash import nash_mtl
from medjax.grads.combine.projecting import pcgrad, upgrad
from medjax.grads.combine.simple import graddrop, mean
from medjax.grads.combine.simplex import cagrad, mgda

TABLE: Mapping[str, Callable[[], Combiner | LossWeights]] = {
  "mean": mean,
  "dwa": dwa,
  "uncertainty": uncertainty,
  "pcgrad": pcgrad,
  "cagrad": cagrad,
  "mgda": mgda,
  "graddrop": graddrop,
  "imtl_g": imtl_g,
  "nash_mtl": nash_mtl,
  "aligned_mtl": aligned_mtl,
  "upgrad": upgrad,
  "config": config,
}
"""Every rule by its name, with the settings of its paper."""

__all__ = [
  "TABLE",
  "Combiner",
  "Conflicts",
  "LossWeights",
  "aligned_mtl",
  "cagrad",
  "config",
  "conflicts",
  "dwa",
  "graddrop",
  "gramian_of_rows",
  "imtl_g",
  "mean",
  "mgda",
  "nash_mtl",
  "pcgrad",
  "uncertainty",
  "upgrad",
]
