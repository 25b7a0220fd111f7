"""The loop and what surrounds it: mesh, checkpoints, logs, run directory, report."""

from medjax.train.engine import NonFiniteError
from medjax.train.logging import Writer
from medjax.train.loop import Fit, fit
from medjax.train.mesh import data_mesh, replicate, shard_batch
from medjax.train.report import Report
from medjax.train.rundir import RunDirectory
from medjax.train.runs import fit_many
from medjax.train.timing import Timing

__all__ = [
  "Fit",
  "NonFiniteError",
  "Report",
  "RunDirectory",
  "Timing",
  "Writer",
  "data_mesh",
  "fit",
  "fit_many",
  "replicate",
  "shard_batch",
]
