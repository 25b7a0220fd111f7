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

from medjax.check import InputError, one_of, require
from medjax.data import manifest
from medjax.types import Example

PARTS = ("train", "val", "test")
"""A subject of two parts belongs to the later one."""

_ENDINGS = (".jpeg", ".jpg", ".png")
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
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    size: tuple[int, int] = (64, 64),
    colour: bool = False,
    identify: Callable[[Identity, str], Identity] | None = None,
    class_names: Sequence[str] | None = None,
  ):
    """Reads all pictures into memory (as uint8), cut to the shape of `size` around their middle.

    Args:
      root: folder that holds train, val and test, or the class folders.
      size: height and width in pixels.
      colour: three channels; otherwise grey.
      identify: `identify(identity, stem)` gives the identity of a file; `identity` holds its part
        and class folder, and no subject. None takes it as it is.
      class_names: classes in the order of their ids; None takes the names, sorted.
    Raises:
      InputError: no such folder, no classes or pictures, a damaged file or one of another kind.
    """
    self.root = pathlib.Path(root)
    require(self.root.is_dir(), f"a folder {self.root}", "nothing there", "check the path")
    require(min(size) > 0, "size as (height, width) above 0", f"{size=}", "pass (64, 64)")
    found = _find(self.root)
    self._paths = [path for path, _ in found]
    if identify is not None:
      found = [(path, identify(identity, path.stem)) for path, identity in found]
    present = sorted({identity.class_name for _, identity in found})
    self.class_names: tuple[str, ...] = tuple(present if class_names is None else class_names)
    require(
      sorted(self.class_names) == present and len(present) > 1,
      f"pictures of the classes {', '.join(self.class_names)}, two or more, in {self.root}",
      f"those of {', '.join(present)}",
      "check the path",
    )
    self.channel_names: tuple[str, ...] = ("R", "G", "B") if colour else ("grey",)
    self.names = tuple(p.relative_to(self.root).with_suffix("").as_posix() for p in self._paths)
    self.parts = tuple(identity.part for _, identity in found)
    self._labels = [self.class_names.index(identity.class_name) for _, identity in found]
    self._images = [read_picture(path, size, colour) for path in self._paths]
    self.subjects = _subjects([identity.subject for _, identity in found], self._images)
    self.domains = ("",) * len(self.names)
    self._options = {"size": size, "colour": colour, "identify": identify}

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
    return manifest.indices_of_part(part, self.parts, self.subjects, PARTS)

  def num_left_out(self, part: str) -> int:
    """How many cases of a part `indices` leaves out."""
    return self.parts.count(part) - len(self.indices(part))

  def manifest(self) -> dict[str, Any]:
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
    root, size=size, identify=KermanyNames(num_classes, persons), class_names=names
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


def _find(root: pathlib.Path) -> list[tuple[pathlib.Path, Identity]]:
  """Every picture with its part and class folder."""
  parts = [part for part in PARTS if (root / part).is_dir()] or [""]
  found = []
  for part in parts:
    for folder in _visible(root / part):
      if folder.is_dir():
        pictures = [p for p in _visible(folder) if p.suffix.lower() in _ENDINGS]
        found += [(path, Identity(part, folder.name, "")) for path in pictures]
  require(
    found,
    f"pictures ({', '.join(_ENDINGS)}) in {root}/CLASS or {root}/train/CLASS",
    "none",
    "pass the folder that holds train and test, or the class folders",
  )
  return sorted(found)


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  """Without .DS_Store, ._copies and __MACOSX, which archives from other machines bring along."""
  return [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]


def read_picture(path: pathlib.Path, size: tuple[int, int], colour: bool) -> np.ndarray:
  """[height, width, channel] uint8."""
  from PIL import Image, ImageOps, UnidentifiedImageError

  mode = "RGB" if colour else "L"
  try:
    with Image.open(path) as image:
      kind = image.mode
      # JPEG decodes at 1/2, 1/4 or 1/8 of its size far faster; half of what is left is averaged.
      image.draft(mode if kind in ("L", "RGB") else kind, (2 * max(size), 2 * max(size)))
      picture = ImageOps.exif_transpose(image).convert(mode)
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
    reason = " ".join(str(error).split())[:120]
    raise InputError(
      f"a readable picture {path}", f"a damaged one ({reason})", "copy it again"
    ) from error
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
