"""Pictures in a folder for each class, among them the chest radiographs of Kermany et al.

  ROOT/{train,val,test}/CLASS/*.jpeg    or    ROOT/CLASS/*.jpeg

Kermany et al. (Cell 2018; Mendeley Data rscbjbr9sj): 5,232 pictures to train on and 624 to test, in
NORMAL and PNEUMONIA. The layout was checked on listings in public repositories. File names:

  version 2, and Kaggle's copy, which has 16 of the training pictures in val/:
    IM-0115-0001, NORMAL2-IM-0173-0001-0002    normal; the number after IM is the child's
    person1946_bacteria_4874, person124_virus_231    pneumonia; the number after person is the
    child's, bacteria and viruses counting their pictures apart
  version 3: NORMAL-1003233-0001, BACTERIA-1008087-0001, VIRUS-...; the first number is the child's

In version 2 about 170 person numbers stand in train and in test. In the listings such a pair always
was a bacterial picture here and a viral one there, each series being parted at some number: the two
series seem to number different children. No one has confirmed it, so by default one number is one
child: whoever is in test is left out of train, and the test set stays the published one.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax.check import InputError, existing_folder, one_of, require
from medjax.data import manifest
from medjax.data.formats import png
from medjax.data.people.parts import indices_of_part
from medjax.data.people.subjects import subjects_of
from medjax.types import Example, Json

PARTS = ("train", "val", "test")
"""A subject of two parts belongs to the later one."""

ENDINGS = (".jpeg", ".jpg", ".png")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "YCbCr", "CMYK")  # 8 bits a channel


class Identity(NamedTuple):
  """What a file's place and name say.

  Attributes:
    part: one of PARTS, "" where the pictures are not parted.
    class_name: its class.
    subject: the person, "" if unknown.
  """

  part: str
  class_name: str
  subject: str


class ClassFolders:
  """A Source over all parts of a tree of pictures, so that subjects agree between them.

  Images are [height, width, channel] float32 in [0, 1], labels 0-d int32. Pictures with identical
  pixels share a subject, whatever their names say; one without a known person has the digest of its
  pixels as its subject.

  Attributes:
    names: path below the root without ending, sorted; examples stand in this order.
    parts: part of each case, "" where the pictures are not parted.
    knows_people: whether file names say who is who; if not, subjects are digests of pixels.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    size: tuple[int, int] = (64, 64),
    colour: bool | None = None,
    identify: Callable[[Identity, str], Identity] | None = None,
    class_names: Sequence[str] | None = None,
    subject_pattern: str | None = None,
  ):
    """Reads all pictures into memory (as uint8), cut to the shape of `size` around their middle.

    Args:
      root: folder that holds train, val and test, or the class folders.
      size: height and width in pixels.
      colour: True for three channels, False for grey; None: three if any picture is in colour.
      identify: `identify(identity, stem)` gives the identity of a file; `identity` holds its part
        and class folder, and no subject. None takes it as it is.
      class_names: classes in the order of their ids, also such as have no picture here: pass those
        of the training set, and an id means one class in both. None takes the names of the class
        folders, sorted, empty ones too.
      subject_pattern: regular expression with one group that finds the person in a case's name.
    Raises:
      InputError: no such folder, no classes or pictures, a picture of another class, two pictures
        of one name, a damaged file or one of another kind.
    """
    self.root = pathlib.Path(root)
    existing_folder(self.root)
    require(min(size) > 0, "size as (height, width) above 0", f"{size=}", "pass (64, 64)")
    require(
      identify is None or subject_pattern is None,
      "identify or subject_pattern",
      "both",
      "let identify find the person",
    )
    found, folders = _find(self.root)
    self._paths = [path for path, _ in found]
    if identify is not None:
      found = [(path, identify(identity, path.stem)) for path, identity in found]
      folders = {identity.class_name for _, identity in found}
    self.class_names: tuple[str, ...] = tuple(
      sorted(folders) if class_names is None else class_names
    )
    strangers = sorted({identity.class_name for _, identity in found} - set(self.class_names))
    require(
      not strangers and len(set(self.class_names)) == len(self.class_names) > 1,
      f"pictures of two or more classes, {', '.join(self.class_names)}, in {self.root}",
      f"others: {', '.join(strangers)}" if strangers else f"{len(self.class_names)}",
      "correct class_names, or check the path",
    )
    if colour is None:
      colour = any(is_colour(path) for path in self._paths)
    self.channel_names: tuple[str, ...] = ("R", "G", "B") if colour else ("grey",)
    self.names = tuple(p.relative_to(self.root).with_suffix("").as_posix() for p in self._paths)
    _check_names(self.names, self._paths)
    self.parts = tuple(identity.part for _, identity in found)
    self._labels = [self.class_names.index(identity.class_name) for _, identity in found]
    self._images = [read_picture(path, size, colour) for path in self._paths]
    people = [identity.subject for _, identity in found]
    if subject_pattern is not None:
      people = list(subjects_of(self.names, subject_pattern))
    self.knows_people = all(people)
    self.subjects = _subjects(people, self._images)
    self.domains = ("",) * len(self.names)
    self._options: dict[str, Any] = {"size": size, "colour": colour, "identify": identify}
    if subject_pattern is not None:
      self._options["subject_pattern"] = subject_pattern

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=self._images[index].astype(np.float32) / np.float32(255),
      label=np.asarray(self._labels[index], np.int32),
      spacing=(1.0, 1.0),
    )

  def indices(self, part: str) -> tuple[int, ...]:
    """Cases of a part, without those whose subject is in a later part too."""
    return indices_of_part(part, self.parts, self.subjects, PARTS)

  def num_left_out(self, part: str) -> int:
    """How many cases of a part `indices` leaves out."""
    return self.parts.count(part) - len(self.indices(part))

  def manifest(self) -> dict[str, Json]:
    return manifest.describe(
      "class_folders",
      root=self.root,
      files=manifest.file_digests(self.root, self._paths),
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options=self._options,
    )


def kermany(
  root: str | os.PathLike,
  *,
  num_classes: Literal[2, 3] = 2,
  size: tuple[int, int] = (64, 64),
  persons: Literal["number", "series"] = "number",
) -> ClassFolders:
  """The chest radiographs of Kermany et al., parted into "train" (with val/) and "test".

  Args:
    root: folder that holds train and test.
    num_classes: NORMAL and PNEUMONIA, or NORMAL, BACTERIA and VIRUS.
    size: height and width in pixels.
    persons: "number": person12 is one child; "series": bacteria and viruses number children apart.
  Raises:
    InputError: as `ClassFolders`; a file name that is none of the set's, or in the wrong folder.
  """
  one_of("num_classes", num_classes, (2, 3))
  one_of("persons", persons, ("number", "series"))
  names = ("NORMAL", "PNEUMONIA") if num_classes == 2 else ("NORMAL", "BACTERIA", "VIRUS")
  return ClassFolders(
    root,
    size=size,
    colour=False,
    identify=KermanyNames(num_classes, persons),
    class_names=names,
  )


@dataclasses.dataclass(frozen=True)
class KermanyNames:
  """`identify` for the set of Kermany et al.; see `kermany`.

  >>> KermanyNames(3, "series")(Identity("val", "PNEUMONIA", ""), "person1946_bacteria_4874")
  Identity(part='train', class_name='BACTERIA', subject='person1946-bacteria')
  """

  num_classes: Literal[2, 3]
  persons: Literal["number", "series"]

  def __call__(self, identity: Identity, stem: str) -> Identity:
    if match := re.fullmatch(r"(person\d+)_(bacteria|virus)_\d+", stem):
      person, kind = match[1], match[2].upper()
      subject = person if self.persons == "number" else f"{person}-{match[2]}"
    elif match := re.fullmatch(r"((?:NORMAL2-)?IM-\d+)(-\d+)+", stem):
      subject, kind = match[1], "NORMAL"
    elif match := re.fullmatch(r"(NORMAL|BACTERIA|VIRUS)-(\d+)-\d+", stem):
      subject, kind = f"patient{match[2]}", match[1]
    else:
      raise InputError(
        "names like IM-0115-0001, person1_bacteria_1 or BACTERIA-1008087-0001 of Kermany's set",
        repr(stem),
        "read other folders with ClassFolders",
      )
    folder = "NORMAL" if kind == "NORMAL" else "PNEUMONIA"
    require(
      identity.class_name == folder,
      f"{stem} in {folder}",
      f"it in {identity.class_name}",
      "move the file back",
    )
    part = "train" if identity.part == "val" else identity.part
    return Identity(part, kind if self.num_classes == 3 else folder, subject)


def _find(root: pathlib.Path) -> tuple[list[tuple[pathlib.Path, Identity]], set[str]]:
  """Every picture with its part and class folder, and the names of all class folders."""
  parts = [part for part in PARTS if (root / part).is_dir()] or [""]
  found, folders = [], set()
  for part in parts:
    for folder in _visible(root / part):
      if folder.is_dir():
        folders.add(folder.name)
        pictures = [p for p in _visible(folder) if p.suffix.lower() in ENDINGS]
        found += [(path, Identity(part, folder.name, "")) for path in pictures]
  require(
    found,
    f"pictures ({', '.join(ENDINGS)}) in {root}/CLASS or {root}/train/CLASS",
    "none",
    "pass the folder that holds train and test, or the class folders",
  )
  return sorted(found), folders


def _check_names(names: Sequence[str], paths: Sequence[pathlib.Path]) -> None:
  """Two pictures that differ in their ending alone would be one case."""
  first: dict[str, pathlib.Path] = {}
  for name, path in zip(names, paths, strict=True):
    other = first.setdefault(name, path)
    require(other is path, f"one picture {name}", f"{other} and {path}", "remove or rename one")


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  """Without .DS_Store, ._copies and __MACOSX, which archives from other machines bring along."""
  return [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]


def is_colour(path: pathlib.Path) -> bool:
  """Whether the header of a picture says that it is in colour, whatever its pixels are."""
  from PIL import Image

  with png.readable(path, "picture"), Image.open(path) as image:
    return image.mode not in ("1", "L", "LA", "I", "I;16", "I;16B", "F")


def read_picture(path: pathlib.Path, size: tuple[int, int], colour: bool) -> np.ndarray:
  """[height, width, channel] uint8."""
  from PIL import Image, ImageOps

  mode = "RGB" if colour else "L"
  with png.readable(path, "picture"), Image.open(path) as image:
    kind = image.mode
    # JPEG decodes at 1/2, 1/4 or 1/8 of its size far faster; half of what is left is averaged.
    image.draft(mode if kind in ("L", "RGB") else kind, (2 * max(size), 2 * max(size)))
    picture = ImageOps.exif_transpose(image).convert(mode)
  require(kind in _MODES, f"8 bits a channel in {path}", f"mode {kind}", "convert it")
  height, width = size
  array = np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR))
  return array if colour else array[..., None]


def _subjects(named: Sequence[str], images: Sequence[np.ndarray]) -> tuple[str, ...]:
  """Subject of each picture; subjects with an identical picture become the first of them."""
  same_as: dict[str, str] = {}

  def first(subject: str) -> str:
    while subject in same_as:
      subject = same_as[subject]
    return subject

  owner: dict[str, str] = {}
  subjects = []
  for name, image in zip(named, images, strict=True):
    digest = manifest.array_digest(image)
    subject = name or digest
    subjects.append(subject)
    if image.min() < image.max():  # a blank picture is nobody's
      one, other = first(owner.setdefault(digest, subject)), first(subject)
      if one != other:
        same_as[other] = one
  return tuple(first(subject) for subject in subjects)
