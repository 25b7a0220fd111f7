"""Every reader by name: which layout it expects, how to recognise it, how to open it."""

import inspect
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from medjax.check import InputError, one_of, require
from medjax.data.formats.nifti import SUFFIXES
from medjax.data.sets import cc359, chest, downloads, mnms, ms_sets, prepared, prostate, record_info
from medjax.data.sets.class_folders import ENDINGS, PARTS, ClassFolders, kermany
from medjax.data.sets.combine import concat
from medjax.data.sets.labelmaps import LabelMapFolder
from medjax.data.sets.medmnist import MedMNIST
from medjax.data.sets.nnunet import NnUNetFolder
from medjax.data.sets.pictures import picture_table
from medjax.types import Source


class Reader(NamedTuple):
  """How one kind of data is read.

  Attributes:
    what: the data, in a line.
    layout: the files it expects, a line each.
    fits: `fits(path)`, whether a file or folder looks like it.
    open: `open(path, **options) -> Source`.
  """

  what: str
  layout: tuple[str, ...]
  fits: Callable[[pathlib.Path], bool]
  open: Callable[..., Source]


def nnunet_sites(root: pathlib.Path, **options: Any) -> Source:
  """nnU-Net folders side by side, each a site."""
  sites = {path.name: path for path in sorted(root.iterdir()) if (path / "dataset.json").is_file()}
  return concat({site: NnUNetFolder(path, **options) for site, path in sites.items()})


def _all_of_medmnist(path: pathlib.Path, *, split: str = "all", **options: Any) -> MedMNIST:
  """All parts as published, unless one is asked for."""
  return MedMNIST(path, split=split, **options)


def _names(path: pathlib.Path) -> Iterator[str]:
  return (child.name for child in path.iterdir()) if path.is_dir() else iter(())


def _has(path: pathlib.Path, *patterns: str) -> bool:
  return path.is_dir() and any(next(path.glob(pattern), None) for pattern in patterns)


def _is_kermany(path: pathlib.Path) -> bool:
  return _has(path, "*/PNEUMONIA") and _has(path, "*/NORMAL")


def _has_pictures(path: pathlib.Path) -> bool:
  below = [path, *(path / part for part in PARTS)]
  folders = [folder for root in below if root.is_dir() for folder in root.iterdir()]
  return any(name.lower().endswith(ENDINGS) for folder in folders for name in _names(folder))


def _holds(pattern: str) -> Callable[[pathlib.Path], bool]:
  def fits(path: pathlib.Path) -> bool:
    return path.is_dir() and next(downloads.find(path, pattern), None) is not None

  return fits


READERS: dict[str, Reader] = {
  "prepared": Reader(
    "a set that `prepare` wrote",
    ("medjax.json, dataset_info.json, NAME-train.array_record-00000-of-00001, ...",),
    lambda path: (path / record_info.INFO).is_file(),
    prepared.Prepared,
  ),
  "nnunet": Reader(
    "nnU-Net v2 folder",
    ("dataset.json", "imagesTr/NAME_0000.nii.gz or .png", "labelsTr/NAME.nii.gz"),
    lambda path: (path / "dataset.json").is_file(),
    NnUNetFolder,
  ),
  "nnunet_sites": Reader(
    "several sites, an nnU-Net folder each",
    ("SITE/dataset.json", "SITE/imagesTr/...", "SITE/labelsTr/..."),
    lambda path: _has(path, "*/dataset.json"),
    nnunet_sites,
  ),
  "chexpert": Reader(
    "CheXpert: chest radiographs with 14 observations",
    ("train.csv, valid.csv", "train/patient00001/study1/view1_frontal.jpg"),
    lambda path: _has(path, "train.csv", "CheXpert*/train.csv"),
    chest.chexpert,
  ),
  "chest_xray14": Reader(
    "ChestX-ray14: chest radiographs with 14 findings",
    ("Data_Entry_2017*.csv", "train_val_list.txt, test_list.txt", "**/00000001_000.png"),
    lambda path: _has(path, "Data_Entry_2017*.csv"),
    chest.chest_xray14,
  ),
  "mnms": Reader(
    "M&Ms: short-axis cine of the heart from four vendors",
    ("*.csv with VendorName", "**/CODE/CODE_sa.nii.gz, CODE_sa_gt.nii.gz"),
    lambda path: _has(path, "*.csv") and _has(path, "**/*_sa.nii.gz"),
    mnms.MnMs,
  ),
  "cc359": Reader(
    "CC359: heads in T1 from six scanners, brain masks",
    (
      "Original.zip or **/CC0030_philips_15_42_F.nii.gz",
      "Silver-standard-machine-learning.zip or **/CC0030_philips_15_42_F_ss.nii.gz",
    ),
    _holds(cc359.NAME),
    cc359.CC359,
  ),
  "prostate": Reader(
    "prostates in T2 from six sites",
    (
      "RUNMC/Case00.nii.gz, RUNMC/Case00_segmentation.nii.gz",
      "BMC, I2CVB, UCL, BIDMC, HK alike, zipped or not, capitals as you like",
    ),
    _holds(prostate.NAME),
    prostate.ProstateSites,
  ),
  "mslesseg": Reader(
    "MSLesSeg: heads with MS lesions from Catania",
    (
      "train/P1/T1/P1_T1_FLAIR.nii.gz, .._T1, .._T2, .._MASK, zipped or not",
      "test/P54/P54_FLAIR.nii.gz, ...",
    ),
    _holds(ms_sets.MSLESSEG_NAME),
    ms_sets.mslesseg,
  ),
  "ljubljana": Reader(
    "heads with MS lesions from Ljubljana, cross-sectional part",
    (
      "cross_sectional/coregistered/patient01/FLAIR.nii.gz, T1W, T1WKS, T2W, zipped or not",
      "cross_sectional/coregistered/patient01/consensus_gt.nii.gz",
    ),
    lambda path: path.is_dir() and next(ms_sets.ljubljana_files(path), None) is not None,
    ms_sets.ljubljana,
  ),
  "medmnist": Reader(
    "MedMNIST file, 2D or 3D, of classes or of several findings",
    ("NAME.npz with train_images, train_labels, val_*, test_*",),
    lambda path: path.suffix == ".npz",
    _all_of_medmnist,
  ),
  "picture_table": Reader(
    "pictures that a table lists, with findings of 0 and 1 or a class",
    ("NAME.csv with the columns image, ...; pass findings= or label=",),
    lambda path: path.suffix.lower() == ".csv",
    picture_table,
  ),
  "kermany": Reader(
    "chest radiographs of Kermany et al.",
    ("train/NORMAL/*.jpeg, train/PNEUMONIA/*.jpeg", "test/..."),
    _is_kermany,
    kermany,
  ),
  "class_folders": Reader(
    "pictures, a folder for each class",
    ("CLASS/*.png or .jpg", "or train/CLASS/*, val/CLASS/*, test/CLASS/*"),
    _has_pictures,
    ClassFolders,
  ),
  "label_maps": Reader(
    "label maps without images",
    ("NAME.nii.gz",),
    lambda path: any(name.lower().endswith(SUFFIXES) for name in _names(path)),
    LabelMapFolder,
  ),
}
"""In the order in which they are tried."""


def recognise(path: str | os.PathLike) -> str:
  """Name of the first reader whose layout this looks like.

  Raises:
    InputError: nothing there, or no reader's layout.
  """
  path = pathlib.Path(path)
  require(path.exists(), f"a file or folder {path}", "nothing there", "check the path")
  for name, reader in READERS.items():
    if reader.fits(path):
      return name
  raise InputError(
    f"one of the layouts of {', '.join(READERS)} in {path}",
    ", ".join(sorted(_names(path))[:5]) or "an empty folder",
    "see `python -m medjax.data list`",
  )


def open_source(path: str | os.PathLike, kind: str = "", **options: Any) -> Source:
  """The Source of a file or folder.

  Args:
    path: as the reader's layout says.
    kind: a name of READERS; "" recognises it.
    **options: of the reader (`spacing`, `normalise`, `size`, `subject_pattern`, ...).
  Raises:
    InputError: an unknown kind, options that the reader lacks, and what the reader refuses.
  """
  kind = kind or recognise(path)
  one_of("kind", kind, READERS)
  reader = READERS[kind]
  known = _options(reader.open)
  strangers = sorted(set(options) - known)
  require(
    not strangers,
    f"options of the reader {kind}: {', '.join(sorted(known)) or 'none'}",
    ", ".join(strangers),
    "leave them out",
  )
  return reader.open(pathlib.Path(path), **options)


def takes(kind: str, option: str) -> bool:
  """Whether the reader of this name has an option."""
  one_of("kind", kind, READERS)
  return option in _options(READERS[kind].open)


def _options(function: Callable[..., Any]) -> set[str]:
  """Keyword-only arguments; those of the class where a function passes its own on."""
  function = {nnunet_sites: NnUNetFolder, _all_of_medmnist: MedMNIST}.get(function, function)
  parameters = inspect.signature(function).parameters.values()
  names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
  if function in (chest.chexpert, chest.chest_xray14):
    names |= _options(chest.ChestRadiographs)
  return names
