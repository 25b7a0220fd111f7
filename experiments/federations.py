"""What the studies of federations share: cases and plan before a run, trainings, results.

Not a study. All arms of a seed share first weights, clients and batches.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax import data, federated, rng, study, train
from medjax.types import Batch, Json, Model, Source, Step


class Frame(NamedTuple):
  """People in two parts, and the questions that a run asks of them.

  Attributes:
    whole: cases of all clients.
    parts: positions of the cases to train on and to test on.
    people: those of each part.
    roles: what is told apart in the scores, such as numbers of local updates.
    questions: all of the study.
    planned: those of these roles, with what the run could find.
    seed: of the split.
    margin: of the verdicts.
  """

  whole: Source
  parts: Mapping[str, Sequence[int]]
  people: Mapping[str, tuple[str, ...]]
  roles: Sequence[str]
  questions: Sequence[study.Question]
  planned: Any
  seed: int
  margin: float

  @property
  def asked(self) -> list[study.Question]:
    return [question for question in self.questions if question.role in self.roles]

  def begin(self, directory: train.RunDirectory) -> tuple[Batch, Batch]:
    """Cases to train on and to test on; writes who is in which part, and says what is planned."""
    train_cases, test = (data.stack(self.whole, self.parts[part]) for part in ("train", "test"))
    turn = study.Turn("", train_cases, (), {"test": test}, dict(self.people))
    directory.write_json("splits", study.splits_of([turn], self.seed))
    study.announce(self.planned)
    return train_cases, test

  def names(self, test: Batch) -> list[str]:
    """The person of every test case."""
    return [self.whole.subjects[int(i)] for i in test.index]

  def results(
    self, rows: Sequence[dict[str, Any]], metrics: Sequence[str], **more: Json
  ) -> dict[str, Any]:
    """What results.json holds: scores, verdicts, and what was planned and not asked."""
    return study.answered(
      rows,
      metrics,
      self.asked,
      margin=self.margin,
      every=self.questions,
      planned=self.planned,
      **more,
    )


def frame(
  whole: Source,
  questions: Sequence[study.Question],
  roles: Sequence[str],
  *,
  arms: Collection[str],
  seed: int,
  num_seeds: int,
  margin: float,
  shares: tuple[float, float] = (2 / 3, 1 / 3),
) -> Frame:
  """The frame of a run.

  Args:
    whole: cases of all clients.
    questions: all of the study.
    roles: that the run scores.
    arms: that it trains.
    seed: of the split.
    num_seeds: trainings of each arm.
    margin: of the verdicts.
    shares: of the people who train and who test.
  """
  parts = study.parted(whole.subjects, dict(zip(("train", "test"), shares, strict=True)), seed)
  people = {part: study.people_of(whole.subjects, rows) for part, rows in parts.items()}
  members = {role: {"seed": num_seeds, "subject": len(people["test"])} for role in roles}
  asked = [question for question in questions if question.role in roles]
  planned = study.planned(asked, members, arms, margin=margin)
  return Frame(whole, parts, people, roles, questions, planned, seed, margin)


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
