"""Pictures that a table lists: the reader under the chest sets, and any table of your own.

  image,patient,part,edema,fracture
  scans/0001.png,p17,train,1,0

`picture_table("films.csv", findings=("edema", "fracture"), subject="patient", part="part")` is a
Source of such a table. Pictures are read when asked for, cut around their middle to one size.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from medjax import tables
from medjax.check import one_of, require
from medjax.data import manifest
from medjax.data.sets import class_folders
from medjax.types import IGNORE, Example, Json

_FINDINGS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": IGNORE, "-1.0": IGNORE}


class Picture(NamedTuple):
  """What a row of a table says of a picture.

  Attributes:
    path: the file.
    name: of the case.
    subject: the person.
    part: part of the set as published, "" where it has none.
    domain: site or scanner.
    where: file and line, for errors.
  """

  path: pathlib.Path
  name: str
  subject: str
  part: str
  domain: str
  where: str


class Pictures:
  """A Source of pictures [height, width, channel] float32 in [0, 1] with labels from tables.

  Attributes:
    pictures: a row each.
    names, parts: of each case.
  """

  class_names: tuple[str, ...]
  channel_names: tuple[str, ...]

  def __init__(
    self,
    kind: str,
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    pictures: Sequence[Picture],
    label: Callable[[int], np.ndarray],
    *,
    class_names: Sequence[str],
    size: tuple[int, int],
    colour: bool,
    missing: Literal["refuse", "skip"] = "refuse",
    knows_people: bool = True,
    options: Mapping[str, object],
  ):
    """Lists the cases.

    Args:
      kind: name of the set.
      root: folder that holds it.
      files: the tables, whose digests the manifest holds.
      pictures: one a case.
      label: `label(index)` of a row of `pictures`, 0-d or [class] int32.
      class_names: of the class ids, or of the findings.
      size: height and width in pixels.
      colour: three channels; else grey.
      missing: "refuse" pictures that are not there, or "skip" their rows.
      knows_people: False where subjects are not people but cases.
      options: of the reader, for the manifest.
    Raises:
      InputError: a picture in two rows, no picture at all, missing ones.
    """
    one_of("missing", missing, ("refuse", "skip"))
    require(min(size) > 0, "size as (height, width) above 0", f"{size=}", "pass (224, 224)")
    tables.check_once(((picture.name, picture.where) for picture in pictures), "picture")
    kept = [i for i, picture in enumerate(pictures) if picture.path.is_file()]
    absent = [picture.name for picture in pictures if not picture.path.is_file()]
    require(
      kept and (missing == "skip" or not absent),
      f"the {len(pictures)} pictures of {files[0]} below {root}",
      f"{len(absent)} missing, the first {''.join(absent[:1])}",
      'unpack all archives, or pass missing="skip"',
    )
    self.root, self._kind, self._tables = root, kind, tuple(files)
    self.pictures = tuple(pictures[i] for i in kept)
    self.class_names = tuple(class_names)
    self.channel_names = ("R", "G", "B") if colour else ("grey",)
    self.names = tuple(picture.name for picture in self.pictures)
    self.subjects = tuple(picture.subject for picture in self.pictures)
    self.parts = tuple(picture.part for picture in self.pictures)
    self.domains = tuple(picture.domain for picture in self.pictures)
    self.knows_people = knows_people
    self._kept, self._label, self._size, self._colour = kept, label, size, colour
    self._options = dict(options)

  def __len__(self) -> int:
    return len(self.pictures)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    pixels = class_folders.read_picture(self.pictures[index].path, self._size, self._colour)
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=pixels.astype(np.float32) / np.float32(255),
      label=self.label(index),
      spacing=(1.0, 1.0),
      domain=self.domains[index],
    )

  def label(self, index: int) -> np.ndarray:
    """Label of a case; reads no picture."""
    return self._label(self._kept[index])

  def indices(self, part: str) -> tuple[int, ...]:
    """Cases of a part of the set as published."""
    one_of("part", part, sorted(set(self.parts)))
    return tuple(i for i, own in enumerate(self.parts) if own == part)

  def manifest(self) -> dict[str, Json]:
    """Digests of the tables, and of the names and sizes of the pictures (they may be 45 GB)."""
    listed = "".join(f"{p.name} {p.path.stat().st_size}\n" for p in self.pictures)
    pictures = {"number": len(self), "sha256": hashlib.sha256(listed.encode()).hexdigest()[:16]}
    return manifest.describe(
      self._kind,
      root=self.root,
      files=manifest.file_digests(self.root, self._tables),
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options={**self._options, "pictures": pictures},
    )


def picture_table(
  path: str | os.PathLike,
  *,
  findings: Sequence[str] = (),
  label: str = "",
  class_names: Sequence[str] | None = None,
  image: str = "image",
  subject: str = "",
  part: str = "",
  domain: str = "",
  blank: Literal["refuse", "zeros", "ignore"] = "refuse",
  size: tuple[int, int] = (224, 224),
  colour: bool | None = None,
  missing: Literal["refuse", "skip"] = "refuse",
) -> Pictures:
  """A Source of the pictures that a CSV file lists.

  Args:
    path: the table; pictures lie below its folder.
    findings: columns of 1 (present), 0 (absent) and -1 (uncertain, becomes IGNORE), whose labels
      are [finding]. Either these or `label`.
    label: column with the name of the class.
    class_names: classes of `label` in the order of their ids; None takes the names, sorted.
    image: column with the picture's path below the table's folder.
    subject: column with the person; "" where nobody knows, each picture is then a person.
    part: column with the part of the set as published ("train", "test", ...), "" if it has none.
    domain: column with the site or scanner.
    blank: what an empty cell of a finding is: an error, 0, or IGNORE.
    size: height and width in pixels.
    colour: three channels or grey; None: three if any picture is in colour.
    missing: "skip" takes the pictures that are there.
  Raises:
    InputError: columns or cells of another kind, by file and line; see `Pictures`.
  """
  path = pathlib.Path(path)
  one_of("blank", blank, ("refuse", "zeros", "ignore"))
  wanted = [name for name in (image, *findings, label, subject, part, domain) if name]
  rows = tables.read_table(path, wanted)
  require(rows, f"pictures in {path}", "none", "check the table")
  require(
    bool(findings) != bool(label),
    "findings=(COLUMN, ...) or label=COLUMN",
    "both" if findings else f"neither, of the columns {', '.join(rows[0].cells)}",
    "name the columns that hold the labels",
  )
  listed = []
  for row in rows:
    place = pathlib.PurePosixPath(row.filled(image))
    name = place.with_suffix("").as_posix()
    listed.append(
      Picture(
        path.parent / place,
        name,
        row.filled(subject) if subject else name,
        row.filled(part) if part else "",
        row.text(domain) if domain else "",
        row.where,
      )
    )
  if findings:
    values = np.array([[_finding(row, name, blank) for name in findings] for row in rows], np.int32)
    names: Sequence[str] = findings
  else:
    written = [row.filled(label) for row in rows]
    names = sorted(set(written)) if class_names is None else class_names
    for row, name in zip(rows, written, strict=True):
      require(name in names, f"a class among {', '.join(names)} in {row.where}", name, "correct it")
    values = np.array([list(names).index(name) for name in written], np.int32)
  if colour is None:
    colour = any(class_folders.is_colour(p.path) for p in listed if p.path.is_file())
  options = {"image": image, "findings": findings, "label": label, "subject": subject}
  options |= {"part": part, "domain": domain, "blank": blank, "size": size, "colour": colour}
  return Pictures(
    "picture_table",
    path.parent,
    [path],
    listed,
    lambda index: values[index].copy() if findings else np.asarray(values[index]),
    class_names=names,
    size=size,
    colour=colour,
    missing=missing,
    knows_people=bool(subject),
    options=options,
  )


def _finding(row: tables.Line, name: str, blank: str) -> int:
  text = row.text(name)
  if not text and blank != "refuse":
    return 0 if blank == "zeros" else IGNORE
  require(
    text in _FINDINGS,
    f"1, 0 or -1 for {name} in {row.where}",
    repr(text),
    'correct it; pass blank="zeros" or "ignore" if empty cells are meant',
  )
  return _FINDINGS[text]
