"""How much can a trained network take? Its scores on your labelled images, spoiled in nine ways.

Wang et al., "SAM Meets Robotic Surgery: An Empirical Study on Generalization, Robustness and
Adaptation" (2023) asks it of SAM with corruptions of Hendrycks & Dietterich (2019); here any run of
medjax is asked, with `data.augmentation.CORRUPTIONS` on the device.

  python -m experiments.robustness --run RUN --data FOLDER --output OUT

RUN is a run directory or one of its weight files. FOLDER is an nnU-Net folder with labelsTr for a
network that draws label maps, and a tree of class folders for one that tells classes apart. Volumes
are spoiled slice by slice along their third axis, all slices of a case with one draw. Intensities
of a case go to [0, 1] by its least and greatest value, are spoiled, and go back. `--artefacts` lays
real artefacts of a folder (rulers, ink, bubbles: meta.json and templates, see `trap_sets`) over the
pictures as one more corruption, whose severity is how opaque they are, a fifth a step.

OUT/robustness.csv has a row for each case, corruption and severity (severity 0: as it is),
OUT/robustness.json the means, OUT/report.html both as tables. With `--severities 1 3 5` and
`--corruptions noise blur` it takes less time: that of a prediction for each cell of the table.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import trap_sets
from medjax import check, cli, data, files, metrics, rng
from medjax.data.augmentation import CORRUPTIONS, SEVERITIES, Corrupted
from medjax.data.formats.volume import Volume
from medjax.data.seeds import generator
from medjax.inference import Ensemble, Member
from medjax.loading import load_members
from medjax.metrics import case_table
from medjax.train import Report
from medjax.train.progress import counted
from medjax.types import Json

_ARTEFACTS = "artefacts"
Pairs = Sequence[tuple[pathlib.Path, pathlib.Path]]
Cell = tuple[str, int]  # a corruption and a severity; ("none", 0) is the image as it is


@dataclasses.dataclass(frozen=True)
class Config:
  run: pathlib.Path
  """Run directory, or one of its .safetensors files."""
  data: pathlib.Path
  """nnU-Net folder with labels, or class folders."""
  output: pathlib.Path
  """Folder for the tables."""
  corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
  """Of the suite."""
  severities: tuple[int, ...] = SEVERITIES
  """Of 1 to 5."""
  members: tuple[str, ...] = ()
  """Names of the networks to average, as in RUN/weights; all if none is given."""
  max_cases: int = 0
  """First cases that are taken; 0: all."""
  artefacts: pathlib.Path | None = None
  """Folder of real artefacts, for pictures; none if not given."""
  seed: int = 0
  """Of what is random in a corruption."""


def spoiled(image: np.ndarray, name: str, severity: int, seed: int, index: int) -> np.ndarray:
  """An image [*space, channel] of any intensities, corrupted; 3D slice by slice with one draw.

  Args:
    image: of a case on its own grid.
    name, severity: as in `Corrupted`; severity 0 gives the image back.
    seed, index: of the run and of the case; the same draw in every severity.
  """
  if not severity:
    return image
  low, high = float(image.min()), float(image.max())
  width = max(high - low, 1e-8)
  planes = image[None] if image.ndim == 3 else np.moveaxis(image, 2, 0)
  key = jax.random.fold_in(rng.stream(jax.random.key(seed), name), index)
  changed = _change(name, severity)(key, jnp.asarray((planes - low) / width, jnp.float32))
  out = np.asarray(changed) * width + low
  return out[0] if image.ndim == 3 else np.moveaxis(out, 0, 2)


def overlaid(image: np.ndarray, pairs: Pairs, severity: int, seed: int, index: int) -> np.ndarray:
  """A picture [height, width, 1 or 3] under one real artefact, a fifth as opaque a severity.

  The change grows with the severity at every pixel: x + s / 5 (clip(x + artefact) - x).

  Raises:
    InputError: a volume.
  """
  check.require(
    image.ndim == 3 and image.shape[-1] in (1, 3),
    "pictures of 1 or 3 channels for artefacts",
    f"{image.shape}",
    "leave --artefacts out",
  )
  pair = pairs[int(generator(seed, "artefacts", index).integers(len(pairs)))]
  change = trap_sets.artefact_change(*pair, (image.shape[0], image.shape[1]))
  if image.shape[-1] == 1:
    change = change.mean(-1, keepdims=True)
  low, high = float(image.min()), float(image.max())
  width = max(high - low, 1e-8)
  share = (image - low) / width
  return (share + severity / 5 * (np.clip(share + change, 0, 1) - share)) * width + low


def _case(image: np.ndarray, cell: Cell, config: Config, index: int) -> np.ndarray:
  name, severity = cell
  if name == _ARTEFACTS:
    assert config.artefacts is not None
    return overlaid(image, _pairs(config.artefacts), severity, config.seed, index)
  return spoiled(image, name, severity, config.seed, index)


@functools.cache
def _pairs(folder: pathlib.Path) -> Pairs:
  return trap_sets.artefact_pairs(folder, ("ruler", "marking", "bubble"))


@functools.cache
def _change(name: str, severity: int) -> Callable[[Any, jax.Array], jax.Array]:
  own = Corrupted(name, severity)

  @jax.jit
  def change(key: Any, planes: jax.Array) -> jax.Array:
    drawn = own.draw(key, planes.shape[1:])
    return jax.vmap(own.apply, (None, 0))(drawn, planes)

  return change


def segmented(
  members: Sequence[Member], folder: pathlib.Path, cells: Sequence[Cell], config: Config
) -> Iterator[dict[str, Json]]:
  """Rows of Dice of each case in each cell, on the case's own grid."""
  ensemble = Ensemble(members)
  preprocess = members[0].preprocess
  source = data.NnUNetFolder(folder, normalise="none", reorient=preprocess.reorient)
  check.require(
    source.label_values == preprocess.label_values,
    f"the labels of the training, {preprocess.label_values}",
    f"{source.label_values} in {folder}",
    "pass a folder with the same classes",
  )
  for index in counted(list(range(_count(source, config))), "predicting"):
    example = source[index]
    assert example.image is not None and example.label is not None
    for name, severity in cells:
      image = _case(example.image, (name, severity), config, index)
      volume = Volume(image, example.affine, example.spacing)
      values = preprocess.restore(ensemble.of_volume(volume, example.name), volume)
      found = metrics.segmentation_report(
        [values.argmax(-1)],
        [example.label],
        num_classes=len(preprocess.class_names),
        spacing=example.spacing,
        class_names=preprocess.class_names,
        empty="diagonal",
      ).rows[0]
      dice = {column: value for column, value in found.items() if column.startswith("dice/")}
      yield {**_about(name, severity, example.name, example.subject), **dice}


def classified(
  members: Sequence[Member], folder: pathlib.Path, cells: Sequence[Cell], config: Config
) -> Iterator[dict[str, Json]]:
  """Rows of right or wrong of each picture in each cell."""
  preprocess = members[0].preprocess
  if preprocess.patch is None or len(preprocess.patch) != 2:
    raise check.InputError("the size of pictures in the preprocessing", "none", "set its patch")
  height, width = preprocess.patch
  source = data.ClassFolders(
    folder,
    size=(height, width),
    colour=len(preprocess.channel_names) == 3,
    class_names=preprocess.class_names,
  )

  @functools.partial(jax.jit, static_argnums=0)
  def probabilities(apply: Any, params: Any, state: Any, image: jax.Array) -> jax.Array:
    return jax.nn.softmax(apply(params, image, model_state=state)[0].astype(jnp.float32))

  for index in counted(list(range(_count(source, config))), "predicting"):
    example = source[index]
    assert example.image is not None and example.label is not None
    for name, severity in cells:
      image = _case(example.image, (name, severity), config, index)
      own = [
        np.asarray(probabilities(m.model.apply, m.params, dict(m.model_state), image))
        for m in members
      ]
      is_right = float(np.mean(own, axis=0).argmax() == int(example.label))
      yield {**_about(name, severity, example.name, example.subject), "accuracy/all": is_right}


def _about(name: str, severity: int, case: str, subject: str) -> dict[str, Json]:
  return {"corruption": name, "severity": str(severity), "case": case, "subject": subject}


def _count(source: Any, config: Config) -> int:
  return min(len(source), config.max_cases) if config.max_cases else len(source)


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
  """figure -> corruption -> severity -> mean over people of the mean over their cases.

  >>> rows = [{"corruption": "noise", "severity": "1", "subject": s, "dice/a": d}
  ...         for s, d in (("p", 0.2), ("p", 0.4), ("q", 0.9))]
  >>> round(means(rows)["dice/a"]["noise"]["1"], 6)
  0.6
  """
  found: dict[str, dict[str, dict[str, float]]] = {}
  for figure in (name for name in rows[0] if "/" in name):
    people: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
      cell = people.setdefault((row["corruption"], row["severity"]), {})
      cell.setdefault(row["subject"], []).append(float(row[figure]))
    for (name, severity), own in people.items():
      value = float(np.nanmean([np.nanmean(values) for values in own.values()]))
      found.setdefault(figure, {}).setdefault(name, {})[severity] = value
  return found


def run(config: Config) -> None:
  for name in config.corruptions:
    check.one_of("corruption", name, tuple(CORRUPTIONS))
  for severity in config.severities:
    check.one_of("severity", severity, SEVERITIES)
  table = config.output / "robustness.csv"
  check.require(not table.exists(), f"no file {table}", "one", "pass another --output")
  members = load_members(config.run, names=config.members or None)
  names = list(config.corruptions)
  if config.artefacts is not None:
    _pairs(config.artefacts)  # what is wrong with the folder is said before anything is computed
    names.append(_ARTEFACTS)
  cells: list[Cell] = [("none", 0)]
  cells += [(name, severity) for name in names for severity in config.severities]
  kinds = {"masks": segmented, "classes": classified}
  answers = members[0].preprocess.answers
  check.one_of("answers of the network", answers, tuple(kinds))
  rows = list(kinds[answers](members, config.data, cells, config))
  config.output.mkdir(parents=True, exist_ok=True)
  case_table.write_cases(table, rows)
  found = means(rows)
  files.write_json(config.output / "robustness.json", found)
  report = Report(f"Robustness of {config.run.name} on {config.data.name}")
  for figure, own in found.items():
    clean = own["none"]["0"]
    heads = ["corruption", "as it is", *(f"severity {s}" for s in config.severities)]
    lines = [[name, clean, *(own[name][str(s)] for s in config.severities)] for name in names]
    report.section(figure).table(heads, lines, f"Means over {len({r['subject'] for r in rows})}"
                                 " people.")  # fmt: skip
    print(f"{figure}: {clean:.3f} as it is")
    for name, _, *values in lines:
      print(f"  {name:12s}" + " ".join(f"{float(value):.3f}" for value in values))
  report.write(config.output / "report.html")
  print(f"see {config.output / 'report.html'}")


if __name__ == "__main__":
  cli.command(Config, run, __doc__, prog="python -m experiments.robustness")
