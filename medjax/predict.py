"""Files in, label maps out: `python -m medjax.predict --run RUN --input FILES --output FOLDER`.

Every label map lies on the grid of its input: the same shape, affine, sform and qform, codes and
units, with the label values of the training set. A folder with a DICOM series gives a NIfTI file.
Probabilities are averaged over windows, symmetries and networks, brought back to that grid, and
only then compared. A network that was trained on classes or findings of pictures gives
predictions.csv instead, see `predict_classes`. A promptable network segments what --boxes, --points
or --grid ask for, see `predict_prompts`:

  python -m medjax.predict --run lite_medsam.safetensors --network lite_medsam --boxes boxes.csv \
                           --input IMAGES --output LABELS
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from medjax import cli, files
from medjax.check import InputError, one_of, require
from medjax.data import formats, manifest
from medjax.data.formats.volume import Volume
from medjax.data.sets import cases
from medjax.inference import (
  IDENTITY,
  Ensemble,
  Member,
  Symmetry,
  both,
  mirrorings,
  remove_small_components,
  rotations,
)
from medjax.inference.prompted import Prompted
from medjax.loading import load_members
from medjax.predict_classes import predict_classes
from medjax.predict_prompts import TABLE, load_promptable, predict_prompts
from medjax.train.mesh import data_mesh
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
  smallest_component: float = 0.0,
  training_files: Collection[str] = (),
  mesh: Mesh | None = None,
) -> list[pathlib.Path]:
  """Writes one label map a case, with the name of the case.

  A case that cannot be read or predicted does not end the batch: the others are written first.

  Args:
    members: networks with one preprocessing, averaged.
    source: see `data.find_cases`.
    output: folder, made if absent; not the folder of the images.
    overlap, symmetries, batch_size, mesh: see `inference.Predictor`.
    probabilities: also write probabilities/NAME, 4D NIfTI [*space, class] with the geometry of the
      input (.npz for PNG).
    overwrite: remove what a prediction with other settings left in `output`; else that is refused.
      Cases predicted before from the same files by the same weights are skipped. Files that this
      function did not write are never replaced.
    progress: print what is done.
    smallest_component: connected components below this share of their class's voxels become
      background, see `inference.remove_small_components`; 0 removes none, 1 keeps the largest.
    training_files: digests of the files that the networks were trained with
      (`manifest.file_digest`). Cases among them are named on stdout and in prediction.json.
  Returns:
    Paths of the label maps.
  Raises:
    InputError: see `find_cases` and `Ensemble`; an output folder with other predictions; at the
      end, the cases that failed, each with its reason.
  """
  source, output = pathlib.Path(source), pathlib.Path(output)
  folder = source if source.is_dir() else source.parent
  require(
    output.resolve() != folder.resolve(),
    "an output folder of its own",
    f"the folder of the images, {output}",
    "pass another --output",
  )
  ensemble = Ensemble(
    members, overlap=overlap, batch_size=batch_size, symmetries=symmetries, mesh=mesh
  )
  preprocess = ensemble.preprocess
  found = cases.find_cases(source, preprocess)
  settings = files.plain(
    {
      "networks": [(member.name, _digest(member)) for member in members],
      "preprocess": preprocess.to_dict(),
      "overlap": overlap,
      "symmetries": symmetries,
      "labels": dict(zip(preprocess.class_names, preprocess.label_values, strict=True)),
      **({"smallest_component": smallest_component} if smallest_component else {}),
    }
  )
  record = _Record.open(output, settings, overwrite)
  paths = {case: output / f"{case.name}{case.ending}" for case in found}
  for path in paths.values():
    record.check_ours(path)
  failed: dict[str, str] = {}
  for case in counted(found, "predicting", enabled=progress):
    path, beside = paths[case], _probability_path(output, case)
    try:
      digests = _file_digests(case)
      if set(digests) & set(training_files):
        record.seen.add(case.name)
      if record.is_done(path, digests) and (beside.exists() or not probabilities):
        continue
      volume = cases.read_case(case)
      values = preprocess.restore(ensemble.of_volume(volume, case.name), volume)
    except (InputError, OSError) as error:
      failed[case.name] = str(error)
      if path.name in record.done:
        record.begin(path, beside)  # an older map of this name is that of another image
      continue
    record.begin(path, beside)
    if probabilities:
      _write_probabilities(beside, values, volume)
    classes = values.argmax(-1)
    if smallest_component:
      classes = remove_small_components(classes, fraction=smallest_component)
    _write_label(path, np.asarray(preprocess.label_values)[classes], volume)
    record.add(path, digests)
  record.close(progress)
  if failed:
    shown = "; ".join(f"{name} ({reason})" for name, reason in list(failed.items())[:3])
    raise InputError(
      f"{len(found)} cases that can be predicted",
      f"{len(failed)} that cannot: {shown}" + ("; ..." if len(failed) > 3 else ""),
      f"correct them and run again; the other {len(found) - len(failed)} are in {output}",
    )
  return list(paths.values())


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
  arm: str = ""
  """Use the networks of this arm of a comparison alone; needed where a run has several."""
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
  devices: int = 1
  """Devices that the windows of a volume are spread over; 0 takes all. Exported networks: 1."""
  smallest_component: float = 0.0
  """Remove connected components below this share of their class; 1 keeps the largest alone."""
  overwrite: bool = False
  """Replace other predictions in the output folder."""
  boxes: pathlib.Path | None = None
  """For a promptable network: CSV with case, x_min, y_min, x_max, y_max (volumes: z_min, z_max)."""
  points: pathlib.Path | None = None
  """For a promptable network: CSV with case, x, y, inside (1 or 0); rows of one object together."""
  grid: int = 0
  """For a promptable network: clicks along each side of a picture, in place of prompts."""
  network: str = ""
  """What a weight file of others is: lite_medsam, sam_vit_b, or sam_vit_b_hub."""
  base: pathlib.Path | None = None
  """The frozen weights that a small file after --run was trained on."""
  embeddings: pathlib.Path | None = None
  """Folder that keeps embeddings, so that new prompts cost no encoder; else OUTPUT/embeddings."""


def run(config: Config) -> None:
  if config.boxes or config.points or config.grid:
    _run_prompts(config)
    return
  members = _members(config)
  preprocess = members[0].preprocess
  known = {digest for path in config.run for digest in training_files(path)}
  if preprocess.answers != "masks":
    table = predict_classes(
      members, config.input, config.output, overwrite=config.overwrite, training_files=known
    )
    print(f"see {table}")
    return
  moves: tuple[Symmetry, ...] = (IDENTITY,)
  if preprocess.patch is not None:
    if config.mirror:
      moves = mirrorings(len(preprocess.patch))
    if config.rotate:
      is_picture = formats.FORMATS[preprocess.file_ending].num_axes == 2
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
    smallest_component=config.smallest_component,
    training_files=known,
    mesh=None if config.devices == 1 else data_mesh(jax.devices()[: config.devices or None]),
  )
  print(f"{len(paths)} label maps in {config.output}")


def _run_prompts(config: Config) -> None:
  from medjax import nets

  require(len(config.run) == 1, "one promptable network", f"{len(config.run)}", "pass one --run")
  module, params, size, channels = load_promptable(
    config.run[0], network=config.network, base=config.base
  )
  net = nets.promptable(module)
  prompted = Prompted(
    net.embed,
    lambda params, embedding, asked: net.decode(params, embedding, nets.Prompts(*asked)),
    params,
    size=size,
    channels=channels,
    cache=config.embeddings or config.output / "embeddings",
    best_of_three=bool(config.grid),
  )
  paths = predict_prompts(
    prompted,
    config.input,
    config.output,
    boxes=config.boxes,
    points=config.points,
    grid=config.grid,
    overwrite=config.overwrite,
  )
  print(f"{len(paths)} label maps and {TABLE} in {config.output}")


def training_files(path: pathlib.Path) -> set[str]:
  """Digests of the files of a run's data set, from its config.json; none where there is none.

  Args:
    path: run directory, or one of its networks.
  """
  folder = path if path.is_dir() else path.parent.parent
  if not (folder / "config.json").is_file():
    return set()
  found: set[str] = set()

  def collect(content: Any) -> None:
    if isinstance(content, dict):
      for key, value in content.items():
        if key == "files" and isinstance(value, dict):
          found.update(d for d in value.values() if isinstance(d, str))
        else:
          collect(value)

  collect(files.read_json(folder / "config.json").get("data"))
  return found


def _members(config: Config) -> list[Member]:
  """Those of one arm: the mean of a method and of what it is compared with means nothing."""
  found = [m for path in config.run for m in load_members(path, names=config.members or None)]
  arms = list(dict.fromkeys(_arm(member.name) for member in found))
  if config.arm:
    one_of("arm", config.arm, arms)
    return [member for member in found if _arm(member.name) == config.arm]
  require(
    len(arms) == 1 or config.members or not any(path.is_dir() for path in config.run),
    f"networks of one arm in {', '.join(map(str, config.run))}",
    ", ".join(arms),
    f"pass --arm {arms[0]}, or name the networks to average with --members",
  )
  return found


def _arm(name: str) -> str:
  """ "plain" of "plain-fold0-3": what is left without fold and seed."""
  return re.sub(r"(-fold\d+)?(-\d+)?$", "", name)


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
  seen: set[str]  # cases whose files are among those of the training

  @classmethod
  def open(cls, output: pathlib.Path, settings: Any, overwrite: bool) -> "_Record":
    """Makes the folder this prediction's, or refuses one of other settings.

    With `overwrite` the label maps of the other settings are removed first: an interrupted run must
    not leave them among the new ones.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / SETTINGS
    record = cls(path, settings, {}, set())
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

  def close(self, progress: bool) -> None:
    """Says which cases belong to the training set."""
    if self.seen:
      self._write()
      names = sorted(self.seen)
      shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
      if progress:
        print(
          f"note: {len(names)} of these cases belong to the data set of the training ({shown});"
          " how well they are predicted says nothing of new people"
        )

  def _write(self) -> None:
    seen = {"of_the_training": sorted(self.seen)} if self.seen else {}
    files.write_json(self.path, {"settings": self.settings, "cases": self.done, **seen})


def _digest(member: Member) -> str:
  """Of weights and batch statistics: two trainings may share a name."""
  held = jax.tree.leaves((member.params, dict(member.model_state)))
  leaves = [np.asarray(x).ravel().view(np.uint8) for x in held]
  return manifest.array_digest(np.concatenate(leaves)) if leaves else member.name


def _file_digests(case: cases.Case) -> list[str]:
  """Of each file, or of the files in the folder of a DICOM series."""
  held = [
    p for f in case.files for p in (sorted(f.iterdir()) if f.is_dir() else [f]) if p.is_file()
  ]
  return [manifest.file_digest(path) for path in held]


def _short(value: object) -> str:
  text = json.dumps(value)
  return text if len(text) <= 80 else text[:77] + "..."


def _probability_path(output: pathlib.Path, case: cases.Case) -> pathlib.Path:
  return output / PROBABILITIES / _probability_name(f"{case.name}{case.ending}")


def _probability_name(label: str) -> str:
  """Of the file beside a label map; PNG holds no fractions."""
  return label.removesuffix(".png") + ".npz" if label.endswith(".png") else label


def _write_probabilities(path: pathlib.Path, values: np.ndarray, volume: Volume) -> None:
  path.parent.mkdir(exist_ok=True)
  values = values.astype(np.float32)
  if volume.affine is None:
    with files.replacing(path, suffix=".npz") as temporary:
      np.savez_compressed(temporary, probabilities=values)
  else:
    formats.format_of(path).write(path, values, volume)


def _write_label(path: pathlib.Path, label: np.ndarray, volume: Volume) -> None:
  formats.format_of(path).write(path, label, volume)


if __name__ == "__main__":
  cli.command(Config, run, __doc__, prog="python -m medjax.predict")
