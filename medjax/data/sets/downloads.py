"""Files as they were downloaded: below a folder, unpacked or still in zip archives.

Names are compared without regard to case. What archives from other machines bring along (__MACOSX,
._names, .DS_Store) is passed over. A file that is both unpacked and in an archive is read from the
folder.
"""

import dataclasses
import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator

from medjax.check import InputError, existing_folder
from medjax.data.formats import nifti
from medjax.data.formats.volume import Volume
from medjax.data.manifest import file_digest


@dataclasses.dataclass(frozen=True)
class Download:
  """A file, or a member of an archive.

  Attributes:
    path: the file, or the archive that holds it.
    member: name inside the archive, "" for a file.
    place: path below the root with forward slashes, the archive's name counting as a folder.
  """

  path: pathlib.Path
  member: str
  place: str

  @property
  def name(self) -> str:
    return self.place.rpartition("/")[2]

  def __str__(self) -> str:
    return f"{self.path}:{self.member}" if self.member else str(self.path)

  def read_nifti(self) -> Volume:
    """As `nifti.read_nifti`; a member of an archive is unpacked to a temporary file first."""
    if not self.member:
      return nifti.read_nifti(self.path)
    with tempfile.TemporaryDirectory(prefix="medjax-") as folder:
      path = pathlib.Path(folder) / self.name
      try:
        with zipfile.ZipFile(self.path) as archive:
          path.write_bytes(archive.read(self.member))
        return nifti.read_nifti(path)
      except (InputError, zipfile.BadZipFile, OSError, EOFError) as error:
        reason = " ".join(str(error).replace(str(path), "it").split())
        raise InputError(f"a readable {self}", reason, "download the archive again") from error


def find(root: str | os.PathLike, pattern: str) -> Iterator[tuple[Download, re.Match[str]]]:
  """Files whose name `pattern` matches whole, in any case: unpacked ones first, each by place.

  Raises:
    InputError: no such folder, a damaged archive.
  """
  compiled = re.compile(pattern, re.IGNORECASE)
  for download in _all(pathlib.Path(root)):
    if match := compiled.fullmatch(download.name):
      yield download, match


def digests(downloads: Iterable[Download]) -> dict[str, str]:
  """Digests by place; an archive is read once and stands for its members."""
  places = {}
  for download in downloads:
    depth = len(download.member.split("/")) if download.member else 0
    place = "/".join(download.place.split("/")[: -depth or None])
    places[place] = download.path
  return {place: file_digest(path) for place, path in sorted(places.items())}


def _all(root: pathlib.Path) -> list[Download]:
  existing_folder(root)
  found = {}
  for path in sorted(root.rglob("*")):
    place = path.relative_to(root).as_posix()
    if _is_hidden(place) or not path.is_file():
      continue
    found[place] = Download(path, "", place)
    if path.suffix.lower() == ".zip":
      for member in _members(path):
        inside = f"{place}/{member}"
        found[inside] = Download(path, member, inside)
  return sorted(found.values(), key=lambda download: (download.member != "", download.place))


def _members(path: pathlib.Path) -> list[str]:
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  except (zipfile.BadZipFile, OSError) as error:
    raise InputError(
      f"a readable archive {path}", f"a damaged one ({error})", "download it again"
    ) from error
  return [name for name in names if not name.endswith("/") and not _is_hidden(name)]


def _is_hidden(place: str) -> bool:
  return any(part.startswith((".", "__")) for part in place.split("/"))
