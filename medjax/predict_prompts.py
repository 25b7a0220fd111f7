"""Images and prompts in, label maps out: what `medjax.predict` does with a promptable network."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax import adapt, check, files, tables
from medjax.data import formats, manifest
from medjax.inference.prompted import PixelPrompt, Prompted, distinct
from medjax.metrics import case_table
from medjax.train import weights
from medjax.train.progress import counted
from medjax.types import Params

TABLE = "prompts.csv"
NETWORKS = ("lite_medsam", "sam_vit_b", "sam_vit_b_hub")
"""Weight files of others that can be read: of LiteMedSAM, of SAM and MedSAM, and of the hub."""
_BOX = ("x_min", "y_min", "x_max", "y_max")


class Question3D(NamedTuple):
  """A prompt for a case.

  Attributes:
    label: value in the label map.
    asked: in pixels of a plane.
    planes: slices that it is asked of; (0,) for a picture.
    where: line of the table, for errors.
  """

  label: int
  asked: PixelPrompt
  planes: range
  where: str


def save_promptable(
  path: str | os.PathLike, params: Params, network: Any, *, size: int, channels: int
) -> None:
  """Writes a trained promptable network; the file alone is enough to predict.

  Args:
    path: usually RUN/weights/NAME.safetensors; its folder is made.
    params: of the network.
    network: a `nets.PromptableSegmenter`.
    size, channels: of its input.
  """
  from medjax.nets import spec

  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  about = {"network": spec.describe(network), "size": size, "channels": channels}
  weights.save_weights(path, params, {"promptable": about})


def load_promptable(
  path: str | os.PathLike, *, network: str = "", base: str | os.PathLike | None = None
) -> tuple[Any, Params, int, int]:
  """(module, parameters, size, channels) of a promptable network.

  Args:
    path: a run directory with one network, a file of `save_promptable`, weights of others, or a
      small file of `adapt.save_small`.
    network: what weights of others belong to, one of `NETWORKS`.
    base: the weights that a small file was trained on.
  Raises:
    InputError: see `import_torch`, `adapt.load_small`; several networks in a run; weights of others
      without a `network`.
  """
  from medjax import nets
  from medjax.nets import spec

  path = pathlib.Path(path)
  if path.is_dir():
    found = sorted((path / "weights").glob("*.safetensors"))
    check.require(
      len(found) == 1,
      f"one network in {path / 'weights'}",
      f"{len(found)}: {', '.join(p.stem for p in found)}",
      "pass one of the files after --run",
    )
    path = found[0]
  if base is not None:
    module, params, size, channels = load_promptable(base, network=network)
    return module, adapt.load_small(path, params, base)[0], size, channels
  check.existing_file(path)
  if path.suffix == ".safetensors":
    held = weights.read_weights(path)
    if "promptable" in held.settings:
      about = held.settings["promptable"]
      module: Any = spec.build(about["network"])
      size, channels = about["size"], about["channels"]
      template = _shapes(nets.promptable(module), size, channels)
      loaded = weights.load_into(template, held.arrays, strict=True, say=lambda text: None)
      return module, loaded.params, size, channels
    check.require(
      "small_of" not in held.settings,
      f"the weights that {path} was trained on",
      "none",
      "pass them with --base",
    )
  check.one_of("network", network, NETWORKS)
  module = nets.lite_medsam() if network == "lite_medsam" else nets.sam_vit_b()
  names = nets.sam_hub_names(module) if network.endswith("_hub") else None
  params = nets.import_torch(path, module, names=names)[0]
  return module, params, 64 * module.stride, 3


def _shapes(net: Any, size: int, channels: int) -> Params:
  import jax
  import jax.numpy as jnp

  image = jax.ShapeDtypeStruct((size, size, channels), jnp.float32)
  return jax.eval_shape(net.init, jax.random.key(0), image)


def read_boxes(
  path: str | os.PathLike, spaces: Mapping[str, Sequence[int]]
) -> dict[str, list[Question3D]]:
  """Boxes of each case from a CSV file.

  Columns: case, x_min, y_min, x_max, y_max in pixels, the last ones inside the box; of volumes also
  z (one slice) or z_min and z_max (the same box in all of them); "label" is the value in the label
  map, else boxes of a case are counted from 1. x counts columns of a picture and the first axis of
  a volume, y rows and the second axis, z the third axis.

  Args:
    path: the table.
    spaces: case -> (columns, rows) or (x, y, z), pixels along x, y and z.
  Raises:
    InputError: naming the line: a case that is not there, a box that is empty or outside.
  """
  questions: dict[str, list[Question3D]] = {}
  for line in tables.read_table(path, ("case", *_BOX)):
    space, own = _space(line, spaces, questions)
    x0, y0, x1, y1 = (line.number(column) for column in _BOX)
    check.require(
      0 <= x0 < x1 <= space[0] - 1 and 0 <= y0 < y1 <= space[1] - 1,
      f"a box with 0 <= x_min < x_max <= {space[0] - 1} and 0 <= y_min < y_max <= {space[1] - 1}"
      f" in {line.where}",
      f"{x0:g}, {y0:g}, {x1:g}, {y1:g}",
      "correct it; the numbers are pixels of the image's own grid",
    )
    asked = PixelPrompt(np.array([[x0, y0], [x1, y1]], np.float32), np.array([2, 3], np.int32))
    own.append(Question3D(_label(line, len(own)), asked, _planes(line, space), line.where))
  return questions


def read_points(
  path: str | os.PathLike, spaces: Mapping[str, Sequence[int]]
) -> dict[str, list[Question3D]]:
  """Clicks of each case from a CSV file.

  Columns: case, x, y, inside (1 for a click on the object, 0 for one beside it), of volumes z; the
  rows of a case with one "object" are one prompt, and without that column every row is. See
  `read_boxes` for axes and for "label".
  """
  rows: dict[tuple[str, str], list[tuple[Any, tuple[float, float], int]]] = {}
  questions: dict[str, list[Question3D]] = {}
  for number, line in enumerate(tables.read_table(path, ("case", "x", "y", "inside"))):
    space, _ = _space(line, spaces, questions)
    x, y, inside = line.number("x"), line.number("y"), line.whole("inside", least=0)
    check.require(
      0 <= x <= space[0] - 1 and 0 <= y <= space[1] - 1 and inside <= 1,
      f"a point in {space[0]} x {space[1]} pixels, inside 0 or 1, in {line.where}",
      f"{x:g}, {y:g}, inside {inside}",
      "correct it; the numbers are pixels of the image's own grid",
    )
    name = line.text("object") if "object" in line.cells else str(number)
    rows.setdefault((line.text("case"), name), []).append((line, (x, y), inside))
  for found in rows.values():
    first = found[0][0]
    space, own = _space(first, spaces, questions)
    planes = {_planes(line, space) for line, _, _ in found}
    check.require(
      len(planes) == 1,
      f"the points of an object in one slice, that of {first.where}",
      f"{len(planes)}",
      "give each slice an object of its own",
    )
    # SAM puts a token of no point (label -1) behind clicks that come without a box.
    coordinates = np.array([*(place for _, place, _ in found), (0, 0)], np.float32)
    labels = np.array([*(inside for _, _, inside in found), -1], np.int32)
    own.append(
      Question3D(
        _label(first, len(own)), PixelPrompt(coordinates, labels), planes.pop(), first.where
      )
    )
  return questions


def _space(
  line: tables.Line,
  spaces: Mapping[str, Sequence[int]],
  questions: dict[str, list[Question3D]],
) -> tuple[Sequence[int], list[Question3D]]:
  case = line.filled("case")
  shown = ", ".join(list(spaces)[:5])
  check.require(
    case in spaces, f"a case of the input ({shown}) in {line.where}", repr(case), "correct its name"
  )
  return spaces[case], questions.setdefault(case, [])


def _planes(line: tables.Line, space: Sequence[int]) -> range:
  if len(space) == 2:
    return range(1)
  if "z" in line.cells and line.text("z"):
    low = high = line.whole("z", least=0)
  else:
    check.require(
      "z_min" in line.cells and "z_max" in line.cells,
      f"z, or z_min and z_max, for a volume in {line.where}",
      "neither",
      "say which slices are meant",
    )
    low, high = line.whole("z_min", least=0), line.whole("z_max", least=0)
  check.require(
    low <= high < space[2],
    f"slices 0 to {space[2] - 1}, the lower one first, in {line.where}",
    f"{low} to {high}",
    "correct them",
  )
  return range(low, high + 1)


def _label(line: tables.Line, before: int) -> int:
  return line.whole("label", least=1) if "label" in line.cells else before + 1


def grid_questions(space: Sequence[int], side: int) -> list[Question3D]:
  """A click in the middle of each cell of a grid over a picture."""
  xs, ys = ((np.arange(side) + 0.5) * n / side - 0.5 for n in space[:2])
  labels = np.array([1, -1], np.int32)
  return [
    Question3D(
      i + 1, PixelPrompt(np.array([[x, y], [0, 0]], np.float32), labels), range(1), "the grid"
    )
    for i, (y, x) in enumerate((y, x) for y in ys for x in xs)
  ]


def predict_prompts(
  prompted: Prompted,
  source: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  boxes: pathlib.Path | None = None,
  points: pathlib.Path | None = None,
  grid: int = 0,
  least_quality: float = 0.7,
  overwrite: bool = False,
  progress: bool = True,
) -> list[pathlib.Path]:
  """Writes a label map a case on the grid of its file, and prompts.csv with a row a prompt.

  Where masks overlap, the surer one at that pixel wins. A volume is answered slice by slice.

  Args:
    prompted: the network.
    source: an image, or a folder of images; the case is the name without its ending.
    output: folder, made if absent.
    boxes, points: see `read_boxes`, `read_points`; either of them, or a grid.
    grid: clicks along each side of a picture; masks that are sure and distinct become 1, 2, ...
    least_quality: of masks of the grid, by the network's own estimate.
    overwrite: replace label maps that are there.
    progress: print what is done.
  Returns:
    Paths of the label maps.
  Raises:
    InputError: one line about the first thing that is wrong, before anything is computed.
  """
  check.non_negative("grid", grid)
  asked = [name for name in (boxes, points, grid or None) if name is not None]
  check.require(
    len(asked) == 1, "one of boxes, points and grid", f"{len(asked)}", "pass one of them"
  )
  found = _images(pathlib.Path(source))
  table = boxes or points
  named = (
    {line.text("case") for line in tables.read_table(table, ("case",))} if table else set(found)
  )
  spaces = {}
  for name in (name for name in found if name in named):
    volume = _read(found[name])
    channels = volume.array.shape[len(volume.space) :]
    prompted.check_channels(channels[0] if channels else 1, f"{found[name]}, a picture")
    spaces[name] = _axes(volume)
  if not spaces:  # the readers of tables say which name is wrong
    spaces = {name: _axes(_read(path)) for name, path in list(found.items())[:5]}
  if grid:
    check.require(
      all(len(space) == 2 for space in spaces.values()), "pictures for a grid", "a volume",
      "give boxes or points",
    )  # fmt: skip
    questions = {name: grid_questions(space, grid) for name, space in spaces.items()}
  elif boxes is not None:
    questions = read_boxes(boxes, spaces)
  else:
    assert points is not None
    questions = read_points(points, spaces)
  check.require(questions, f"a row in {table}", "none", "give a prompt at least")
  output = pathlib.Path(output)
  paths = {name: output / found[name].name for name in questions}
  there = [str(path) for path in paths.values() if path.exists()]
  check.require(
    overwrite or not there, f"no file {', '.join(there[:3])}", "one", "pass --overwrite"
  )
  output.mkdir(parents=True, exist_ok=True)
  rows: list[dict[str, Any]] = []
  for name in counted(list(questions), "predicting", enabled=progress):
    volume = _read(found[name])
    label, own = _answered(prompted, volume, questions[name], least_quality if grid else None)
    rows += [{"case": name, **row} for row in own]
    formats.format_of(found[name]).write(paths[name], label, volume)
  case_table.write_cases(output / TABLE, rows)
  files.write_json(
    output / "prediction.json",
    {"images": {name: manifest.file_digest(found[name]) for name in questions}},
  )
  return list(paths.values())


def _answered(
  prompted: Prompted, volume: Any, questions: Sequence[Question3D], least_quality: float | None
) -> tuple[np.ndarray, list[dict[str, Any]]]:
  """The label map of a case and rows of its prompts."""
  planes = _slices(volume)
  best = np.zeros(volume.space if len(volume.space) == 3 else (*volume.space, 1), np.float32)
  label = np.zeros(best.shape, np.int32)
  rows = []
  for place in sorted({z for question in questions for z in question.planes}):
    here = [question for question in questions if place in question.planes]
    embedded = prompted.embedded(planes(place))
    logits, quality = prompted.masks(embedded, [question.asked for question in here])
    kept = list(range(len(here)))
    if least_quality is not None:
      kept = distinct(logits > 0, quality, least_quality=least_quality)
    for i in kept:
      own = logits[i].T if len(volume.space) == 3 else logits[i]  # planes of volumes are [y, x]
      is_surer = own > best[..., place]
      value = here[i].label if least_quality is None else len(rows) + 1
      label[..., place] = np.where(is_surer, value, label[..., place])
      best[..., place] = np.where(is_surer, own, best[..., place])
      figures = {"quality/all": float(quality[i]), "pixels/all": float((own > 0).sum())}
      rows.append({"slice": str(place), "label": str(value), **figures})
  if not rows:  # a grid without a single sure mask
    rows = [{"slice": "0", "label": "0", "quality/all": float("nan"), "pixels/all": 0.0}]
  return label.reshape(volume.space), rows


def _read(path: pathlib.Path) -> Any:
  return formats.format_of(path).read_image(path)


def _axes(volume: Any) -> tuple[int, ...]:
  """Pixels along x, y (and z)."""
  space = volume.space
  return tuple(space) if len(space) == 3 else (space[1], space[0])


def _slices(volume: Any) -> Any:
  """`slices(z)` -> [y, x(, channel)]; intensities of a volume are cut at two of its percentiles."""
  if len(volume.space) == 2:
    return lambda place: volume.array
  low, high = np.percentile(volume.array, (0.5, 99.5))
  cut = np.clip(volume.array.astype(np.float32), low, high)
  return lambda place: np.swapaxes(cut[:, :, place], 0, 1)


def _images(source: pathlib.Path) -> dict[str, pathlib.Path]:
  check.require(source.exists(), f"a file or folder {source}", "nothing there", "check the path")
  found = sorted(source.iterdir()) if source.is_dir() else [source]
  known = [p for p in found if p.is_file() and formats.ending_of(p) and not p.name.startswith(".")]
  endings = ", ".join(formats.FORMATS)
  check.require(known, f"images ({endings}) in {source}", "none", "check the path, or convert them")
  return {p.name[: -len(formats.ending_of(p) or "")]: p for p in known}
