"""Networks on test cases: Dice of masks, areas under the ROC curve of findings.

A network of findings is scored over all people tested at once: the row of a person holds what they
add to the area of each finding (`metrics.auroc_parts`), so that the mean over people is the area.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from experiments.site_transfer.chest import Films
from experiments.site_transfer.config import Config
from experiments.site_transfer.setting import Setting
from experiments.site_transfer.training import Trained
from medjax import metrics, study
from medjax.study import stack_scores
from medjax.study.stacks import Grid, Stack


class MaskScorer:
  """Dice and surface Dice of every case."""

  def __init__(self, config: Config, setting: Setting):
    self._config, self._setting, self._grid = config, setting, Grid(config.shape)

  def __call__(
    self, trained: Trained, stacks: Sequence[Stack], about: Mapping[str, Any]
  ) -> study.Scored:
    """Rows and pictures; `about` goes before the figures of each row."""
    rows, pictures = [], []
    names = self._setting.class_names
    for stack in stacks:
      prediction = self.predict(trained, stack)
      found = {
        "surface_dice": metrics.surface_dice(
          prediction,
          stack.truth,
          num_classes=len(names),
          spacing=stack.spacing,
          tolerance_mm=self._config.tolerance_mm,
          variant=self._config.surface,
        ),
        "dice": metrics.dice(prediction, stack.truth, num_classes=len(names)),
      }
      figures = {
        f"{metric}/{name}": float(value)
        for metric, values in found.items()
        for name, value in zip(names[1:], np.asarray(values), strict=True)
      }
      case = {"case": stack.name, "subject": f"{stack.site}/{stack.subject}", "domain": stack.site}
      rows.append({**about, **case, **figures})
      if len(pictures) < 2:
        score = study.mean(rows[-1], "dice")
        pictures.append(stack_scores.picture(stack, prediction, self._grid, score))
    return study.Scored(rows, pictures)

  def predict(self, trained: Trained, stack: Stack) -> np.ndarray:
    """Class ids on the case's grid."""
    planes = _logits(trained, stack.image).argmax(-1).astype(np.int32)
    return self._grid.restored(planes, stack)


class FindingScorer:
  """AUROC of every finding, as parts of people."""

  def __init__(self, setting: Setting):
    self._setting = setting

  def __call__(
    self, trained: Trained, tested: Sequence[Films], about: Mapping[str, Any]
  ) -> study.Scored:
    """A row a person, NaN for findings without an area; no pictures."""
    rows = []
    for films in tested:
      logits = _logits(trained, films.image)
      subjects = np.array(films.subjects)
      parts = np.full((len(films.people), logits.shape[1]), np.nan)
      for k in films.scored:
        parts[:, k] = metrics.auroc_parts(logits[:, k], films.label[:, k], subjects=subjects)
      for person, own in zip(films.people, parts, strict=True):
        named = zip(self._setting.class_names, own, strict=True)
        figures = {f"auroc/{name}": float(part) for name, part in named}
        case = {"case": person, "subject": person, "domain": films.site}
        rows.append({**about, **case, **figures})
    return study.Scored(rows)


Scorer: TypeAlias = MaskScorer | FindingScorer


def scorer_of(config: Config, setting: Setting) -> Scorer:
  return FindingScorer(setting) if setting.labels == "findings" else MaskScorer(config, setting)


def _logits(trained: Trained, images: np.ndarray) -> np.ndarray:
  """[n, ...] of many images; networks of one `apply` share a program."""
  return study.ChunkedPredictor(trained.apply)(trained.network, images)
