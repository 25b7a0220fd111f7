"""Accuracy and AUROC of the arms, picture by picture, so that verdicts can be paired."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.private_alignment.pictures import Pictures
from experiments.private_alignment.training import Arm, Config, Table, Trained
from medjax import metrics
from medjax.metrics.ranking import auroc

REFERENCE: Arm = "dp-sgd"
_area = jax.jit(auroc)


def correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """[n] of 0 and 1."""
  return (logits.argmax(-1) == labels).astype(np.float64)


def area(logits: np.ndarray, labels: np.ndarray) -> float:
  """AUROC of `_ranks`."""
  return float(_area(_ranks(logits), labels))


def area_parts(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """[n], what each picture adds to the AUROC; their mean is `area`."""
  return metrics.auroc_parts(_ranks(logits), labels)


def _ranks(logits: np.ndarray) -> np.ndarray:
  """Two classes are ranked by the difference of their logits, several each by its probability."""
  if logits.shape[1] == 2:
    return logits[:, 1] - logits[:, 0]
  return np.asarray(jax.nn.softmax(logits))


def best(trials: Sequence[Trained], pictures: Pictures) -> Trained:
  """The trial of the highest validation AUROC, the lowest rate on a tie."""
  labels = pictures.parts["validation"].label
  return max(trials, key=lambda one: (area(one.logits["validation"], labels), -one.rate))


def results(
  config: Config,
  pictures: Pictures,
  trained: Mapping[Table, Mapping[Arm, Sequence[Trained]]],
  trials: Mapping[Table, Mapping[Arm, Sequence[Trained]]],
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
  trained: Mapping[Arm, Sequence[Trained]],
  trials: Mapping[Arm, Sequence[Trained]],
) -> dict[str, Any]:
  labels, checked = (pictures.parts[part].label for part in ("test", "validation"))
  scores: dict[str, dict[str, np.ndarray]] = {
    "accuracy": {
      str(arm): np.stack([correct(one.logits["test"], labels) for one in runs])
      for arm, runs in trained.items()
    },
    "auroc": {
      str(arm): np.stack([area_parts(one.logits["test"], labels) for one in runs])
      for arm, runs in trained.items()
    },
  }
  arms = {}
  for arm, runs in trained.items():
    cosines = [row["cosine"] for one in runs for row in one.fit.history if "cosine" in row]
    intervals = {metric: metrics.mean_interval(tables[arm]) for metric, tables in scores.items()}
    arms[arm] = {
      **{k: {"mean": v.mean, "low": v.low, "high": v.high} for k, v in intervals.items()},
      "accuracy_by_seed": scores["accuracy"][arm].mean(-1),
      "auroc_by_seed": [area(one.logits["test"], labels) for one in runs],
      "learning_rate": runs[0].rate,
      "noise_multipliers": runs[0].cost.noise_multipliers,
      "epsilon": runs[0].cost.epsilon,
      "epsilon_rdp": runs[0].cost.epsilon_rdp,
      "passes_over_a_sample": runs[0].sweeps,
      "cosine": float(np.mean(cosines)) if cosines else None,
      "trials": {
        f"{one.rate:g}": area(one.logits["validation"], checked) for one in trials.get(arm, ())
      },
    }
  rows: list[dict[str, Any]] = []
  if REFERENCE in trained and len(trained) > 1:
    rows = metrics.comparison_table(scores, reference=REFERENCE, margin=config.margin)
  return {"arms": arms, "comparison": rows}
