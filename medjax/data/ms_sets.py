"""Public sets of brains with MS lesions, as they are distributed: centres of a study.

MSLesSeg (Guarnera et al. 2025, figshare 27919209, CC BY): 75 people of Catania, some at several
times, on the MNI grid of 1 mm:

  ROOT/train/P1/T1/P1_T1_FLAIR.nii.gz, .._T1, .._T2, .._MASK     T1 the folder is a time, and not
  ROOT/test/P54/P54_FLAIR.nii.gz, ...                            the modality at the end

Ljubljana (Lesjak et al. 2018, Neuroinformatics; CC BY): 30 people, the consensus of three raters:

  ROOT/cross_sectional/coregistered/patient01/{FLAIR,T1W,T1WKS,T2W,consensus_gt,brainmask}.nii.gz

Both also lie in sets that were put together from them (Shifts 2.0): never use those beside them.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax.check import InputError, one_of, require, same_shape
from medjax.data import manifest, nifti
from medjax.data.normalise import Normaliser, normalise
from medjax.data.volume import Volume
from medjax.types import Example

CLASS_NAMES = ("background", "lesion")
MSLESSEG_MODALITIES = ("FLAIR", "T1", "T2")
LJUBLJANA_MODALITIES = ("FLAIR", "T1W", "T1WKS", "T2W")


class _Files(NamedTuple):
  """A case: its files, whose it is, and whether the authors train on it."""

  name: str
  subject: str
  part: str
  images: tuple[pathlib.Path, ...]
  mask: pathlib.Path


class LesionSet:
  """A Source of volumes with lesions, use `mslesseg` or `ljubljana`; reads voxels when asked.

  Attributes:
    names: of the cases, in order.
    parts: "train" or "test" of each as distributed, "" where there is no such part.
  """

  def __init__(
    self,
    kind: str,
    root: pathlib.Path,
    files: Sequence[_Files],
    modalities: Sequence[str],
    how: str | Normaliser,
  ):
    require(files, f"cases of {kind} in {root}", "none", "pass the unpacked folder")
    for case in files:
      missing = [str(path) for path in (*case.images, case.mask) if not path.is_file()]
      require(not missing, f"all files of {case.name}", f"no {', '.join(missing)}", "unpack again")
    self.root, self._files, self._kind, self._how = root, tuple(files), kind, how
    self.class_names: tuple[str, ...] = CLASS_NAMES
    self.channel_names = tuple(modalities)
    self.names = tuple(case.name for case in files)
    self.subjects = tuple(case.subject for case in files)
    self.parts = tuple(case.part for case in files)
    self.domains = (kind,) * len(files)

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    case = self._files[index]
    volumes = [nifti.to_ras(nifti.read_nifti(path)) for path in case.images]
    mask = nifti.to_ras(nifti.read_nifti(case.mask))
    first = volumes[0]
    for path, volume in zip((*case.images, case.mask), (*volumes, mask), strict=True):
      same_shape(str(case.images[0]), first.space, str(path), volume.space)
    values = np.unique(mask.array)
    require(
      set(values.tolist()) <= {0, 1},
      f"0 and 1 in {case.mask}",
      f"{values[:5].tolist()}",
      "a lesion mask has two values",
    )
    arrays = [v.array if v.array.ndim == 4 else v.array[..., None] for v in volumes]
    image = np.concatenate(arrays, -1).astype(np.float32)
    return Example(
      name=case.name,
      subject=case.subject,
      index=index,
      image=normalise(image, self._how),
      label=_plain(mask).astype(np.int32),
      spacing=first.spacing,
      affine=first.affine,
      domain=self._kind,
    )

  def manifest(self) -> dict[str, Any]:
    paths = [path for case in self._files for path in (*case.images, case.mask)]
    return manifest.describe(
      self._kind,
      root=self.root,
      files=manifest.file_digests(self.root, paths),
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options={"normalise": self._how},
    )


def mslesseg(
  root: str | os.PathLike,
  *,
  modalities: Sequence[str] = ("FLAIR",),
  normalise: str | Normaliser = "zscore",
) -> LesionSet:
  """MSLesSeg; every time of a person is a case, and its subject is the person.

  Args:
    root: folder that holds train and test.
    modalities: some of `MSLESSEG_MODALITIES`, the channels.
    normalise: see `NnUNetFolder`.
  Raises:
    InputError: no cases, a missing file, a modality that the set lacks.
  """
  root = pathlib.Path(root)
  for modality in modalities:
    one_of("modality", modality, MSLESSEG_MODALITIES)
  found = []
  for path in sorted(root.glob("*/P*/**/P*_MASK.nii.gz"), key=_by_number):
    part, name = path.relative_to(root).parts[0], path.name.removesuffix("_MASK.nii.gz")
    match = re.fullmatch(r"(P\d+)(_T\d+)?", name)
    if match is None or part not in ("train", "test"):
      raise InputError("masks train/P1/T1/P1_T1_MASK.nii.gz", str(path), "unpack again")
    images = tuple(path.with_name(f"{name}_{m}.nii.gz") for m in modalities)
    found.append(_Files(name, match.group(1), part, images, path))
  return LesionSet("MSLesSeg", root, found, modalities, normalise)


def ljubljana(
  root: str | os.PathLike,
  *,
  modalities: Sequence[str] = ("FLAIR",),
  space: Literal["coregistered", "raw"] = "coregistered",
  normalise: str | Normaliser = "zscore",
) -> LesionSet:
  """The cross-sectional set of Ljubljana.

  Args:
    root: folder that holds cross_sectional.
    modalities: some of `LJUBLJANA_MODALITIES`; T1WKS is after contrast agent.
    space: "coregistered", or "raw", where the modalities have grids of their own.
    normalise: see `NnUNetFolder`.
  Raises:
    InputError: no cases, a missing file, a modality that the set lacks.
  """
  root = pathlib.Path(root)
  for modality in modalities:
    one_of("modality", modality, LJUBLJANA_MODALITIES)
  one_of("space", space, ("coregistered", "raw"))
  folders = sorted((root / "cross_sectional" / space).glob("patient*"))
  found = [
    _Files(
      folder.name,
      folder.name,
      "",
      tuple(folder / f"{m}.nii.gz" for m in modalities),
      folder / "consensus_gt.nii.gz",
    )
    for folder in folders
    if folder.is_dir()
  ]
  return LesionSet("Ljubljana", root, found, modalities, normalise)


def _by_number(path: pathlib.Path) -> list[int]:
  """P2 before P10."""
  return [int(n) for n in re.findall(r"\d+", path.name)]


def _plain(volume: Volume) -> np.ndarray:
  array = volume.array
  return array[..., 0] if array.ndim == 4 else array
