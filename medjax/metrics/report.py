"""All segmentation metrics of many cases and classes, each pair of surfaces measured once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.metrics import case_table, overlap, surface_distance, surface_overlap, surfaces
from medjax.types import IGNORE, Json, Number, Numbers

_VOXEL = ("hausdorff", "hd95_pooled", "hd95_max_directed", "assd", "surface_dice_voxel")
_SURFEL = ("hd95_surfel", "surface_dice_surfel")
_COUNTS = ("voxels_predicted", "voxels_true")
METRICS = ("dice", "jaccard", *_VOXEL, *_SURFEL)
"""In the order of the columns; distances in mm."""


class Worst(NamedTuple):
  """Where a structure of a case is farthest from the truth.

  Attributes:
    case, structure: names.
    class_id: class id of the structure.
    distance_mm: its Hausdorff distance, inf where it is in one map only.
    surface: "prediction" (the voxel is too much) or "target" (it was not reached).
    voxel: position in the image; in the middle of the surface where the distance is inf.
  """

  case: str
  structure: str
  class_id: int
  distance_mm: float
  surface: Literal["prediction", "target"]
  voxel: tuple[int, ...]


class SegmentationReport(NamedTuple):
  """Result of `segmentation_report`.

  Attributes:
    rows: a case each, for `case_table.write_cases`: "case" and "metric/structure" of all `METRICS`,
      then "voxels_predicted/structure" and "voxels_true/structure".
    summary: see `summarise`.
    worst: worst value of every case and structure that is in a map, in the order of the cases.
  """

  rows: list[dict[str, Json]]
  summary: list[dict[str, Json]]
  worst: list[Worst]


def segmentation_report(
  predictions: Iterable[Any],
  targets: Iterable[Any],
  *,
  num_classes: int,
  spacing: Numbers | Sequence[Numbers],
  names: Sequence[str] | None = None,
  class_names: Sequence[str] | None = None,
  tolerance_mm: float | int = 2.0,
  empty: str = "inf",
) -> SegmentationReport:
  """Measures every case and structure; the distances between two surfaces are taken once.

  >>> target = np.zeros((8, 8), int)
  >>> target[2:6, 2:6] = 1
  >>> report = segmentation_report(
  ...   [np.roll(target, 1, 0)], [target], num_classes=2, spacing=(1.0, 1.0)
  ... )
  >>> report.rows[0]["dice/class_1"], report.rows[0]["hausdorff/class_1"]
  (0.75, 1.0)

  Args:
    predictions, targets: integer label maps, one a case, on a common grid; they may come from
      generators, so that one case is held at a time.
    num_classes: K, background included; it is not measured.
    spacing: voxel size in mm for all cases, or one tuple a case.
    names: names of the cases; default: their numbers.
    class_names: names of class ids 0..K-1; default "class_1", ...
    tolerance_mm: tolerance of the surface Dice.
    empty: distance of a structure in one map only. With "inf" (or "nan") the means leave such
      cases out and count them; with "diagonal" the means hold them, as a comparison of methods on
      the same cases needs it.
  Raises:
    InputError: naming the case: numbers of cases that differ, shapes that differ, values that are
      no class.
  """
  check.one_of("empty", empty, surfaces.EMPTY)
  check.non_negative("tolerance_mm", tolerance_mm)
  structures = _structures(num_classes, class_names)
  rows, worst = [], []
  for case, prediction, target, voxel_mm in _cases(predictions, targets, spacing, names):
    prediction, target = np.asarray(prediction), np.asarray(target)
    _check_case(case, prediction, target, num_classes)
    surfaces.check_spacing(voxel_mm, target.ndim)
    missed = surfaces.of_missed(empty, target.shape, voxel_mm)
    tolerance = jnp.float32(tolerance_mm)
    row: dict[str, Json] = {}
    classes = range(1, num_classes)
    masks = surfaces.class_masks(prediction, target, classes)
    for structure, k, pair in zip(structures, classes, masks, strict=True):
      voxel = surfaces.crop(pair, voxel_mm, "voxel")
      surfel = surfaces.crop(pair, voxel_mm, "surfel")
      first, second, both = voxel.counts
      figures = [
        overlap.ratio(2 * both, first + second),
        overlap.ratio(both, first + second - both),
        *_voxel_figures(voxel.surfaces, missed, tolerance),
        *_surfel_figures(surfel.surfaces, missed, tolerance),
      ]
      columns = zip(METRICS, figures, strict=True)
      row |= {f"{metric}/{structure}": float(figure) for metric, figure in columns}
      row |= dict(zip([f"{name}/{structure}" for name in _COUNTS], voxel.counts[:2], strict=True))
      if first or second:
        worst.append(Worst(case, structure, k, *farthest(voxel)))
    order = [f"{name}/{s}" for name in (*METRICS, *_COUNTS) for s in structures]
    rows.append({"case": case} | {name: row[name] for name in order})
  check.require(rows, "at least one case", "none", "pass label maps")
  return SegmentationReport(rows, summarise(rows), worst)


def summarise(rows: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
  """Aggregates of every metric and structure, from rows of a report or of its CSV.

  Returns:
    Dicts with metric, structure, mean, std (n - 1) over the `used` finite figures, and what the
    other cases were: absent (structure in neither map), missed (in the truth alone), invented (in
    the prediction alone). Missed and invented cases are in `used` where they have a finite figure:
    overlaps of 0, distances by empty="diagonal".
  """
  found = []
  for entry in case_table.summary(rows):
    metric, _, structure = entry["metric"].partition("/")
    if metric in _COUNTS:
      continue
    predicted, true = (np.array([row[f"{name}/{structure}"] for row in rows]) for name in _COUNTS)
    counts = {
      "absent": int(((predicted == 0) & (true == 0)).sum()),
      "missed": int(((predicted == 0) & (true > 0)).sum()),
      "invented": int(((predicted > 0) & (true == 0)).sum()),
    }
    kept = {name: entry[name] for name in ("mean", "std", "used")}
    found.append({"metric": metric, "structure": structure} | kept | counts)
  return found


def farthest(
  cropped: surfaces.Cropped,
) -> tuple[float, Literal["prediction", "target"], tuple[int, ...]]:
  """Distance in mm, surface and voxel of the point that decides the Hausdorff distance."""
  sides = [np.where(s.weight > 0, np.asarray(s.distance), -1) for s in cropped.surfaces]
  side = int(sides[1].max() > sides[0].max())
  largest = float(sides[side].max())
  points = np.flatnonzero(sides[side] == largest)
  point = points[len(points) // 2] if math.isinf(largest) else points[0]
  return largest, ("prediction", "target")[side], cropped.position(side, int(point))


@jax.jit
def _voxel_figures(found: surfaces.Surfaces, missed: Number, tolerance: Number) -> list[jax.Array]:
  measures = (
    surface_distance.hausdorff_of,
    surface_distance.hd95_pooled_of,
    surface_distance.hd95_max_directed_of,
    surface_distance.assd_of,
  )
  return [
    *(measure(found, missed) for measure in measures),
    surface_overlap.surface_dice_of(found, tolerance),
  ]


@jax.jit
def _surfel_figures(found: surfaces.Surfaces, missed: Number, tolerance: Number) -> list[jax.Array]:
  return [
    surface_distance.hd95_surfel_of(found, missed),
    surface_overlap.surface_dice_of(found, tolerance),
  ]


def _structures(num_classes: int, class_names: Sequence[str] | None) -> list[str]:
  names = [f"class_{k}" for k in range(num_classes)] if class_names is None else list(class_names)
  check.require(
    len(names) == num_classes,
    f"{num_classes} class names, background first",
    f"{len(names)}: {', '.join(names)}",
    "name every class",
  )
  return names[1:]


def _cases(predictions, targets, spacing, names):
  """Name, prediction, target and spacing of each case."""
  shared = all(np.ndim(s) == 0 for s in spacing)
  end = object()
  first, second = iter(predictions), iter(targets)
  number = 0
  while True:
    prediction, target = next(first, end), next(second, end)
    if prediction is end and target is end:
      break
    check.require(
      prediction is not end and target is not end,
      "as many predictions as targets",
      f"only {number} {'predictions' if prediction is end else 'targets'}",
      "give one of each for every case",
    )
    for what, given in (("names", names), ("spacing", None if shared else spacing)):
      check.require(
        given is None or number < len(given),
        f"{what} for every case",
        f"{number}, and more cases",
        "give one a case",
      )
    name = str(number) if names is None else names[number]
    yield name, prediction, target, spacing if shared else spacing[number]
    number += 1


def _check_case(case: str, prediction: np.ndarray, target: np.ndarray, num_classes: int) -> None:
  check.same_shape(f"prediction of {case}", prediction.shape, "its target", target.shape)
  for what, labels, lowest in (("prediction", prediction, 0), ("target", target, IGNORE)):
    check.require(
      labels.dtype.kind in "iu" and labels.size,
      f"integer labels in the {what} of {case}",
      f"{labels.dtype}, shape {labels.shape}",
      "pass class ids",
    )
    check.require(
      lowest <= labels.min() and labels.max() < num_classes,
      f"class ids {lowest}..{num_classes - 1} in the {what} of {case}",
      f"{labels.min()}..{labels.max()}",
      "remap the labels or pass a larger num_classes",
    )
