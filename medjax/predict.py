"""Files in, label maps out: `python -m medjax.predict --run RUN --input FILES --output FOLDER`.

Every label map lies on the grid of its input: the same shape, affine, sform and qform, codes and
units, with the label values of the training set. Probabilities are averaged over windows,
symmetries and networks, brought back to that grid, and only then compared.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax import cli
from medjax.check import InputError, require
from medjax.data import cases, nifti, png
from medjax.data.volume import Volume
from medjax.inference import IDENTITY, Ensemble, Member, Symmetry, both, mirrorings, rotations
from medjax.loading import load_members
from medjax.train import jsonfile
from medjax.train.progress import counted

SETTINGS = "prediction.json"


def predict(
  members: Sequence[Member],
  source: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  overlap: float = 0.5,
  symmetries: Sequence[Symmetry] = (IDENTITY,),
  batch_size: int | None = None,
  probabilities: bool = False,
  overwrite: bool = False,
  progress: bool = True,
) -> list[pathlib.Path]:
  """Writes one label map a case, with the name of the case.

  Args:
    members: networks with one preprocessing, averaged.
    source: see `data.cases.find_cases`.
    output: folder, made if absent; not the folder of the images.
    overlap, symmetries, batch_size: see `inference.Predictor`.
    probabilities: also write probabilities/NAME, 4D NIfTI [*space, class] with the geometry of the
      input (.npz for PNG).
    overwrite: replace what another prediction left in `output`; else cases that are there are
      skipped if the settings agree, and refused if they do not.
    progress: print what is done.
  Returns:
    Paths of the label maps.
  Raises:
    InputError: see `find_cases` and `Ensemble`; an output folder with other predictions.
  """
  source, output = pathlib.Path(source), pathlib.Path(output)
  folder = source if source.is_dir() else source.parent
  require(
    output.resolve() != folder.resolve(),
    "an output folder of its own",
    f"the folder of the images, {output}",
    "pass another --output",
  )
  ensemble = Ensemble(members, overlap=overlap, batch_size=batch_size, symmetries=symmetries)
  preprocess = ensemble.preprocess
  found = cases.find_cases(source, preprocess)
  settings = jsonfile.plain(
    {
      "networks": [member.name for member in members],
      "preprocess": preprocess.to_dict(),
      "overlap": overlap,
      "symmetries": symmetries,
      "labels": dict(zip(preprocess.class_names, preprocess.label_values, strict=True)),
    }
  )
  _claim(output, settings, overwrite)
  paths = [output / f"{case.name}{case.ending}" for case in found]
  extra = [_probability_path(output, case) for case in found]
  todo = [
    case
    for case, path, beside in zip(found, paths, extra, strict=True)
    if overwrite or not path.exists() or (probabilities and not beside.exists())
  ]
  for case in counted(todo, "predicting", enabled=progress):
    volume = cases.read_case(case)
    values = preprocess.restore(ensemble(preprocess.apply(volume, case.name).array), volume)
    if probabilities:
      _write_probabilities(_probability_path(output, case), values, case, volume)
    label = np.asarray(preprocess.label_values)[values.argmax(-1)]
    _write_label(output / f"{case.name}{case.ending}", label, case)
  return paths


@dataclasses.dataclass(frozen=True)
class Config:
  run: tuple[pathlib.Path, ...]
  """Run directories, .safetensors files or exported networks; all their networks are averaged."""
  input: pathlib.Path
  """An image, or a folder of images named NAME_0000.nii.gz, NAME_0001.nii.gz, ..."""
  output: pathlib.Path
  """Folder for the label maps."""
  members: tuple[str, ...] = ()
  """Names of the networks to use, as in RUN/weights; all if none is given."""
  probabilities: bool = False
  """Also write class probabilities."""
  overlap: float = 0.5
  """Of neighbouring windows, as a fraction of the window."""
  mirror: bool = False
  """Average over all mirrorings (test-time augmentation)."""
  rotate: bool = False
  """Average over quarter turns in planes with equal patch and voxel sizes."""
  batch_size: int = 0
  """Windows at a time; 0 chooses for the device."""
  overwrite: bool = False
  """Replace other predictions in the output folder."""


def run(config: Config) -> None:
  members = [
    member for path in config.run for member in load_members(path, names=config.members or None)
  ]
  preprocess = members[0].preprocess
  moves: tuple[Symmetry, ...] = (IDENTITY,)
  if preprocess.patch is not None:
    if config.mirror:
      moves = mirrorings(len(preprocess.patch))
    if config.rotate:
      moves = both(
        moves, rotations(preprocess.patch, _plane_spacing(preprocess.spacing, preprocess.axis))
      )
  paths = predict(
    members,
    config.input,
    config.output,
    overlap=config.overlap,
    symmetries=moves,
    batch_size=config.batch_size or None,
    probabilities=config.probabilities,
    overwrite=config.overwrite,
  )
  print(f"{len(paths)} label maps in {config.output}")


def _plane_spacing(spacing: Any, axis: int | None) -> tuple[float, ...] | None:
  """Voxel sizes along the axes of the patch, if they are known."""
  if spacing is None:
    return None
  kept = [size for i, size in enumerate(spacing) if i != axis]
  return None if None in kept else tuple(kept)


def _claim(output: pathlib.Path, settings: Any, overwrite: bool) -> None:
  """Makes the folder this prediction's, or refuses one that is another's."""
  output.mkdir(parents=True, exist_ok=True)
  path = output / SETTINGS
  if path.exists() and not overwrite:
    saved = jsonfile.read(path)
    different = [k for k in {**settings, **saved} if settings.get(k) != saved.get(k)]
    if different:
      name = different[0]
      raise InputError(
        f"the settings of the predictions in {output}, {name}={_short(saved.get(name))}",
        f"{name}={_short(settings.get(name))}",
        "pass --overwrite, or another --output",
      )
  jsonfile.write(path, settings)


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 80 else text[:77] + "..."


def _probability_path(output: pathlib.Path, case: cases.Case) -> pathlib.Path:
  ending = ".npz" if case.ending == ".png" else case.ending
  return output / "probabilities" / f"{case.name}{ending}"


def _write_probabilities(
  path: pathlib.Path, values: np.ndarray, case: cases.Case, volume: Volume
) -> None:
  path.parent.mkdir(exist_ok=True)
  values = values.astype(np.float32)
  if volume.affine is None:
    partial = path.with_name(f".{path.name}")
    with open(partial, "wb") as file:
      np.savez_compressed(file, probabilities=values)
    partial.replace(path)
  else:
    nifti.write_like(path, values, case.files[0])


def _write_label(path: pathlib.Path, label: np.ndarray, case: cases.Case) -> None:
  if case.ending == ".png":
    png.write_png(path, label)
  else:
    nifti.write_like(path, label, case.files[0])


if __name__ == "__main__":
  cli.command(Config, run, __doc__, prog="python -m medjax.predict")
