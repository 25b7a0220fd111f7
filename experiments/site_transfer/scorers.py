"""Networks on test cases: Dice of masks, areas under the ROC curve of findings.

A network of findings is scored over all people tested at once: the row of a person holds what they
add to the area of each finding (`metrics.auroc_parts`), so that the mean over people is the area.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from experiments.site_transfer.chest import Films
from experiments.site_transfer.config import Config
from experiments.site_transfer.setting import Setting
from experiments.site_transfer.training import Trained
from medjax import data, metrics
from medjax.study import ShownPlane
from medjax.study.stacks import Stack

_CHUNK = 16  # images a call


class Scored(NamedTuple):
  """Networks on test cases.

  Attributes:
    rows: of cases.csv.
    pictures: two target cases.
  """

  rows: list[dict[str, Any]]
  pictures: list[ShownPlane]


class Predictor:
  """Logits of many images; one program for all networks of one `apply`."""

  def __init__(self) -> None:
    self._programs: dict[Any, Callable[..., jax.Array]] = {}

  def __call__(self, trained: Trained, images: np.ndarray) -> np.ndarray:
    program = self._programs.setdefault(
      trained.apply, jax.jit(jax.vmap(trained.apply, (None, None, 0)))
    )
    spare = -len(images) % _CHUNK
    images = np.pad(images, [(0, spare), (0, 0), (0, 0), (0, 0)])
    parts = [
      program(trained.params, trained.model_state, images[i : i + _CHUNK])
      for i in range(0, len(images), _CHUNK)
    ]
    return np.concatenate([np.asarray(p) for p in parts])[: len(images) - spare]


class MaskScorer:
  """Dice and surface Dice of every case."""

  def __init__(self, config: Config, setting: Setting):
    self._config, self._setting, self._logits = config, setting, Predictor()

  def __call__(self, trained: Trained, stacks: Sequence[Stack], about: Mapping[str, Any]) -> Scored:
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
        pictures.append(_picture(stack, prediction, mean(rows[-1], "dice")))
    return Scored(rows, pictures)

  def predict(self, trained: Trained, stack: Stack) -> np.ndarray:
    """Class ids on the case's grid."""
    planes = self._logits(trained, stack.image).argmax(-1)
    space = stack.truth.shape
    grid = [data.fit_to_shape(plane.astype(np.int32), space[:2]) for plane in planes]
    return np.stack(grid, axis=-1).reshape(space)


class FindingScorer:
  """AUROC of every finding, as parts of people."""

  def __init__(self, setting: Setting):
    self._setting, self._logits = setting, Predictor()

  def __call__(self, trained: Trained, tested: Sequence[Films], about: Mapping[str, Any]) -> Scored:
    """A row a person, NaN for findings without an area; no pictures."""
    rows = []
    for films in tested:
      logits = self._logits(trained, films.image)
      subjects = np.array(films.subjects)
      parts = np.full((len(films.people), logits.shape[1]), np.nan)
      for k in films.scored:
        parts[:, k] = metrics.auroc_parts(logits[:, k], films.label[:, k], subjects=subjects)
      for person, own in zip(films.people, parts, strict=True):
        named = zip(self._setting.class_names, own, strict=True)
        figures = {f"auroc/{name}": float(part) for name, part in named}
        case = {"case": person, "subject": person, "domain": films.site}
        rows.append({**about, **case, **figures})
    return Scored(rows, [])


Scorer: TypeAlias = MaskScorer | FindingScorer


def scorer_of(config: Config, setting: Setting) -> Scorer:
  return FindingScorer(setting) if setting.labels == "findings" else MaskScorer(config, setting)


def mean(row: Mapping[str, Any], metric: str) -> float:
  """Over structures in truth or prediction; a case with none counts as right."""
  found = [v for k, v in row.items() if k.startswith(f"{metric}/") and np.isfinite(v)]
  return float(np.mean(found)) if found else 1.0


def _picture(stack: Stack, prediction: np.ndarray, dice: float) -> ShownPlane:
  """The slice with most foreground, on the case's grid."""
  truth, best = stack.truth, 0
  if truth.ndim == 3:
    best = int((truth > 0).sum((0, 1)).argmax())
    truth, prediction = truth[..., best], prediction[..., best]
  image = stack.image[best]
  image = image if image.shape[-1] == 3 else image[..., :1]
  shown = np.stack([data.fit_to_shape(c, truth.shape) for c in np.moveaxis(image, 2, 0)], -1)
  shown = shown if shown.shape[-1] == 3 else shown[..., 0]
  return ShownPlane(stack.name, stack.site, shown, truth, prediction, dice)
