"""What a private run must not show: a folder that only its owner may enter, and counts of the rest.

The data manifest of a private run (files, hashes, subjects) lies in private/data.json. On resume it
is compared with the present one as a whole, and of a difference nothing is said but that there is
one.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from medjax import files
from medjax.check import InputError
from medjax.types import Json

FOLDER = "private"
_MANIFEST = "data.json"


def counts(manifest: Mapping[str, Json]) -> dict[str, Json]:
  """What a private run shows of its data manifest: kind, names of classes and channels, counts.

  >>> counts({"kind": "folder", "files": {"p1.png": "0f"}, "subjects": ["p1", "p1"], "size": 8})
  {'kind': 'folder', 'num_files': 1, 'num_cases': 2, 'num_subjects': 1}

  Manifests inside it (of sites or parts) are treated alike, everything else is left out.
  """
  shown: dict[str, Json] = {}
  for key, value in manifest.items():
    if key in ("kind", "class_names", "channel_names"):
      shown[key] = value
    elif key == "files":
      shown["num_files"] = len(value)
    elif key == "subjects":
      shown |= {"num_cases": len(value), "num_subjects": len(set(value))}
    elif isinstance(value, Mapping) and (inner := counts(value)):
      shown[key] = inner
  return shown


def write(path: pathlib.Path, value: Any) -> pathlib.Path:
  """Writes JSON that only the owner may read, in a folder that only they may enter."""
  path.parent.mkdir(mode=0o700, exist_ok=True)
  path.parent.chmod(0o700)
  files.write_json(path, value, mode=0o600)
  return path


def keep(directory: pathlib.Path, manifest: dict[str, Json]) -> None:
  """Keeps the manifest of the run in `directory`."""
  write(directory / FOLDER / _MANIFEST, manifest)


def is_only_kept(directory: pathlib.Path) -> bool:
  """Whether the private folder of `directory` holds a manifest at most, as after `keep`."""
  folder = directory / FOLDER
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else ["no folder"]
  return all(name == _MANIFEST or name.endswith(".tmp") for name in names)


def check_same(directory: pathlib.Path, manifest: dict[str, Json]) -> None:
  """Raises InputError, which names no one, unless `manifest` is the one that was kept."""
  file = directory / FOLDER / _MANIFEST
  if not file.exists():
    raise InputError(
      f"the data manifest of a private run, {file}",
      "nothing there",
      f"bring {FOLDER} back, or pass a new directory with --workdir",
    )
  if files.read_json(file) != manifest:
    raise InputError(
      f"the data that {directory} was started with",
      "others (files, subjects or the way they are read)",
      "bring them back, or pass a new directory with --workdir",
    )
