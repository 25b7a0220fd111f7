"""Chest radiographs with many findings each: CheXpert and ChestX-ray14, as they are distributed.

CheXpert (Irvin et al., AAAI 2019; registration), full or small; ROOT holds the tables:

  ROOT/train.csv, ROOT/valid.csv   Path, Sex, Age, Frontal/Lateral, AP/PA and 14 observations: 1
                                   present, 0 absent, -1 uncertain, blank for unmentioned
  ROOT/train/patient00001/study1/view1_frontal.jpg

ChestX-ray14 (Wang et al., CVPR 2017; NIH), its archives unpacked anywhere below ROOT:

  ROOT/Data_Entry_2017*.csv        Image Index, Finding Labels (joined by |), Patient ID, ...
  ROOT/train_val_list.txt, ROOT/test_list.txt
  ROOT/images_001/images/00000001_000.png   or   ROOT/images/00000001_000.png

Labels are [class] int32: 1, 0 or IGNORE. People are the patients of the tables.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax import tables
from medjax.check import InputError, one_of, require
from medjax.data.sets.pictures import Picture, Pictures
from medjax.types import IGNORE

POLICIES = {"ones": 1, "zeros": 0, "ignore": IGNORE}
"""What an uncertain label becomes; "ignore": no loss and no metric may count it."""

CHEXPERT_CLASSES = (
  "No Finding",
  "Enlarged Cardiomediastinum",
  "Cardiomegaly",
  "Lung Opacity",
  "Lung Lesion",
  "Edema",
  "Consolidation",
  "Pneumonia",
  "Atelectasis",
  "Pneumothorax",
  "Pleural Effusion",
  "Pleural Other",
  "Fracture",
  "Support Devices",
)
CHEST_XRAY14_CLASSES = (
  "Atelectasis",
  "Cardiomegaly",
  "Pleural Effusion",  # Effusion in the table
  "Infiltration",
  "Mass",
  "Nodule",
  "Pneumonia",
  "Pneumothorax",
  "Consolidation",
  "Edema",
  "Emphysema",
  "Fibrosis",
  "Pleural Thickening",  # Pleural_Thickening in the table
  "Hernia",
)
MIXED_POLICY: Mapping[str, str] = {
  "Atelectasis": "ones",
  "Edema": "ones",
  "Pleural Effusion": "ones",
  "Cardiomegaly": "zeros",
  "Consolidation": "zeros",
}
"""Uncertain labels of the five classes of CheXpert's competition, as the author of MMTL set them in
an earlier code (github.com/yishayahu/soft_freeze); the paper names no policy."""

_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": None}


class Radiograph(NamedTuple):
  """A row of a table.

  Attributes:
    path: the picture.
    name: path below the root without its ending.
    subject: the patient.
    part: "train", "valid" or "test", "" where the set is not parted.
    views: "frontal" or "lateral", and "AP" or "PA" where it is known.
    findings: class name -> 1, 0, -1 (uncertain) or None (unmentioned).
    where: file and line of the row, for errors.
  """

  path: pathlib.Path
  name: str
  subject: str
  part: str
  views: tuple[str, ...]
  findings: Mapping[str, int | None]
  where: str = ""


class ChestRadiographs(Pictures):
  """A Source of grey pictures [height, width, 1] in [0, 1], read when asked for.

  Attributes:
    rows: rows of the tables, those that were kept.
    parts: part of each case.
  """

  def __init__(
    self,
    kind: str,
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    rows: Sequence[Radiograph],
    *,
    class_names: Sequence[str],
    uncertain: str | Mapping[str, str] = "ignore",
    blank: str = "zeros",
    views: Sequence[str] = ("frontal",),
    size: tuple[int, int] = (224, 224),
    missing: Literal["refuse", "skip"] = "refuse",
  ):
    """Use `chexpert` or `chest_xray14`; `rows` may come from any table like theirs."""
    tables.check_once(((row.name, row.where) for row in rows), "picture")
    one_of("blank", blank, ("zeros", "ignore"))
    known = {name for row in rows[:1] for name in row.findings}
    strangers = [name for name in class_names if name not in known]
    require(
      class_names and not strangers,
      f"classes among {', '.join(sorted(known))}",
      f"{strangers or 'none'}",
      "correct class_names",
    )
    policy = {
      name: uncertain if isinstance(uncertain, str) else uncertain.get(name, "ignore")
      for name in class_names
    }
    for name in policy.values():
      one_of("uncertain", name, POLICIES)
    seen = [row for row in rows if set(views) & set(row.views)]
    require(
      seen,
      f"pictures of the views {', '.join(views)} in {files[0]}",
      f"those of {', '.join(sorted({view for row in rows for view in row.views}))}",
      "pass other views",
    )

    def value(row: Radiograph, name: str) -> int:
      found = row.findings[name]
      if found is None:
        return 0 if blank == "zeros" else IGNORE
      return POLICIES[policy[name]] if found < 0 else found

    super().__init__(
      kind,
      root,
      files,
      [Picture(row.path, row.name, row.subject, row.part, kind, row.where) for row in seen],
      lambda index: np.array([value(seen[index], name) for name in class_names], np.int32),
      class_names=class_names,
      size=size,
      colour=False,
      missing=missing,
      options={"uncertain": uncertain, "blank": blank, "views": views, "size": size},
    )
    self.rows = tuple(seen[i] for i in self._kept)


def chexpert(
  root: str | os.PathLike, *, class_names: Sequence[str] = CHEXPERT_CLASSES, **options: Any
) -> ChestRadiographs:
  """CheXpert, parted into "train" and "valid".

  Args:
    root: folder with train.csv, or the one that holds CheXpert-v1.0 or CheXpert-v1.0-small.
    class_names: classes in the order of the label; `shared_classes` gives those of two sets.
    **options: `uncertain`: a policy, or one for each class such as MIXED_POLICY (default and
      classes not named: "ignore"). `blank`: "zeros" or "ignore" for observations that a report does
      not mention. `views`: any of "frontal", "lateral", "AP", "PA". `size`: height and width in
      pixels, cut around the middle. `missing`: "skip" takes the pictures that are there.
  Raises:
    InputError: no table, other columns or values, unknown classes, no such view, missing pictures.
  """
  root = pathlib.Path(root)
  home = next(
    (f for f in (root, *sorted(root.glob("CheXpert*"))) if (f / "train.csv").is_file()), None
  )
  if home is None:
    raise InputError(
      f"train.csv in {root} or in {root}/CheXpert-v1.0-small",
      "none",
      "pass the folder that the archive unpacks to",
    )
  files = [home / f"{part}.csv" for part in ("train", "valid") if (home / f"{part}.csv").is_file()]
  rows = [row for file in files for row in _chexpert_rows(home, file)]
  return ChestRadiographs("chexpert", home, files, rows, class_names=class_names, **options)


def chest_xray14(
  root: str | os.PathLike, *, class_names: Sequence[str] = CHEST_XRAY14_CLASSES, **options: Any
) -> ChestRadiographs:
  """ChestX-ray14, parted into "train" and "test" where the two lists are there.

  Its labels are never uncertain; all its pictures are frontal. Arguments as for `chexpert`.
  """
  root = pathlib.Path(root)
  files = sorted(root.glob("Data_Entry_2017*.csv"))
  require(
    len(files) == 1,
    f"one table Data_Entry_2017*.csv in {root}",
    ", ".join(t.name for t in files) or "none",
    "pass the folder with NIH's table and the unpacked archives",
  )
  pictures: dict[str, list[pathlib.Path]] = {}
  for path in sorted(root.rglob("*.png")):
    if not path.name.startswith("."):
      pictures.setdefault(path.name, []).append(path)
  part_of: dict[str, str] = {}
  for part, name in (("train", "train_val_list.txt"), ("test", "test_list.txt")):
    if (root / name).is_file():
      files.append(root / name)
      for image in tables.read_lines(root / name):
        require(
          part_of.setdefault(image, part) == part,
          f"pictures in one of the two lists of {root}",
          f"{image} in both",
          "download the lists again",
        )
  rows = list(_chest_xray14_rows(root, files[0], pictures, part_of))
  return ChestRadiographs("chest_xray14", root, files, rows, class_names=class_names, **options)


def shared_classes(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
  """Classes of both sets in the order of the first.

  >>> len(shared_classes(CHEXPERT_CLASSES, CHEST_XRAY14_CLASSES))
  7
  """
  return tuple(name for name in first if name in second)


def _chexpert_rows(home: pathlib.Path, table: pathlib.Path) -> Iterator[Radiograph]:
  for row in tables.read_table(table, ("Path", "Frontal/Lateral", "AP/PA", *CHEXPERT_CLASSES)):
    where, written = row.where, row.filled("Path")
    place = pathlib.PurePosixPath(written)
    if place.parts and place.parts[0].lower().startswith("chexpert"):
      place = place.relative_to(place.parts[0])
    subject = next((part for part in place.parts if part.startswith("patient")), "")
    require(subject, f"a path with patientNNNNN in {where}", repr(written), "correct it")
    findings = {}
    for name in CHEXPERT_CLASSES:
      value = row.text(name)
      require(value in _VALUES, f"1, 0, -1 or nothing for {name} in {where}", value, "correct it")
      findings[name] = _VALUES[value]
    views = (row.text("Frontal/Lateral").lower(), row.text("AP/PA"))
    stem = place.with_suffix("").as_posix()
    yield Radiograph(home / place, stem, subject, table.stem, views, findings, where)


def _chest_xray14_rows(
  root: pathlib.Path,
  table: pathlib.Path,
  pictures: Mapping[str, Sequence[pathlib.Path]],
  part_of: Mapping[str, str],
) -> Iterator[Radiograph]:
  named = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
  columns = ("Image Index", "Finding Labels", "Patient ID", "View Position")
  for row in tables.read_table(table, columns):
    where, image, subject = row.where, row.filled("Image Index"), row.filled("Patient ID")
    present = {named.get(name, name) for name in row.filled("Finding Labels").split("|")}
    strangers = sorted(present - {*CHEST_XRAY14_CLASSES, "No Finding"})
    require(not strangers, f"known findings in {where}", ", ".join(strangers), "correct the table")
    found = pictures.get(image, [root / "images" / image])
    require(
      len(found) == 1,
      f"one picture {image} of {where}",
      " and ".join(map(str, found[:2])),
      "remove the copies, for example thumbnails",
    )
    findings = {name: int(name in present) for name in CHEST_XRAY14_CLASSES}
    views = ("frontal", row.text("View Position"))
    part = part_of.get(image, "")
    stem = pathlib.PurePosixPath(image).stem
    yield Radiograph(found[0], stem, subject, part, views, findings, where)
