"""Trainings of a study: a `Job` says what to train, `Trained` what came of it and what it cost.

Trainings run in the order in which a study calls `train_job`. A job has a name, under which its
checkpoints lie: when the command is given again after it was killed, a job that had finished is not
trained again, and one that had begun goes on.

A training may start from what another one left, such as its weights. A digest of that start is then
kept in inherited.json. If the earlier training was made longer or was made anew since, the later
one is refused: the start that its checkpoints come from no longer exists.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from medjax import check, files, programs, train
from medjax.train.runs import Mode
from medjax.types import Evaluator, Key, Params, PyTree, Step, Stream, TrainState

_INHERITED = "inherited.json"


class Job(NamedTuple):
  """One training.

  Attributes:
    name: name of its rows and checkpoints, "arm-turn-seed"; the same name goes on where it was.
    step, stream, params, key, num_steps, evaluators: as for `train.fit`.
    updates_a_step: updates of the network in one step of the loop; periods count updates.
    keep_best: "evaluator/metric", by which the best weights are chosen on validation people; ""
      keeps the last weights.
    inherited: what an earlier training left and this one starts from: weights, moments, running
      statistics, a teacher, exactly as they stand in the checkpoint of that training or in a file.
      Weights drawn from a key do not belong here: another device may round them differently.
  """

  name: str
  step: Step
  stream: Stream
  params: Params
  key: Key
  num_steps: int
  evaluators: Mapping[str, Evaluator] = {}
  updates_a_step: int = 1
  keep_best: str = ""
  inherited: PyTree = ()


class Trained(NamedTuple):
  """What a job gave.

  Attributes:
    name: the job's.
    state: the state that is kept: the last one, or the best on validation people.
    fit: rows, times and the last state.
    num_updates: of the network.
  """

  name: str
  state: TrainState
  fit: train.Fit
  num_updates: int

  @property
  def params(self) -> Params:
    """The weights that are kept."""
    return self.state.params

  @property
  def num_steps(self) -> int:
    """Steps of the loop that were made."""
    return int(self.fit.state.step)

  @property
  def hours(self) -> float:
    """Hours of training, without compilation and evaluation."""
    return self.fit.timing.seconds_per_step * self.num_steps / 3600

  @property
  def seconds_an_update(self) -> float:
    """Seconds of one update of the network, without compilation and evaluation."""
    return self.fit.timing.seconds_per_step * self.num_steps / max(self.num_updates, 1)

  def curve(self, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of the log rows that hold `metric`."""
    rows = [row for row in self.fit.history if metric in row]
    return [row["step"] for row in rows], [row[metric] for row in rows]


def train_job(
  job: Job,
  directory: train.RunDirectory,
  *,
  log_every: int,
  eval_every: int | None = None,
  checkpoint_every: int | None = None,
  progress: bool = True,
) -> Trained:
  """Trains a job in a run directory, or goes on where it was.

  Args:
    job: what to train.
    directory: of the run; checkpoints, rows and writers are the directory's.
    log_every, eval_every, checkpoint_every: periods in updates of the network; see `train.fit`.
    progress: False prints nothing while training.
  """
  return train_jobs(
    [job],
    directory,
    log_every=log_every,
    eval_every=eval_every,
    checkpoint_every=checkpoint_every,
    progress=progress,
  )[0]


def train_jobs(
  jobs: Sequence[Job],
  directory: train.RunDirectory,
  *,
  log_every: int,
  eval_every: int | None = None,
  checkpoint_every: int | None = None,
  progress: bool = True,
  mode: Mode = "sequential",
) -> list[Trained]:
  """As `train_job`, for several jobs; those of one Step and length share one compiled program.

  Args:
    jobs: in any order; those that shall share a program have the same Step object.
    directory, log_every, eval_every, checkpoint_every, progress: as for `train_job`.
    mode: how jobs that share a program run, see `train.fit_many`.
  Returns:
    What each job gave, in the order of the jobs.
  Raises:
    InputError: a job was started in this directory from something else than its `inherited`.
  """
  _check_inherited(jobs, directory)
  groups: dict[Any, list[int]] = {}
  for place, job in enumerate(jobs):
    alike = (id(job.step), job.num_steps, job.updates_a_step, job.keep_best)
    groups.setdefault(alike, []).append(place)
  found: dict[int, Trained] = {}
  for places in groups.values():
    group = [jobs[place] for place in places]
    first = group[0]
    each = first.updates_a_step
    fits = train.fit_many(
      first.step,
      [job.stream for job in group],
      [job.params for job in group],
      [job.key for job in group],
      num_steps=first.num_steps,
      mode=mode,
      names=[job.name for job in group],
      evaluators=[job.evaluators for job in group],
      workdir=directory.path,
      writers=directory.writers,
      log_every=max(log_every // each, 1),
      eval_every=None if eval_every is None else max(eval_every // each, 1),
      checkpoint_every=None if checkpoint_every is None else max(checkpoint_every // each, 1),
      keep_best=first.keep_best or None,
      progress=progress,
      allow_change=directory.is_longer,  # a schedule knows the number of steps
    )
    for place, job, one in zip(places, group, fits, strict=True):
      kept = one.state if one.best is None else one.best.state
      found[place] = Trained(job.name, kept, one, job.num_steps * job.updates_a_step)
  return [found[place] for place in range(len(jobs))]


def flops(step: Step, params: Params, batch: PyTree, *, updates_a_step: int = 1) -> float:
  """Operations of one update of the network, as XLA counts them before it optimises.

  The count depends on the method alone and not on the device; a Step in chunks is counted for one
  chunk, swept as often as it sweeps. NaN where XLA does not say.

  Args:
    step: the method.
    params: initial parameters; their shapes suffice (`jax.ShapeDtypeStruct`).
    batch: one batch, likewise.
    updates_a_step: updates of the network in one call of `step.update`.
  """
  return programs.flops(programs.lowered(step, params, batch)) / updates_a_step


def _check_inherited(jobs: Sequence[Job], directory: train.RunDirectory) -> None:
  """Writes down what jobs inherit, and holds those of an interrupted run to it."""
  path = directory.path / _INHERITED
  known = files.read_json(path) if path.exists() else {}
  own = {
    job.name: programs.of_arrays(job.inherited) for job in jobs if jax.tree.leaves(job.inherited)
  }
  for name, digest in own.items():
    check.require(
      known.get(name, digest) == digest,
      f"the training {name} to start from the weights that it started from before",
      "others: the training that they come from was made longer, or anew",
      "pass a new directory with --workdir",
    )
  if own.keys() - known.keys():
    files.write_json(path, known | own)
