"""Trainings that the replay study asks for, along the run axis where they are alike."""

from collections.abc import Sequence
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
    scores: {centre: {"dice", "soft_dice"}: [test person]}.
    timing: of this process.
    num_steps: of this centre.
  """

  name: str
  params: Params
  carried: Params
  scores: dict[str, dict[str, np.ndarray]]
  timing: train.Timing
  num_steps: int


class Job(NamedTuple):
  """A training that is asked for."""

  name: str
  seed: int
  step: Step
  stream: Stream
  params: Params
  num_steps: int
  split: dict[str, Any]
  validation: tuple[int, ...]


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
      scores = _scores(fit.history[-1]) if is_shown else bench.tested(params, job.split)
      stages[job.name] = Stage(job.name, params, carried, scores, fit.timing, num_steps)
      mean = np.mean([s["dice"].mean() for s in scores.values()])
      print(f"{job.name}: {num_steps} steps, Dice {mean:.3f} over all centres", flush=True)
  return [stages[job.name] for job in jobs]


def part_of(
  bench: Bench, rows: Sequence[int], seed: int, name: str
) -> tuple[list[int], tuple[int, ...]]:
  """Volumes to train on and, at the end of a shuffled list, those to choose the best weights by.

  As in the released code the memory's volumes are in the list too; a small pool keeps two to train.
  """
  num = min(bench.config.num_validation, len(rows) - 2)
  if num <= 0:
    return list(rows), ()
  order = generator(seed, f"{name} validation").permutation(len(rows))
  shuffled = [rows[i] for i in order]
  return shuffled[:-num], tuple(shuffled[-num:])


def _scores(row: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
  found: dict[str, dict[str, list[float]]] = {}
  for name, value in row.items():
    if name.startswith("test/"):
      centre, _, metric = name.removeprefix("test/").rsplit("|", 2)
      found.setdefault(centre, {}).setdefault(metric, []).append(value)
  return {c: {m: np.asarray(v) for m, v in metrics.items()} for c, metrics in found.items()}
