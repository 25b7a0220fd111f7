"""Scores of held-out cases on the grid of their files: tables, intervals, verdicts, calibration."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.segmentation.training import Fold, Setting, Trained
from medjax import data, inference, metrics, predict, study, train
from medjax.data import formats
from medjax.metrics import calibration, case_table
from medjax.study import stack_scores
from medjax.train import progress
from medjax.types import IGNORE

HELD_OUT = "held_out"  # folder of a run: label maps of the held-out cases, by network
_VOXELS_A_CASE = 20_000  # that the temperature is fitted on
_VOXELS_A_PROGRAM = 2**17
FIGURES = ("classwise_ece", "top_label_ece", "brier", "nll")  # of calibration


def score(
  setting: Setting,
  fold: Fold,
  trained: Trained,
  arm: str,
  seed: int,
  directory: train.RunDirectory,
) -> study.Scored:
  """Predicts and compares the held-out cases; their label maps stay in the run directory.

  Beside the rows stand the temperature, fitted on the fold's validation cases (1 without any), and
  what `calibration_of` reads.
  """
  preprocess, source = setting.preprocess, setting.source
  ensemble = inference.Ensemble([trained.member], **averaged_over(setting, arm))
  name = trained.job.name
  print(f"{name}: predicting held-out cases, first those that set the temperature", flush=True)
  temperature = _temperature(setting, fold, ensemble)
  truth = data.NnUNetFolder(source.root, normalise="none", reorient=False)
  names, values = source.class_names[1:], np.asarray(preprocess.label_values)
  rows, pictures, seconds = [], [], 0.0
  sums: dict[str, list[calibration.CalibrationSums]] = {"before": [], "after": []}
  places = {source.names[index]: index for index in fold.test}
  for case in progress.counted(list(places), f"{name}: held-out cases"):
    index = places[case]
    label = truth[index].label
    assert label is not None
    volume = data.read_case(source.case(index))
    began = time.perf_counter()
    probability = preprocess.restore(ensemble.of_volume(volume, case), volume)
    seconds += time.perf_counter() - began
    prediction = probability.argmax(-1)
    path = directory.path / HELD_OUT / name / f"{case}{preprocess.file_ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    formats.format_of(path).write(path, values[prediction], volume)
    scores = stack_scores.dice(prediction, label, len(source.class_names))
    row = {"arm": arm, "case": case, "subject": source.subjects[index], "domain": ""}
    row |= {"fold": fold.number, "seed": seed}
    rows.append(row | {f"dice/{n}": float(s) for n, s in zip(names, scores, strict=True)})
    sums["before"].append(_sums(probability, label))
    sums["after"].append(_sums(_cooled(probability, temperature), label))
    pictures.append(picture(case, volume.array, label, prediction, study.mean(rows[-1], "dice")))
  more = {
    f"{when} {i}": np.asarray(leaf)
    for when, own in sums.items()
    for i, leaf in enumerate(jax.tree.leaves(calibration.merge(own)))
  }
  more["temperature"] = np.asarray(temperature)
  return study.Scored(rows, pictures, seconds / len(fold.test), more)


def calibration_of(parts: Sequence[study.Scored], when: str) -> calibration.CalibrationSums:
  """Sums over the cases of several networks; "before" or "after" the temperature."""
  own: list[list[Any]] = [[part.more[f"{when} {i}"] for i in range(10)] for part in parts]
  bins = calibration.Bins
  return calibration.merge(
    calibration.CalibrationSums(bins(*leaves[:3]), bins(*leaves[3:6]), *leaves[6:])
    for leaves in own
  )


def averaged_over(setting: Setting, arm: str) -> dict[str, Any]:
  """Windows and mirrorings; the arm that never saw a mirrored image predicts once."""
  config, patch = setting.config, setting.preprocess.patch
  assert patch is not None
  is_mirrored = config.mirror and arm != "plain"
  moves = inference.mirrorings(len(patch)) if is_mirrored else (inference.IDENTITY,)
  return {"overlap": config.overlap, "symmetries": moves}


def results(
  setting: Setting, scored: Mapping[str, Sequence[study.Scored]], flops: dict[str, float]
) -> dict[str, Any]:
  """results.json: fixed keys, no times.

  Args:
    setting: of the run.
    scored: every network of an arm.
    flops: of an update of each arm; where they differ by 5 % or less, equal updates are equal
      compute, and the comparison has both columns.
  """
  rows = [row for parts in scored.values() for part in parts for row in part.rows]
  tables = study.tables(rows, "dice")
  names = setting.source.class_names[1:]
  by_arm: dict[str, Any] = {}
  for arm, parts in scored.items():
    own = [row for row in rows if row["arm"] == arm]
    figures = {entry["metric"]: entry for entry in case_table.summary(own)}
    before, after = (
      metrics.calibration_summary(calibration_of(parts, when)) for when in ("before", "after")
    )
    by_arm[arm] = {
      "flops_an_update": flops[arm],
      "dice": study.interval(tables[arm]),
      "dice_by_class": {n: figures[f"dice/{n}"]["mean"] for n in names},
      "dice_by_fold": [
        float(np.nanmean([[row[f"dice/{n}"] for n in names] for row in own if row["fold"] == f]))
        for f in (fold.number for fold in setting.folds)
      ],
      "missed": sum(figures[f"dice/{n}"]["missed"] for n in names),
      "calibration": {name: float(getattr(before, name)) for name in FIGURES},
      "calibration_with_temperature": {name: float(getattr(after, name)) for name in FIGURES},
      "temperatures": [float(part.more["temperature"]) for part in parts],
    }
  reference = "plain" if "plain" in scored else next(iter(scored))
  comparison = study.against(reference, {"": tables}, margin=setting.config.margin, costs=flops)
  return {
    "test_cases": len({row["case"] for row in rows}),
    "test_subjects": len({row["subject"] for row in rows}),
    "folds": [fold.number for fold in setting.folds],
    "arms": by_arm,
    "comparison": comparison,
  }


def picture(
  name: str,
  image: np.ndarray,
  truth: np.ndarray | None,
  prediction: np.ndarray,
  value: float = float("nan"),
) -> study.ShownPlane:
  """The slice across the last axis with most foreground; pictures as they are."""
  guide = prediction if truth is None else truth
  image = image[..., 0]
  if guide.ndim == 3:
    best = int((guide > 0).sum((0, 1)).argmax())
    image, prediction = image[..., best], prediction[..., best]
    truth = None if truth is None else truth[..., best]
    turn = np.rot90
  else:
    turn = np.asarray
  shown = None if truth is None else turn(truth)
  return study.ShownPlane(name, "", turn(image), shown, turn(prediction), value)


def _temperature(setting: Setting, fold: Fold, ensemble: inference.Ensemble) -> float:
  """Fitted on validation cases, on the network's grid: never on a held-out one."""
  logits, labels = [], []
  for index in fold.validation:
    case = setting.source[index]
    assert case.image is not None and case.label is not None
    values = np.log(np.maximum(ensemble(case.image), np.finfo(np.float32).tiny))
    stride = max(case.label.size // _VOXELS_A_CASE, 1)
    logits.append(values.reshape(-1, values.shape[-1])[::stride])
    labels.append(case.label.ravel()[::stride])
  if not logits:
    return 1.0
  return metrics.fit_temperature(np.concatenate(logits), np.concatenate(labels)).temperature


def _cooled(probability: np.ndarray, temperature: float) -> np.ndarray:
  power = np.maximum(probability, np.finfo(np.float32).tiny) ** (1 / temperature)
  return power / power.sum(-1, keepdims=True)


def _sums(probability: np.ndarray, label: np.ndarray) -> calibration.CalibrationSums:
  """Filled up with ignored voxels to one of few sizes, so that few programs are compiled."""
  flat = probability.reshape(-1, probability.shape[-1]).astype(np.float32)
  spare = -len(flat) % _VOXELS_A_PROGRAM
  flat = np.pad(flat, ((0, spare), (0, 0)), constant_values=1 / flat.shape[-1])
  known = np.pad(label.ravel().astype(np.int32), (0, spare), constant_values=IGNORE)
  return _calibration_sums(jnp.asarray(flat), jnp.asarray(known))


_calibration_sums = jax.jit(metrics.calibration_sums)


def has_unlabelled(source: data.NnUNetFolder) -> bool:
  folder = source.root / "imagesTs"
  ending = source.spec.file_ending
  return folder.is_dir() and any(path.name.endswith(ending) for path in folder.iterdir())


def predict_unlabelled(
  setting: Setting, arm: str, members: Sequence[inference.Member], output: pathlib.Path
) -> list[study.ShownPlane]:
  """Label maps of imagesTs by all networks of an arm, in `output`; [] where there are none."""
  folder = setting.source.root / "imagesTs"
  if not has_unlabelled(setting.source):
    return []
  predict.predict(members, folder, output, **averaged_over(setting, arm))
  pictures = []
  values = np.asarray(setting.preprocess.label_values)
  for case in data.find_cases(folder, setting.preprocess):
    volume = data.read_case(case)
    written = data.read_case(data.Case(case.name, (output / f"{case.name}{case.ending}",)))
    label = np.searchsorted(values, written.array[..., 0].astype(int))
    pictures.append(picture(case.name, volume.array, None, label))
  return pictures
