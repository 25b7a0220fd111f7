"""Public sets of brains with MS lesions, as they are distributed: centres of a study.

Below ROOT, zipped or unpacked, names in any case. MSLesSeg (Guarnera et al. 2025, figshare
27919209, CC BY): 75 people of Catania, some at several times, on the MNI grid of 1 mm:

  ROOT/train/P1/T1/P1_T1_FLAIR.nii.gz, .._T1, .._T2, .._MASK     T1 the folder is a time, and not
  ROOT/test/P54/P54_FLAIR.nii.gz, ...                            the modality at the end

Ljubljana (Lesjak et al. 2018, Neuroinformatics; CC BY): 30 people, the consensus of three raters:

  ROOT/cross_sectional/coregistered/patient01/{FLAIR,T1W,T1WKS,T2W,consensus_gt,brainmask}.nii.gz

Its longitudinal part (longitiudinal in the archives) is never read: masks there are change between
two times, no lesions.

Both also lie in sets that were put together from them (Shifts 2.0): never use those beside them.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax.check import one_of, require
from medjax.data.formats import nifti
from medjax.data.formats.volume import Volume, check_same_grid
from medjax.data.normalise import Normaliser
from medjax.data.sets import downloads
from medjax.data.sets.downloads import Download
from medjax.data.sets.scans import Scan, ScanSet, add_file, digests_of

CLASS_NAMES = ("background", "lesion")
MSLESSEG_MODALITIES = ("FLAIR", "T1", "T2")
LJUBLJANA_MODALITIES = ("FLAIR", "T1W", "T1WKS", "T2W")

MSLESSEG_NAME = r"(P\d+)(_T\d+)?_(FLAIR|T1|T2|MASK)\.nii\.gz"
"""Person, time, and what it is, in any case."""

LJUBLJANA_NAME = r"(FLAIR|T1W|T1WKS|T2W|consensus_gt)\.nii\.gz"
"""What it is, in any case; the person is the folder."""

_MASKS = ("MASK", "CONSENSUS_GT")


class _Name(NamedTuple):
  """What name and folders of a file say.

  Attributes:
    case: scans of one day of one person.
    subject: the person.
    part: "train" or "test" where the authors say so.
    what: modality or mask, in capitals.
  """

  case: str
  subject: str
  part: str
  what: str


class LesionSet(ScanSet):
  """A Source of volumes with lesions, upright (RAS), use `mslesseg` or `ljubljana`.

  Voxels are read when asked for.

  Attributes:
    names: names of the cases, in order.
    parts: "train" or "test" of each as distributed, "" where there is no such part.
  """

  def __init__(
    self,
    kind: str,
    root: pathlib.Path,
    listed: Iterable[tuple[_Name, Download]],
    modalities: Sequence[str],
    **options: Any,
  ):
    files: dict[str, dict[str, Download]] = {}
    about: dict[str, _Name] = {}
    for name, download in listed:
      what = "MASK" if name.what in _MASKS else name.what
      own = files.setdefault(name.case, {})
      of_case = f"{what} of {name.case}"
      add_file(own, of_case, download)
      about.setdefault(name.case, name)
    require(files, f"cases of {kind} in {root}", "none", "pass the folder with the download")
    order = sorted(files, key=lambda case: [int(n) for n in re.findall(r"\d+", case)])
    wanted = (*modalities, "MASK")
    for case in order:
      missing = [what for what in wanted if f"{what} of {case}" not in files[case]]
      require(
        not missing,
        f"{', '.join(wanted)} of {case} in {root}",
        f"no {', '.join(missing)}",
        "download it again, or pass other modalities",
      )
    chosen = [tuple(files[case][f"{what} of {case}"] for what in wanted) for case in order]
    super().__init__(
      kind,
      root,
      [Scan(case, about[case].subject, kind, about[case].part) for case in order],
      lambda index: _upright(chosen[index]),
      class_names=CLASS_NAMES,
      channel_names=modalities,
      files=digests_of(chosen),
      normalise=options["normalise"],
      spacing=options["spacing"],
      options=options,
    )


def _upright(files: Sequence[Download]) -> tuple[Volume, np.ndarray]:
  """Modalities and mask, each by its own header, which may name other axes in masks."""
  *volumes, mask = (nifti.to_ras(file.read_nifti()) for file in files)
  first = volumes[0]
  for file, volume in zip(files, (*volumes, mask), strict=True):
    check_same_grid(str(files[0]), first, str(file), volume)
  values = np.unique(mask.array)
  require(
    set(values.tolist()) <= {0, 1},
    f"0 and 1 in {files[-1]}",
    f"{values[:5].tolist()}",
    "a lesion mask has two values",
  )
  stacked = np.stack([v.array.reshape(first.space) for v in volumes], -1).astype(np.float32)
  return first._replace(array=stacked), mask.array.reshape(first.space).astype(np.int32)


def mslesseg(
  root: str | os.PathLike,
  *,
  modalities: Sequence[str] = ("FLAIR",),
  spacing: tuple[float | None, float | None, float | None] | None = None,
  normalise: str | Normaliser = "zscore",
) -> LesionSet:
  """MSLesSeg; every time of a person is a case, and its subject is the person.

  Args:
    root: folder that holds train and test, or an archive with them.
    modalities: some of `MSLESSEG_MODALITIES`, the channels.
    spacing: voxel size in mm, None keeps the file's.
    normalise: see `NnUNetFolder`.
  Raises:
    InputError: no cases, a missing file, a modality that the set lacks, a file neither below train
      nor below test.
  """
  root = pathlib.Path(root)
  for modality in modalities:
    one_of("modality", modality, MSLESSEG_MODALITIES)

  def listed() -> Iterator[tuple[_Name, Download]]:
    for download, match in downloads.find(root, MSLESSEG_NAME):
      parts = [folder for folder in _folders(download) if folder in ("train", "test")]
      require(parts, "masks and scans below train or test", str(download), "pass the whole set")
      person, time = match[1].upper(), (match[2] or "").upper()
      yield _Name(person + time, person, parts[-1], match[3].upper()), download

  options = {"spacing": spacing, "normalise": normalise}
  return LesionSet("MSLesSeg", root, listed(), modalities, **options)


def ljubljana(
  root: str | os.PathLike,
  *,
  modalities: Sequence[str] = ("FLAIR",),
  space: Literal["coregistered", "raw"] = "coregistered",
  spacing: tuple[float | None, float | None, float | None] | None = None,
  normalise: str | Normaliser = "zscore",
) -> LesionSet:
  """The cross-sectional set of Ljubljana.

  Args:
    root: folder that holds cross_sectional, or an archive with it.
    modalities: some of `LJUBLJANA_MODALITIES`; T1WKS is after contrast agent.
    space: "coregistered", or "raw", where the modalities have grids of their own.
    spacing: voxel size in mm, None keeps the file's.
    normalise: see `NnUNetFolder`.
  Raises:
    InputError: no cases, a missing file, a modality that the set lacks.
  """
  root = pathlib.Path(root)
  for modality in modalities:
    one_of("modality", modality, LJUBLJANA_MODALITIES)
  one_of("space", space, ("coregistered", "raw"))

  def listed() -> Iterator[tuple[_Name, Download]]:
    for download, match in ljubljana_files(root):
      *_, kind, person = _folders(download)
      if kind == space:
        yield _Name(person, person, "", match[1].upper()), download

  options = {"space": space, "spacing": spacing, "normalise": normalise}
  return LesionSet("Ljubljana", root, listed(), modalities, **options)


def ljubljana_files(root: str | os.PathLike) -> Iterator[tuple[Download, re.Match[str]]]:
  """Scans and masks of people below cross_sectional, in either space."""
  for download, match in downloads.find(root, LJUBLJANA_NAME):
    *above, kind, person = ("", "", *_folders(download))
    is_person = re.fullmatch(r"patient\d+", person) and kind in ("coregistered", "raw")
    if is_person and "cross_sectional" in above:
      yield download, match


def _folders(download: Download) -> list[str]:
  """Folders and archives on the way to a file, in lower case, without .zip."""
  return [name.removesuffix(".zip") for name in download.place.lower().split("/")[:-1]]
