"""One process of a training of several, for `test_processes`.

  python -m tests.train.process_worker START WORKDIR SIGNAL STEP

START is how the process finds the others: "alone", "slurm" by what SLURM sets, or "kubernetes" by
what the manifest of medjax/train/CLUSTERS.md sets. Process 0 is killed, or process 1 told to end,
when it asks for the batch of STEP; SIGNAL is "KILL", "TERM" or "none".
"""

import os
import pathlib
import signal
import sys

import jax
import numpy as np

from medjax import train
from tests.train import toy

NUM_STEPS, BATCH = 12, 8


class Share:
  """The examples of this process out of the common batch."""

  is_share = True

  def __init__(self, rank, count, sent, at):
    self.rank, self.count, self.sent, self.at = rank, count, sent, at

  def __call__(self, step):
    if step == self.at and self.sent is not None:
      os.kill(os.getpid(), self.sent)
    size = BATCH // self.count
    own = slice(self.rank * size, (self.rank + 1) * size)
    return jax.tree.map(lambda x: x[own], toy.stream(step, size=BATCH))


def main(start, workdir, name, at):
  if start == "slurm":
    jax.distributed.initialize()
  if start == "kubernetes":
    jax.distributed.initialize(
      os.environ["COORDINATOR"],
      int(os.environ["PROCESSES"]),
      int(os.environ["JOB_COMPLETION_INDEX"]),
    )
  rank, count = jax.process_index(), jax.process_count()
  assert count == (1 if start == "alone" else 2)
  is_told = rank == (0 if name == "KILL" else 1)
  sent = getattr(signal, f"SIG{name}") if name != "none" and is_told else None
  fit = train.fit(
    toy.linear(),
    Share(rank, count, sent, at),
    toy.params(),
    jax.random.key(0),
    num_steps=NUM_STEPS,
    log_every=4,
    checkpoint_every=3,
    workdir=workdir,
    mesh=train.data_mesh(),
  )
  if rank == 0:
    params = {name: np.asarray(x) for name, x in fit.state.params.items()}
    np.savez(pathlib.Path(workdir) / "params.npz", **params)


if __name__ == "__main__":
  how, folder, what, when = sys.argv[1:]
  main(how, folder, what, int(when))
