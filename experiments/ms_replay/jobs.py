"""Trainings that the replay study asks for, and what came of each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.ms_replay.bench import Bench, Scores, Split
from medjax import rng, study, train
from medjax.data.seeds import generator
from medjax.types import Params, PyTree, Step, Stream


class Stage(NamedTuple):
  """A training at one centre, or at all.

  Attributes:
    name: of its rows and checkpoints.
    params: after the last step; None once a course has gone past.
    carried: what the next centre starts from; likewise.
    scores: {centre: {"dice", "soft_dice"}: [test person]}, the mean over each one's volumes.
    timing: of this process.
    num_steps: of this centre.
    statement: what a private training protects, "" of all others.
  """

  name: str
  params: Params
  carried: Params
  scores: Scores
  timing: train.Timing
  num_steps: int
  statement: str = ""


class Task(NamedTuple):
  """A training that is asked for.

  Attributes:
    job: the training itself.
    split: who is tested after it.
    statement: says after the training what it protects; None: it protects nobody.
  """

  job: study.Job
  split: Split
  statement: Callable[[], str] | None = None


def task(
  bench: Bench,
  name: str,
  seed: int,
  step: Step,
  stream: Stream,
  params: Params,
  num_steps: int,
  split: Split,
  *,
  validation: Sequence[int] = (),
  inherited: PyTree = (),
  statement: Callable[[], str] | None = None,
) -> Task:
  """A training under the study's keys and tests; `inherited` as in `study.Job`."""
  is_checked = bench.config.carry == "best" and len(validation) > 0
  job = study.Job(
    name,
    step,
    stream,
    params,
    rng.stream(jax.random.key(seed), "training"),
    num_steps,
    bench.evaluators(split, num_steps, validation),
    keep_best="validation/soft_dice" if is_checked else "",
    inherited=inherited,
  )
  return Task(job, split, statement)


def train_tasks(bench: Bench, tasks: Sequence[Task]) -> list[Stage]:
  """Trains them, those of one Step and length along the run axis, and tests each at its end."""
  stages: dict[str, Stage] = {}
  for num_steps in dict.fromkeys(task.job.num_steps for task in tasks):
    group = [task for task in tasks if task.job.num_steps == num_steps]
    trained = study.train_jobs(
      [task.job for task in group],
      bench.directory,
      log_every=bench.config.log_every,
      eval_every=max(num_steps // 10, 1) if bench.config.carry == "best" else None,
      mode=bench.config.mode,
      progress=False,
    )
    stages |= {
      one.name: _tested(bench, task, one) for task, one in zip(group, trained, strict=True)
    }
  return [stages[task.job.name] for task in tasks]


def _tested(bench: Bench, task: Task, one: study.Trained) -> Stage:
  last = one.fit.state.params  # tests are of the last weights, whatever the next centre starts from
  if bench.directory.private is None:
    found = _scores(one.fit.history[-1])
  else:
    found = bench.tested(last, task.split)
  scores = people_of(bench, task.split, found)
  mean = np.mean([s["dice"].mean() for s in scores.values()])
  print(f"{one.name}: {one.num_steps} steps, Dice {mean:.3f} over all centres", flush=True)
  said = "" if task.statement is None else task.statement()
  return Stage(one.name, last, one.params, scores, one.fit.timing, one.num_steps, said)


def people_of(bench: Bench, split: Split, scores: Scores) -> Scores:
  """Scores of test volumes as means over the volumes of each person."""
  found = {}
  for centre, values in scores.items():
    names = [bench.setting.subjects[row] for row in split[centre]["test"]]
    people = list(dict.fromkeys(names))
    own = [np.array([name == person for name in names]) for person in people]
    found[centre] = {m: np.array([v[mine].mean() for mine in own]) for m, v in values.items()}
  return found


def part_of(
  bench: Bench, current: Sequence[int], remembered: Sequence[int], seed: int, name: str
) -> tuple[list[int], list[int], tuple[int, ...]]:
  """Volumes of the centre and of the memory to train on, and those to choose the best weights by.

  As in the released code the latter come from the end of one shuffled list of both. Here people
  stay whole, and one person of the centre, and one of the memory if there is any, are left.
  """
  rows, subjects = [*current, *remembered], bench.setting.subjects
  order = generator(seed, f"{name} validation").permutation(len(rows))
  chosen: set[int] = set()
  for i in reversed(order):
    if len(chosen) >= bench.config.num_validation:
      break
    more = chosen | {row for row in rows if subjects[row] == subjects[rows[i]]}
    sides = [side for side in (current, remembered) if side]
    if all(any(row not in more for row in side) for side in sides):
      chosen = more
  here, there = ([r for r in side if r not in chosen] for side in (current, remembered))
  return here, there, tuple(row for row in rows if row in chosen)


def _scores(row: dict[str, Any]) -> Scores:
  """What the last log row of a training says of every test volume."""
  found: dict[str, dict[str, list[float]]] = {}
  for name, value in row.items():
    if name.startswith("test/"):
      centre, _, metric = name.removeprefix("test/").rsplit("|", 2)
      found.setdefault(centre, {}).setdefault(metric, []).append(value)
  return {c: {m: np.asarray(v) for m, v in metrics.items()} for c, metrics in found.items()}
