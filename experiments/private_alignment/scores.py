"""Accuracy and AUROC of the arms, picture by picture, so that verdicts can be paired."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.private_alignment.pictures import Pictures
from experiments.private_alignment.training import Config, Table, Trained
from medjax import metrics, study
from medjax.metrics.ranking import auroc
from medjax.study.scores import ranks

REFERENCE = "dp-sgd"
_area = jax.jit(auroc)


def correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """[n] of 0 and 1."""
  return (logits.argmax(-1) == labels).astype(np.float64)


def area(logits: np.ndarray, labels: np.ndarray) -> float:
  """AUROC of `ranks`."""
  return float(_area(ranks(logits), labels))


def area_parts(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """[n], what each picture adds to the AUROC; their mean is `area`."""
  return metrics.auroc_parts(ranks(logits), labels)


def best(trials: Sequence[Trained], pictures: Pictures) -> Trained:
  """The trial of the highest validation AUROC, the lowest rate on a tie."""
  labels = pictures.parts["validation"].label
  return max(trials, key=lambda one: (area(one.logits["validation"], labels), -one.rate))


def results(
  config: Config,
  pictures: Pictures,
  trained: Mapping[Table, Mapping[str, Sequence[Trained]]],
  trials: Mapping[Table, Mapping[str, Sequence[Trained]]],
) -> dict[str, Any]:
  """results.json: fixed keys, no times, no picture and no person of its own.

  Args:
    config, pictures: of the run.
    trained: the runs of every seed.
    trials: those that chose the learning rates; () where there was nothing to choose.
  """
  return {
    "data": {
      "title": pictures.title,
      "class_names": pictures.class_names,
      "pictures": {part: len(batch.weight) for part, batch in pictures.parts.items()},
      "people": {part: len(np.unique(batch.subject)) for part, batch in pictures.parts.items()},
      "left_out": pictures.removed,
    },
    "tables": {
      table: _table(config, pictures, arms, trials[table]) for table, arms in trained.items()
    },
  }


def _table(
  config: Config,
  pictures: Pictures,
  trained: Mapping[str, Sequence[Trained]],
  trials: Mapping[str, Sequence[Trained]],
) -> dict[str, Any]:
  labels, checked = (pictures.parts[part].label for part in ("test", "validation"))
  tables = {
    metric: {
      arm: np.stack([parts(one.logits["test"], labels) for one in runs])
      for arm, runs in trained.items()
    }
    for metric, parts in (("accuracy", correct), ("auroc", area_parts))
  }
  arms = {}
  for arm, runs in trained.items():
    cosines = [value for one in runs for value in one.job.curve("cosine")[1]]
    arms[arm] = {
      **{metric: study.interval(own[arm]) for metric, own in tables.items()},
      "accuracy_by_seed": tables["accuracy"][arm].mean(-1),
      "auroc_by_seed": [area(one.logits["test"], labels) for one in runs],
      "learning_rate": runs[0].rate,
      "noise_multipliers": runs[0].cost.noise_multipliers,
      "epsilon": runs[0].cost.epsilon,
      "epsilon_rdp": runs[0].cost.epsilon_rdp,
      "passes_over_a_sample": runs[0].sweeps,
      "flops_an_update": runs[0].flops,
      "cosine": float(np.mean(cosines)) if cosines else None,
      "trials": {
        f"{one.rate:g}": area(one.logits["validation"], checked) for one in trials.get(arm, ())
      },
    }
  # Samples of equal expected size: what an arm costs beside another is told by one chunk.
  costs = {arm: runs[0].flops for arm, runs in trained.items()}
  compared = study.against(REFERENCE, tables, margin=config.margin, costs=costs)
  return {"arms": arms, "comparison": compared}
