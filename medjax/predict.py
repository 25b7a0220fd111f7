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

import jax
import numpy as np

from medjax import cli, files
from medjax.check import InputError, require
from medjax.data import cases, manifest, nifti, png
from medjax.data.volume import Volume
from medjax.inference import IDENTITY, Ensemble, Member, Symmetry, both, mirrorings, rotations
from medjax.loading import load_members
from medjax.train.progress import counted

SETTINGS = "prediction.json"
PROBABILITIES = "probabilities"


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
    overwrite: remove what a prediction with other settings left in `output`; else that is refused.
      Cases predicted before from the same files by the same weights are skipped. Files that this
      function did not write are never replaced.
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
  settings = files.plain(
    {
      "networks": [(member.name, _digest(member)) for member in members],
      "preprocess": preprocess.to_dict(),
      "overlap": overlap,
      "symmetries": symmetries,
      "labels": dict(zip(preprocess.class_names, preprocess.label_values, strict=True)),
    }
  )
  record = _Record.open(output, settings, overwrite)
  paths = [output / f"{case.name}{case.ending}" for case in found]
  for path in paths:
    record.check_ours(path)
  inputs = [[manifest.file_digest(file) for file in case.files] for case in found]
  plan = dict(zip(found, zip(paths, inputs, strict=True), strict=True))
  todo = [
    case
    for case, (path, digests) in plan.items()
    if not record.is_done(path, digests)
    or (probabilities and not _probability_path(output, case).exists())
  ]
  for case in counted(todo, "predicting", enabled=progress):
    path, digests = plan[case]
    volume = cases.read_case(case)
    record.begin(path, _probability_path(output, case))
    values = preprocess.restore(ensemble.of_volume(volume, case.name), volume)
    if probabilities:
      _write_probabilities(_probability_path(output, case), values, case, volume)
    _write_label(path, np.asarray(preprocess.label_values)[values.argmax(-1)], case)
    record.add(path, digests)
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
      is_picture = preprocess.file_ending == ".png"
      spacing = _plane_spacing(preprocess.spacing, preprocess.axis, is_picture)
      moves = both(moves, rotations(preprocess.patch, spacing))
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


def _plane_spacing(spacing: Any, axis: int | None, is_picture: bool) -> tuple[float, ...] | None:
  """Voxel sizes along the axes of the patch; pictures have none and need none."""
  if is_picture:
    return None
  kept = [] if spacing is None else [size for i, size in enumerate(spacing) if i != axis]
  require(
    kept and None not in kept,
    "a voxel size that training fixed, for --rotate",
    "the files' own",
    "train with --spacing, or leave --rotate out",
  )
  return tuple(kept)


@dataclasses.dataclass(frozen=True)
class _Record:
  """prediction.json: the settings, and which label map came from which input.

  A label map that is not listed there is somebody else's and is never touched.
  """

  path: pathlib.Path
  settings: Any
  done: dict[str, list[str]]

  @classmethod
  def open(cls, output: pathlib.Path, settings: Any, overwrite: bool) -> "_Record":
    """Makes the folder this prediction's, or refuses one of other settings.

    With `overwrite` the label maps of the other settings are removed first: an interrupted run must
    not leave them among the new ones.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / SETTINGS
    record = cls(path, settings, {})
    if path.exists():
      saved = files.read_json(path)
      old = saved.get("settings", {})
      record.done.update(saved.get("cases", {}))
      different = [k for k in {**settings, **old} if settings.get(k) != old.get(k)]
      if different and not overwrite:
        name = different[0]
        raise InputError(
          f"the settings of the predictions in {output}, {name}={_short(old.get(name))}",
          f"{name}={_short(settings.get(name))}",
          "pass --overwrite, or another --output",
        )
      if overwrite:
        for name in list(record.done):
          (output / name).unlink(missing_ok=True)
          (output / PROBABILITIES / _probability_name(name)).unlink(missing_ok=True)
          del record.done[name]
    record._write()
    return record

  def check_ours(self, path: pathlib.Path) -> None:
    require(
      path.name in self.done or not path.exists(),
      f"no file {path} that this command did not write",
      "one",
      "pass another --output",
    )

  def is_done(self, path: pathlib.Path, digests: list[str]) -> bool:
    return path.exists() and self.done.get(path.name) == digests

  def begin(self, path: pathlib.Path, probabilities: pathlib.Path) -> None:
    """Lists a label map as ours but not done and removes what an earlier input left."""
    self.add(path, [])
    path.unlink(missing_ok=True)
    probabilities.unlink(missing_ok=True)

  def add(self, path: pathlib.Path, digests: list[str]) -> None:
    self.done[path.name] = digests
    self._write()

  def _write(self) -> None:
    files.write_json(self.path, {"settings": self.settings, "cases": self.done})


def _digest(member: Member) -> str:
  """Of the weights: two trainings may share a name."""
  leaves = [np.asarray(x).ravel().view(np.uint8) for x in jax.tree.leaves(member.params)]
  return manifest.array_digest(np.concatenate(leaves)) if leaves else member.name


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 80 else text[:77] + "..."


def _probability_path(output: pathlib.Path, case: cases.Case) -> pathlib.Path:
  return output / PROBABILITIES / _probability_name(f"{case.name}{case.ending}")


def _probability_name(label: str) -> str:
  """Of the file beside a label map; PNG holds no fractions."""
  return label.removesuffix(".png") + ".npz" if label.endswith(".png") else label


def _write_probabilities(
  path: pathlib.Path, values: np.ndarray, case: cases.Case, volume: Volume
) -> None:
  path.parent.mkdir(exist_ok=True)
  values = values.astype(np.float32)
  if volume.affine is None:
    with files.replacing(path, suffix=".npz") as temporary:
      np.savez_compressed(temporary, probabilities=values)
  else:
    nifti.write_like(path, values, case.files[0])


def _write_label(path: pathlib.Path, label: np.ndarray, case: cases.Case) -> None:
  if case.ending == ".png":
    png.write_png(path, label)
  else:
    nifti.write_like(path, label, case.files[0])


if __name__ == "__main__":
  cli.command(Config, run, __doc__, prog="python -m medjax.predict")
