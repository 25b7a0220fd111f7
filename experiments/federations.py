"""What the studies of federations share: cases and plan before a run, trainings, results.

Not a study. All arms of a seed share first weights, clients and batches.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax import data, federated, rng, study, train
from medjax.types import Batch, Model, Source, Step


class Frame(NamedTuple):
  """The cases of all clients, and the design of a run on them.

  Attributes:
    whole: cases of all clients.
    parts: positions of the cases to train on and to test on.
    design: who stands in which part, and the questions that the run asks.
  """

  whole: Source
  parts: Mapping[str, Sequence[int]]
  design: study.Design

  def begin(self, directory: train.RunDirectory) -> tuple[Batch, Batch]:
    """Cases to train on and to test on; writes who is in which part, and says what is planned."""
    self.design.begin(directory)
    train_cases, test = (data.stack(self.whole, self.parts[part]) for part in ("train", "test"))
    return train_cases, test

  def names(self, test: Batch) -> list[str]:
    """The person of every test case."""
    return [self.whole.subjects[int(i)] for i in test.index]


def frame(
  config: study.Settings,
  seed: int,
  whole: Source,
  questions: Sequence[study.Question],
  roles: Sequence[str],
  arms: Collection[str],
  *,
  shares: tuple[float, float] = (2 / 3, 1 / 3),
) -> Frame:
  """The frame of a run.

  Args:
    config: of the study.
    seed: of the split, and the first one of the run.
    whole: cases of all clients.
    questions: all of the study.
    roles: that the run scores, such as numbers of local updates; all on the same test people.
    arms: that it trains.
    shares: of the people who train and who test.
  """
  parts = study.parted(whole.subjects, dict(zip(("train", "test"), shares, strict=True)), seed)
  people = study.people_by_part(whole.subjects, parts)
  design = study.design(config, seed, questions, arms, people, tested=roles)
  return Frame(whole, parts, design)


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
