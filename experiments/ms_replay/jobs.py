"""Trainings that the replay study asks for, along the run axis where they are alike."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.ms_replay.bench import Bench
from medjax import rng, train
from medjax.data.seeds import generator
from medjax.types import Params, Step, Stream


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
  scores: dict[str, dict[str, np.ndarray]]
  timing: train.Timing
  num_steps: int
  statement: str = ""


class Job(NamedTuple):
  """A training that is asked for; `statement()` after it says what it protects, None: nobody."""

  name: str
  seed: int
  step: Step
  stream: Stream
  params: Params
  num_steps: int
  split: dict[str, Any]
  validation: tuple[int, ...]
  statement: Callable[[], str] | None = None


def train_jobs(bench: Bench, jobs: Sequence[Job]) -> list[Stage]:
  """Trains them, those of one Step and length along the run axis."""
  config, stages = bench.config, {}
  groups: dict[Any, list[Job]] = {}
  for job in jobs:
    is_checked = config.carry == "best" and len(job.validation) > 0
    groups.setdefault((id(job.step), job.num_steps, is_checked), []).append(job)
  for (_, num_steps, is_checked), group in groups.items():
    fits = train.fit_many(
      group[0].step,
      [job.stream for job in group],
      [job.params for job in group],
      [rng.stream(jax.random.key(job.seed), "training") for job in group],
      num_steps=num_steps,
      mode=config.mode,
      names=[job.name for job in group],
      evaluators=[bench.evaluators(job.split, num_steps, job.validation) for job in group],
      workdir=bench.directory.path,
      writers=bench.directory.writers,
      log_every=config.log_every,
      eval_every=max(num_steps // 10, 1) if is_checked else None,
      keep_best="validation/soft_dice" if is_checked else None,
      progress=False,
    )
    for job, fit in zip(group, fits, strict=True):
      params = fit.state.params
      carried = fit.best.state.params if fit.best is not None else params
      is_shown = bench.directory.private is None
      found = _scores(fit.history[-1]) if is_shown else bench.tested(params, job.split)
      scores = people_of(bench, job.split, found)
      said = "" if job.statement is None else job.statement()
      stages[job.name] = Stage(job.name, params, carried, scores, fit.timing, num_steps, said)
      mean = np.mean([s["dice"].mean() for s in scores.values()])
      print(f"{job.name}: {num_steps} steps, Dice {mean:.3f} over all centres", flush=True)
  return [stages[job.name] for job in jobs]


def people_of(
  bench: Bench, split: dict[str, Any], scores: dict[str, dict[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
  """Scores of test volumes as means over the volumes of each person."""
  found = {}
  for centre, values in scores.items():
    names = [bench.study.subjects[row] for row in split[centre]["test"]]
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
  rows, subjects = [*current, *remembered], bench.study.subjects
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


def _scores(row: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
  found: dict[str, dict[str, list[float]]] = {}
  for name, value in row.items():
    if name.startswith("test/"):
      centre, _, metric = name.removeprefix("test/").rsplit("|", 2)
      found.setdefault(centre, {}).setdefault(metric, []).append(value)
  return {c: {m: np.asarray(v) for m, v in metrics.items()} for c, metrics in found.items()}
