"""Scores of 2D networks on volumes and pictures, each measured on the case's own grid."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax.study.scores import Scored, ShownPlane, masks
from medjax.study.stacks import Grid, Stack
from medjax.study.tables import mean
from medjax.types import Evaluator, Json, TrainState


def score(
  label_of: Callable[[np.ndarray], np.ndarray],
  cases: Sequence[Stack],
  grid: Grid,
  *,
  about: Callable[[Stack], Mapping[str, Json]],
  class_names: Sequence[str],
  cleaned: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Scored:
  """Predicts and measures every case; one picture a site.

  Args:
    label_of: images [slice, height, width, channel] -> class ids [slice, height, width].
    cases: of one role or several.
    grid: of the network.
    about: `about(case)` goes in front of its row.
    class_names: background first.
    cleaned: what is done to the class ids on the case's grid, such as dropping small components.
  Returns:
    Rows, pictures, and the median seconds of a case, the first, which compiles, left out.
  """
  predictions, seconds = [], []
  for case in cases:
    began = time.perf_counter()
    found = grid.restored(label_of(case.image), case)
    predictions.append(found if cleaned is None else cleaned(found))
    seconds.append(time.perf_counter() - began)
  rows = masks(predictions, cases, about=about, class_names=class_names)
  pictures: dict[str, ShownPlane] = {}
  for case, prediction, row in zip(cases, predictions, rows, strict=True):
    if case.site not in pictures:
      pictures[case.site] = picture(case, prediction, grid, mean(row, "dice"))
  return Scored(rows, list(pictures.values()), float(np.median(seconds[1:] or seconds)))


def picture(case: Stack, prediction: np.ndarray, grid: Grid, value: float) -> ShownPlane:
  """The slice with most foreground, on the case's grid."""
  truth, best = case.truth, 0
  if truth.ndim == 3:
    best = int((truth > 0).sum((0, 1)).argmax())
    truth, prediction = truth[..., best], prediction[..., best]
  image = case.image[best]
  image = image if image.shape[-1] == 3 else image[..., :1]
  shown = np.stack([grid.restore(channel, truth.shape) for channel in np.moveaxis(image, 2, 0)], -1)
  shown = shown if shown.shape[-1] == 3 else shown[..., 0]
  return ShownPlane(case.name, case.site, shown, truth, prediction, value)


def dice(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
  """[class] Dice of the foreground classes where the truth is known; NaN for those in neither map.

  It is computed in NumPy: cases differ in shape, and jit would compile each.
  """
  known = truth >= 0
  pairs = np.bincount(prediction[known] * num_classes + truth[known], minlength=num_classes**2)
  pairs = pairs.reshape(num_classes, num_classes)
  both, total = np.diag(pairs), pairs.sum(0) + pairs.sum(1)
  with np.errstate(invalid="ignore"):
    return (2 * both / total)[1:]


def validation(
  label_of: Callable[[TrainState, np.ndarray], np.ndarray],
  cases: Sequence[Any],
  num_classes: int,
) -> dict[str, Evaluator]:
  """{"validation": an evaluator of the mean foreground Dice}, {} without cases.

  Args:
    label_of: `label_of(state, image)` -> class ids on the grid of `case.label`.
    cases: with `image` and `label` on one grid: stacks, or examples of a source.
    num_classes: background included.
  """
  if not len(cases):
    return {}

  def evaluate(state: TrainState) -> dict[str, float]:
    found = [dice(label_of(state, case.image), case.label, num_classes) for case in cases]
    return {"dice": float(np.nanmean(found))}

  return {"validation": evaluate}
