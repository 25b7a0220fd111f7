"""The M&Ms challenge: short-axis cine of the heart from four vendors, as it is distributed.

Campello et al., "Multi-Centre, Multi-Vendor and Multi-Disease Cardiac Segmentation: The M&Ms
Challenge", IEEE Transactions on Medical Imaging 2021. The files need a registration:

  ROOT/*.csv                                External code, VendorName, Vendor, Centre, ED, ES, ...
  ROOT/Training/Labeled/A0S9V9/A0S9V9_sa.nii.gz       [x, y, slice, frame]
  ROOT/Training/Labeled/A0S9V9/A0S9V9_sa_gt.nii.gz    0 background, 1 LV, 2 MYO, 3 RV

Only the frames ED and ES (end of diastole and of systole, counted from 0) have labels.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from medjax import tables
from medjax.check import existing_folder, one_of, require, same_shape
from medjax.data import manifest
from medjax.data.formats import labels, nifti
from medjax.data.formats.volume import Volume, check_same_grid
from medjax.data.normalise import NORMALISERS, Normaliser
from medjax.data.sets.scans import Scan, ScanSet

CLASS_NAMES = ("background", "LV", "MYO", "RV")
COLUMNS = ("External code", "VendorName", "Vendor", "Centre", "ED", "ES")
_IMAGE, _LABEL = "_sa.nii.gz", "_sa_gt.nii.gz"


class Patient(NamedTuple):
  """A row of the information file; `ed` and `es` count frames from 0."""

  code: str
  vendor_name: str
  vendor: str
  centre: str
  ed: int
  es: int


class Frame(NamedTuple):
  """A case: one patient at one time; `phase` is "ED", "ES", or "" for other frames."""

  code: str
  phase: str
  time: int


def read_info(path: str | os.PathLike) -> dict[str, Patient]:
  """Patients by their external code; other columns than `COLUMNS` are ignored.

  Raises:
    InputError: naming the file, and the line or the columns that are missing.
  """
  rows = tables.read_table(path, COLUMNS)
  tables.check_once(((row.filled("External code"), row.where) for row in rows), "patient")
  require(rows, f"patients in {path}", "none", "download the information file again")
  patients = {}
  for row in rows:
    code = row.filled("External code")
    patients[code] = Patient(
      code,
      row.text("VendorName"),
      row.filled("Vendor"),
      row.text("Centre"),
      row.whole("ED", least=0),
      row.whole("ES", least=0),
    )
  return patients


class MnMs(ScanSet):
  """A Source of the annotated frames, or of all frames without labels, one volume a case.

  Images are [x, y, slice, 1] float32 on the grid and with the axes of the file, so that axis 2 goes
  from slice to slice; labels [x, y, slice] class ids. Cases are named CODE_ED and CODE_ES, or
  CODE_t07; `domain` is the vendor's letter.

  Attributes:
    patients: rows of the information file, by code.
    frames: one a case.
    names: names of the cases.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    part: str = "",
    vendors: Sequence[str] | None = None,
    frames: Literal["annotated", "all"] = "annotated",
    info: str | os.PathLike | None = None,
    normalise: str | Normaliser = "none",
  ):
    """Lists the patients.

    Args:
      root: folder with the patients' folders at any depth.
      part: folder below `root` to look in, for example "Training/Labeled"; "" takes all.
      vendors: letters to keep, for example ("A", "B"); None takes all.
      frames: "annotated": ED and ES with their labels; "all": every frame and no label, a pool of
        styles.
      info: the information file; None takes the one .csv in `root`.
      normalise: a name of `normalise.NORMALISERS` or a function, applied to each volume.
    Raises:
      InputError: no patients, one that the information file lacks, no label file. Reading a case
        raises it for a frame that the file does not have, a label on another grid or outside 0..3,
        and what `nifti.read_nifti` refuses.
    """
    one_of("frames", frames, ("annotated", "all"))
    if isinstance(normalise, str):
      one_of("normalise", normalise, NORMALISERS)
    root = pathlib.Path(root)
    self.info = _the_csv(root) if info is None else pathlib.Path(info)
    self.patients = read_info(self.info)
    self._images = self._find(root / part, vendors)
    self._last: tuple[pathlib.Path, Volume] | None = None
    if frames == "annotated":
      self._check_labels()
    self.frames = tuple(
      frame for code, path in self._images.items() for frame in self._frames(code, path, frames)
    )
    super().__init__(
      "mnms",
      root,
      [
        Scan(f"{f.code}_{f.phase or f't{f.time:02d}'}", f.code, self.patients[f.code].vendor)
        for f in self.frames
      ],
      self._frame,
      class_names=CLASS_NAMES if frames == "annotated" else (),
      channel_names=("cine MR",),
      files=self._digests,
      normalise=normalise,
      options={"part": part, "vendors": vendors, "frames": frames, "normalise": normalise},
    )

  def _frame(self, index: int) -> tuple[Volume, np.ndarray | None]:
    frame = self.frames[index]
    path = self._images[frame.code]
    whole = self._cine(path)
    require(
      frame.time < whole.array.shape[3],
      f"a frame {frame.time} in {path}",
      f"{whole.array.shape[3]} frames",
      f"correct {frame.phase} of {frame.code} in {self.info.name}; frames count from 0",
    )
    label = self._label(frame, path, whole) if self.class_names else None
    return whole._replace(array=whole.array[..., frame.time, None]), label

  def _digests(self) -> dict[str, str]:
    paths = list(self._images.values())
    if self.class_names:
      paths += [_label_path(path) for path in paths]
    info = {self.info.name: manifest.file_digest(self.info)}
    return manifest.file_digests(self.root, paths) | info

  def _find(self, folder: pathlib.Path, vendors: Sequence[str] | None) -> dict[str, pathlib.Path]:
    existing_folder(folder, "check the path and `part`")
    found: dict[str, pathlib.Path] = {}
    for path in sorted(folder.rglob(f"*{_IMAGE}")):
      code = path.name.removesuffix(_IMAGE)
      require(
        code in self.patients,
        f"a line for {code} in {self.info}",
        "none",
        "add it or move the file",
      )
      require(
        code not in found, f"one file for {code}", f"{found.get(code)} and {path}", "move one"
      )
      if vendors is None or self.patients[code].vendor in vendors:
        found[code] = path
    known = sorted({patient.vendor for patient in self.patients.values()})
    require(
      found,
      f"files CODE{_IMAGE} in {folder}" + (f" of vendors {', '.join(vendors)}" if vendors else ""),
      "none",
      f"check the path; the vendors in {self.info.name} are {', '.join(known)}",
    )
    return found

  def _check_labels(self) -> None:
    missing = [str(_label_path(p)) for p in self._images.values() if not _label_path(p).is_file()]
    require(
      not missing,
      "a label file for each patient",
      f"{len(missing)} missing: {', '.join(missing[:3])}",
      'pass part="Training/Labeled", or frames="all" for images alone',
    )

  def _frames(self, code: str, path: pathlib.Path, frames: str) -> list[Frame]:
    patient = self.patients[code]
    phase_of = {patient.ed: "ED", patient.es: "ES"}
    if frames == "annotated":
      return [Frame(code, "ED", patient.ed), Frame(code, "ES", patient.es)]
    shape = nifti.read_shape(path)
    count = shape[3] if len(shape) == 4 else 1
    return [Frame(code, phase_of.get(time, ""), time) for time in range(count)]

  def _cine(self, path: pathlib.Path) -> Volume:
    """The whole cine; the last one is kept, so that reading in order decodes each file once."""
    if self._last is None or self._last[0] != path:
      volume = nifti.read_nifti(path)
      if volume.array.ndim == 3:
        volume = volume._replace(array=volume.array[..., None])
      self._last = (path, volume)
    return self._last[1]

  def _label(self, frame: Frame, path: pathlib.Path, image: Volume) -> np.ndarray:
    where = _label_path(path)
    volume = nifti.read_nifti(where)
    if volume.array.ndim == 3:
      volume = volume._replace(array=volume.array[..., None])
    check_same_grid(str(path), image, str(where), volume)
    same_shape(str(path), image.array.shape, str(where), volume.array.shape)
    raw = labels.whole_numbers(volume.array[..., frame.time], str(where))
    return labels.class_ids(raw, tuple(range(len(CLASS_NAMES))), str(where))


def _label_path(image: pathlib.Path) -> pathlib.Path:
  return image.with_name(image.name.removesuffix(_IMAGE) + _LABEL)


def _the_csv(root: pathlib.Path) -> pathlib.Path:
  found = sorted(root.glob("*.csv")) if root.is_dir() else []
  names = ", ".join(path.name for path in found) or "none"
  require(len(found) == 1, f"one information file *.csv in {root}", names, "pass info=FILE")
  return found[0]
