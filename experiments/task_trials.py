"""How a study of several tasks runs: its trainings, the scores of its people, its page.

Not a study: the frame that `mt_cool` and `ctan` share. A study brings a `Problem`, its table of
arms, its questions, and what else it measures.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from experiments.task_sets import Settings, TaskSet, cost_of
from medjax import cli, data, metrics, study, train, tree
from medjax.train import Report
from medjax.types import IGNORE, Array, Key, Params, PyTree, Step

# --- scores


def scored(
  logits: Sequence[np.ndarray],
  cases: TaskSet,
  rows: Sequence[int],
  about: Mapping[str, Any],
  more: Mapping[str, np.ndarray] | None = None,
) -> list[dict[str, Any]]:
  """A row a person: "dice/TASK" of masks, and "balanced/TASK" and "accuracy/TASK" of classes.

  Args:
    logits: of each task, [n, ...].
    cases: the whole set.
    rows: which cases these are.
    about: goes in front of each row.
    more: further figures of each case, [n], whose means over a person's cases are added.
  """
  people = [cases.subjects[i] for i in rows]
  found: dict[str, dict[str, Any]] = {
    name: {**about, "case": name, "subject": name, "domain": ""} for name in sorted(set(people))
  }
  for (task, (kind, number)), own in zip(cases.tasks.items(), logits, strict=True):
    target = cases.targets[task][np.asarray(rows)]
    if kind == "mask":
      _add(found, f"dice/{task}", people, overlaps(own.argmax(-1), target, number))
      continue
    known = target != IGNORE
    for name in found:
      found[name] |= {f"balanced/{task}": float("nan"), f"accuracy/{task}": float("nan")}
    named = [person for person, is_known in zip(people, known, strict=True) if is_known]
    for row in study.classes(
      own[known], target[known], about={}, subjects=named, wanted=("balanced", "accuracy")
    ):
      figures = {f"{m}/{task}": row[f"{m}/all"] for m in ("balanced", "accuracy")}
      found[row["subject"]] |= figures
  for name, values in (more or {}).items():
    _add(found, name, people, values)
  return list(found.values())


def overlaps(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
  """[n] mean Dice of the structures of label maps [n, *space]; of two empty maps 1."""
  each = _dice(num_classes)(prediction.astype(np.int32), target)
  each = np.asarray(each, np.float64).reshape(len(target), -1)
  is_there = ~np.isnan(each)
  total = np.where(is_there, each, 0.0).sum(1)
  return np.where(is_there.any(1), total / np.maximum(is_there.sum(1), 1), 1.0)


@functools.cache
def _dice(num_classes: int) -> Callable[..., Array]:
  return jax.jit(jax.vmap(functools.partial(metrics.dice, num_classes=num_classes)))


def _add(
  found: dict[str, dict[str, Any]], name: str, people: Sequence[str], values: np.ndarray
) -> None:
  owners: dict[str, list[float]] = {}
  for person, value in zip(people, values, strict=True):
    owners.setdefault(person, []).append(float(value))
  for person, row in found.items():
    row[name] = float(np.mean(owners[person]))


# --- trainings


@runtime_checkable
class Problem(Protocol):
  """What a study brings: first weights of an arm, and logits of every task for one image."""

  def start(self, arm: str, key: Key) -> Params: ...
  def logits(self, params: Params, image: Array) -> tuple[Array, ...]: ...


def losses_of(
  problem: Problem, cases: TaskSet
) -> dict[str, Callable[[Params, PyTree, Key], Array]]:
  """Task -> its loss of one example."""

  def loss(number: int) -> Callable[[Params, PyTree, Key], Array]:
    name, cost = tuple(cases.tasks)[number], cost_of(cases.heads[number][0])

    def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
      del key
      return cost(problem.logits(params, example["image"])[number], example[name])

    return loss_fn

  return {name: loss(number) for number, name in enumerate(cases.tasks)}


Measure = Callable[[Params, dict[str, np.ndarray], Key], Mapping[str, np.ndarray]]
"""`measure(params, test cases, key)` -> further figures of each case, see `scored`."""


class Trials(NamedTuple):
  """What came of all trainings.

  Attributes:
    trained: arm -> its trainings, seed by seed.
    rows: rows of test people.
    flops: arm -> operations of one update, of an arm in several steps of all of them.
  """

  trained: dict[str, list[study.Trained]]
  rows: list[dict[str, Any]]
  flops: dict[str, float]


def trials(
  config: Settings,
  cases: TaskSet,
  parts: Mapping[str, Sequence[int]],
  problem: Problem,
  steps: Mapping[str, Step],
  directory: train.RunDirectory,
  seeds: Sequence[int],
  *,
  repeats: Mapping[str, int] | None = None,
  measure: Measure | None = None,
) -> Trials:
  """Trains every arm under every seed, resumable job by job, and scores the test people.

  Arms of one seed see the same batches.

  Args:
    config: of the study.
    cases, parts: the set, and which of its cases are "train" and "test".
    problem, steps: of the study; a Step an arm.
    directory, seeds: of the run.
    repeats: arm -> steps that make one update; 1 for an arm that is not named.
    measure: further figures.
  """
  learned, tested = (cases.part(parts[part]) for part in ("train", "test"))
  heads = [
    study.ChunkedPredictor(functools.partial(_head, problem, k), chunk=64)
    for k in range(len(cases.tasks))
  ]
  each = {arm: (repeats or {}).get(arm, 1) for arm in steps}
  trained: dict[str, list[study.Trained]] = {arm: [] for arm in steps}
  rows: list[dict[str, Any]] = []

  def score(params: Params, arm: str, seed: int) -> study.Scored:
    logits = [head(params, tested["image"]) for head in heads]
    own = None if measure is None else measure(params, tested, jax.random.key(seed))
    about = {"arm": arm, "seed": seed, "role": "test"}
    return study.Scored(scored(logits, cases, parts["test"], about, own))

  for seed in seeds:
    key = jax.random.key(seed)
    stream = data.batches(learned, config.batch_size, key)
    for arm, step in steps.items():
      name = f"{arm}-{seed}"
      start = problem.start(arm, key)
      job = study.Job(name, step, stream, start, key, each[arm] * config.num_steps)
      one = study.train_job(job, directory, log_every=config.log_every)
      trained[arm].append(one)
      make = functools.partial(score, one.params, arm, seed)
      rows += study.kept(directory, name, one.params, make).rows
  batch = data.batches(learned, config.batch_size, 0)(0)
  flops = {
    arm: study.flops(step, trained[arm][0].params, batch) * each[arm] for arm, step in steps.items()
  }
  return Trials(trained, rows, flops)


def _head(problem: Problem, number: int, params: Params, image: Array) -> Array:
  return problem.logits(params, image)[number]


# --- the run and its page


class Frame(NamedTuple):
  """What tells one study of two tasks from another.

  Attributes:
    title: of the page, before the name of the set.
    arms: the table of arms; `make(problem)` gives a Step.
    questions: of all sets; those of a metric that a set has not are left out.
    problem: `problem(config, cases)`.
    labels: front of a metric's name -> what its curves show of a task, {"loss": "loss of"}.
    repeats: arm -> steps that make one update.
    measured: metrics of `measure`.
    measure: `measure(problem)` -> further figures; None: nothing else is measured.
    section: `section(report, found)` adds to the page, and to what results.json holds.
  """

  title: str
  arms: Mapping[str, study.Arm]
  questions: Sequence[study.Question]
  problem: Callable[..., Problem]
  labels: Mapping[str, str]
  repeats: Mapping[str, int] = {}
  measured: tuple[str, ...] = ()
  measure: Callable[..., Measure] | None = None
  section: Callable[[Report, dict[str, Any]], None] | None = None


def run(
  frame: Frame, config: Settings, options: cli.RunOptions, cases: TaskSet, arms: Sequence[str]
) -> None:
  """The whole study: plans, trains, scores, asks, and writes its page.

  Args:
    frame: the study.
    config, options: of the run.
    cases: the set.
    arms: that are compared.
  """
  shares = {"train": config.train_fraction, "test": 1 - config.train_fraction}
  parts = study.parted(cases.subjects, shares, options.seed)
  people = study.people_by_part(cases.subjects, parts)
  kinds = {kind for kind, _ in cases.heads}
  measured = [m for kind, m in (("mask", "dice"), ("class", "balanced")) if kind in kinds]
  measured += frame.measured
  asked = [question for question in frame.questions if question.metric in measured]
  design = study.design(config, options.seed, frame.questions, arms, people, asked=asked)
  with options.directory(config, cases.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    problem = frame.problem(config, cases)
    done = trials(
      config,
      cases,
      parts,
      problem,
      {arm: frame.arms[arm].make(problem) for arm in arms},
      directory,
      design.seeds,
      repeats=frame.repeats,
      measure=None if frame.measure is None else frame.measure(problem),
    )
    found = design.results(
      done.rows,
      measured,
      costs=done.flops,
      flops=done.flops,
      is_simulated=not options.data,
      num_parameters={arm: tree.size(own[0].params) for arm, own in done.trained.items()},
    )
    report = page(frame, config, cases, found, done.trained)
    study.finish(directory, found, report, trained=done.trained, rows=done.rows)


def page(
  frame: Frame,
  config: Settings,
  cases: TaskSet,
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
) -> Report:
  """Answers, scores, the study's own section, verdicts, sizes, conflicts, curves and costs."""
  report = study.page.start(f"{frame.title}: {cases.title}", found)
  study.page.scores(report, found, frame.arms, text=config.known)
  if frame.section is not None:
    frame.section(report, found)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  sizes = [[arm, number] for arm, number in found["num_parameters"].items()]
  report.table(["arm", "parameters"], sizes, "All networks of an arm together.")
  study.page.conflicts(report, trained)
  labels = {
    f"{m}/{name}": f"{text} {name}" for m, text in frame.labels.items() for name in cases.tasks
  }
  study.page.trainings(report, found, trained, labels)
  return report
