"""Accuracy and AUROC of the arms, picture by picture, so that verdicts can be paired."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.private_alignment.training import Run, Table, Task
from medjax import metrics, study
from medjax.study.scores import ranks

REFERENCE = "dp-sgd"
_area = jax.jit(metrics.auroc)


def area(logits: np.ndarray, labels: np.ndarray) -> float:
  """AUROC of `ranks`."""
  return float(_area(ranks(logits), labels))


def best(trials: Sequence[Run], labels: np.ndarray) -> float:
  """The rate of the highest validation AUROC, the lowest rate on a tie."""
  return max(trials, key=lambda one: (area(one.logits["validation"], labels), -one.rate)).rate


def results(
  task: Task,
  trained: Mapping[Table, Mapping[str, Sequence[Run]]],
  trials: Mapping[Table, Mapping[str, Sequence[Run]]],
) -> dict[str, Any]:
  """results.json: fixed keys, no times, no picture and no person of its own.

  Args:
    task: of the run.
    trained: the runs of every seed.
    trials: those that chose the learning rates; none where there was nothing to choose.
  """
  pictures = task.pictures
  return {
    "data": {
      "title": pictures.title,
      "class_names": pictures.class_names,
      "pictures": {part: len(batch.weight) for part, batch in pictures.parts.items()},
      "people": {part: len(np.unique(batch.subject)) for part, batch in pictures.parts.items()},
      "left_out": pictures.removed,
    },
    "tables": {table: _table(task, arms, trials[table]) for table, arms in trained.items()},
  }


def _table(
  task: Task, trained: Mapping[str, Sequence[Run]], trials: Mapping[str, Sequence[Run]]
) -> dict[str, Any]:
  labels, checked = (task.pictures.parts[part].label for part in ("test", "validation"))
  rows = [
    row
    for arm, runs in trained.items()
    for seed, one in enumerate(runs)
    for row in study.classes(one.logits["test"], labels, about={"arm": arm, "seed": seed})
  ]
  tables = {metric: study.tables(rows, metric) for metric in ("accuracy", "auroc")}
  arms = {}
  for arm, runs in trained.items():
    first = runs[0]
    cosines = [value for one in runs for value in one.trained.curve("cosine")[1]]
    arms[arm] = {
      **{metric: study.interval(own[arm]) for metric, own in tables.items()},
      "accuracy_by_seed": tables["accuracy"][arm].mean(-1),
      "auroc_by_seed": [area(one.logits["test"], labels) for one in runs],
      "learning_rate": first.rate,
      "noise_multipliers": first.plan.multipliers,
      "epsilon": float(first.plan.epsilon("pld")),
      "epsilon_rdp": float(first.plan.epsilon("rdp")),
      "passes_over_a_sample": first.sweeps,
      "flops_an_update": first.flops,
      "cosine": float(np.mean(cosines)) if cosines else None,
      "trials": {
        f"{one.rate:g}": area(one.logits["validation"], checked) for one in trials.get(arm, ())
      },
    }
  # Samples of equal expected size: what an arm costs beside another is told by one chunk.
  costs = {arm: runs[0].flops for arm, runs in trained.items()}
  compared = study.against(REFERENCE, tables, margin=task.config.margin, costs=costs)
  return {"arms": arms, "comparison": compared}
