"""How good are predicted label maps: all metrics of a folder of them against the truth.

  python -m medjax.metrics PREDICTIONS TRUTH [--output FOLDER] [--tolerance_mm 2]

Files (.nii.gz, .nii, .png, .nrrd, .mha or .mhd) belong together by name. Voxel sizes come from
their headers, 1 for PNG; names of classes from the dataset.json beside TRUTH. Writes cases.csv (a
row a case), summary.json (means, cases used, structures missed) and report.html (with the voxels
that carry the worst distances), and prints the means.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax import cli, files
from medjax.check import existing_folder, non_negative, require
from medjax.data import formats
from medjax.data.formats import labels
from medjax.data.formats.dataset_json import read_dataset_json
from medjax.data.formats.volume import Volume, check_same_grid
from medjax.metrics import case_table, panel, report
from medjax.train import Report
from medjax.train.progress import counted
from medjax.types import Json

_SHOWN = ("dice", "hd95_pooled", "hausdorff", "assd", "surface_dice_voxel")


@dataclasses.dataclass(frozen=True)
class Config:
  predictions: cli.Positional[pathlib.Path]
  """Folder of predicted label maps."""
  truth: cli.Positional[pathlib.Path]
  """Folder of true label maps of the same names."""
  output: pathlib.Path | None = None
  """Folder for cases.csv, summary.json and report.html; PREDICTIONS/metrics if None."""
  dataset: pathlib.Path | None = None
  """Folder with the dataset.json that names the labels; TRUTH or the folder above it if None."""
  tolerance_mm: float = 2.0
  """Of the surface Dice, in mm."""
  empty: Literal["inf", "diagonal"] = "inf"
  """Distance where a structure is in one map only; "diagonal" puts such cases into the means."""
  partial: bool = False
  """Score the predicted cases where others of TRUTH have no prediction."""
  pictures: int = 8
  """Worst structures that report.html shows."""


class _Labels(NamedTuple):
  """Names and file values of the classes, background first."""

  names: tuple[str, ...]
  values: tuple[int, ...]
  ignore: int | None


class _Case(NamedTuple):
  """Class ids of one case on a common grid."""

  prediction: np.ndarray
  target: np.ndarray
  spacing: tuple[float, ...]


def run(config: Config) -> None:
  non_negative("tolerance_mm", config.tolerance_mm)
  predicted, true = _files(config.predictions), _files(config.truth)
  names = [name for name in true if name in predicted]
  without = [name for name in true if name not in predicted]
  extra = [name for name in predicted if name not in true]
  require(
    names and (config.partial or not without),
    f"a prediction in {config.predictions} for each of the {len(true)} files of {config.truth}",
    f"none for {_listed(without)}",
    "predict them too" + (", or pass --partial" if names else ""),
  )
  table = _labels(config, [true[name] for name in names], [predicted[name] for name in names])
  settings: dict[str, Json] = {"tolerance_mm": config.tolerance_mm, "empty": config.empty}
  rows, worst = [], []
  for name in counted(names, "measuring"):
    case = _read(predicted[name], true[name], table)
    found = report.segmentation_report(
      [case.prediction],
      [case.target],
      num_classes=len(table.names),
      spacing=case.spacing,
      names=[name],
      class_names=table.names,
      **settings,
    )
    rows += found.rows
    worst += found.worst
  worst.sort(key=lambda place: -place.distance_mm)
  summary = report.summarise(rows)
  page = _page(config, summary, len(rows))
  shown = worst[: config.pictures]
  pictures = list(_pictures(shown, predicted, true, table))
  if pictures:
    page.section("Worst voxels").images(
      pictures, [_caption(w) for w in shown], caption=panel.LEGEND
    )
  output = config.output or config.predictions / "metrics"
  output.mkdir(parents=True, exist_ok=True)
  case_table.write_cases(output / "cases.csv", rows)
  content = {"predictions": config.predictions, "truth": config.truth, **settings}
  content |= {"cases": len(rows), "without_prediction": without, "without_truth": extra}
  content |= {"summary": summary, "worst": [w._asdict() for w in worst]}
  files.write_json(output / "summary.json", content)
  page.write(output / "report.html")
  print("\n".join(_lines(summary)))
  for what, others in (("prediction", without), ("truth", extra)):
    if others:
      print(f"not measured, no {what}: {_listed(others)}")
  print(f"{len(rows)} cases in {output / 'cases.csv'}; see {output / 'report.html'}")


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Case name -> label map, sorted."""
  existing_folder(folder)
  found: dict[str, pathlib.Path] = {}
  for path in sorted(folder.iterdir()):
    ending = formats.ending_of(path)
    if ending is None or path.is_dir() or path.name.startswith("."):
      continue
    name = path.name[: -len(ending)]
    require(
      name not in found, f"one label map {name}", f"{found.get(name)} and {path}", "remove one"
    )
    found[name] = path
  require(found, f"label maps ({', '.join(formats.FORMATS)}) in {folder}", "none", "check the path")
  return found


def _labels(
  config: Config, true: Sequence[pathlib.Path], predicted: Sequence[pathlib.Path]
) -> _Labels:
  """From dataset.json, or from the values in the files."""
  folders = (config.truth, config.truth.parent) if config.dataset is None else (config.dataset,)
  for folder in folders:
    if config.dataset is not None or (folder / "dataset.json").is_file():
      spec = read_dataset_json(folder)
      return _Labels(spec.class_names, spec.label_values, spec.ignore_value)
  held: list[set[int]] = [set(), set()]
  for own, paths in zip(held, (true, predicted), strict=True):
    for path in paths:
      own.update(labels.distinct(_volume(path).array).tolist())
  structures, guesses = (sorted(own - {0}) for own in held)
  require(
    not structures or not guesses or set(structures) & set(guesses),
    f"label values of {config.truth} ({_listed(structures)}) in {config.predictions}",
    f"{_listed(guesses)}",
    "give both the same values, for example 1 where the other has 255, or pass --dataset FOLDER",
  )
  values = {0, *structures, *guesses}
  require(
    min(values) >= 0 and len(values) > 1,
    "label values of 0 or more, one of them not 0",
    f"{_listed(sorted(values))}",
    "pass --dataset FOLDER with a dataset.json that names them",
  )
  ordered = tuple(sorted(values))
  return _Labels(tuple(f"label_{value}" for value in ordered), ordered, None)


def _volume(path: pathlib.Path) -> Volume:
  volume = formats.format_of(path).read_labels(path)
  volume = formats.without_channel_axis(volume, str(path))
  return volume._replace(array=labels.whole_numbers(volume.array, str(path)))


def _read(predicted: pathlib.Path, true: pathlib.Path, table: _Labels) -> _Case:
  """A pair on one grid; axes of one voxel, as 2D images in NIfTI have, are dropped."""
  prediction, target = _volume(predicted), _volume(true)
  check_same_grid(str(predicted), prediction, str(true), target)
  maps = [
    labels.class_ids(prediction.array, table.values, str(predicted)),
    labels.class_ids(target.array, table.values, str(true), ignore=table.ignore),
  ]
  kept = [axis for axis, n in enumerate(target.array.shape) if n > 1 or len(target.spacing) < 3]
  shape = [target.array.shape[axis] for axis in kept]
  spacing = tuple(target.spacing[axis] for axis in kept)
  return _Case(maps[0].reshape(shape), maps[1].reshape(shape), spacing)


def _page(config: Config, summary: Sequence[dict[str, Json]], cases: int) -> Report:
  page = Report(
    "Segmentation metrics",
    f"{cases} cases of {config.predictions} against {config.truth}; distances in mm, surface Dice"
    f" at {config.tolerance_mm:g} mm.",
  )
  columns = ["structure", "metric", "mean", "std", "used", "missed", "invented", "absent"]
  page.section("Scores").table(
    columns,
    [[row[c] for c in columns] for row in sorted(summary, key=lambda row: row["structure"])],
    "used: cases in the mean. missed: in the truth, not predicted; invented: predicted, not in the"
    " truth; absent: in neither. Distances of missed and invented structures are "
    + ("left out." if config.empty == "inf" else "the diagonal of the image."),
  )
  return page


def _pictures(
  worst: Sequence[report.Worst],
  predicted: dict[str, pathlib.Path],
  true: dict[str, pathlib.Path],
  table: _Labels,
) -> Iterator[np.ndarray]:
  for place in worst:
    case = _read(predicted[place.case], true[place.case], table)
    picture = panel.worst_picture(
      case.prediction,
      case.target,
      class_id=place.class_id,
      spacing=case.spacing,
      voxel=place.voxel,
    )
    yield picture if formats.format_of(true[place.case]).num_axes == 2 else np.rot90(picture)


def _caption(place: report.Worst) -> str:
  where = f"voxel ({', '.join(map(str, place.voxel))}) of the {place.surface}"
  if math.isinf(place.distance_mm):
    kind = "missed" if place.surface == "target" else "invented"
    return f"{place.case}, {place.structure}: {kind}"
  return f"{place.case}, {place.structure}: {place.distance_mm:.4g} mm, {where}"


def _lines(summary: Sequence[dict[str, Json]]) -> list[str]:
  """A line a structure: the means, and how many cases they leave out."""
  by_structure: dict[str, dict[str, Json]] = {}
  for row in summary:
    by_structure.setdefault(row["structure"], {})[row["metric"]] = row
  cells = [["structure", *_SHOWN, "used", "missed", "invented", "absent"]]
  for structure, rows in by_structure.items():
    counts = rows["hausdorff"]
    means = ["-" if math.isnan(rows[m]["mean"]) else f"{rows[m]['mean']:.4f}" for m in _SHOWN]
    rest = [str(counts[name]) for name in ("used", "missed", "invented", "absent")]
    cells.append([structure, *means, *rest])
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return [
    "  ".join(
      c.ljust(w) if i == 0 else c.rjust(w)
      for i, (c, w) in enumerate(zip(line, widths, strict=True))
    )
    for line in cells
  ]


def _listed(names: Sequence[Any]) -> str:
  shown = ", ".join(map(str, names[:8]))
  return shown + (f", ... ({len(names)} in all)" if len(names) > 8 else "")


if __name__ == "__main__":
  cli.command(Config, run, __doc__, prog="python -m medjax.metrics")
