"""A federated training of a study: all arms of a seed share first weights, clients and batches.

Not a study: what the studies of federations train.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from medjax import federated, rng, study
from medjax.types import Batch, Model, Step


def job(
  name: str,
  step: Step,
  model: Model,
  train: Batch,
  held: Sequence[np.ndarray],
  *,
  seed: int,
  num_rounds: int,
  **options: Any,
) -> study.Job:
  """One training.

  Args:
    name: of the job; the same name goes on where it was.
    step: from `federated.federated`.
    model: whose weights the seed draws.
    train: all training cases.
    held: rows of each client.
    seed: of weights, cohorts and batches.
    num_rounds: rounds of training.
    options: of `federated.cohorts`.
  """
  key = jax.random.key(seed)
  params, _ = model.init(rng.stream(key, "parameters"), train.image[0])
  stream: Any = federated.cohorts(train, held, seed=seed, **options)
  return study.Job(name, step, stream, params, key, num_rounds)


def in_one_block(job: study.Job) -> study.Job:
  """The same for a Step without chunks: a round comes as one block, which is one program."""
  blocks: Any = job.stream
  return job._replace(stream=lambda t: blocks(t)[0])
