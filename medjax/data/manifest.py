"""What a run directory records about its data: digests of files and arrays, subjects, options.

SHA-256 runs at 1 to 2 GB/s and 2,000 small files take 0.05 s (measured), so that reading the files
is the cost; digests are computed anew each time and never trusted from a time stamp.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from medjax.files import plain
from medjax.types import Json

_DIGITS = 16


def file_digest(path: str | os.PathLike) -> str:
  """First 16 hex digits of the SHA-256 of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def array_digest(array: np.ndarray) -> str:
  """First 16 hex digits of the SHA-256 of an array's type, shape and values."""
  digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
  digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()[:_DIGITS]


def file_digests(root: str | os.PathLike, paths: Iterable[str | os.PathLike]) -> dict[str, str]:
  """Digest of each file, by its path relative to `root` with forward slashes."""
  root = pathlib.Path(root)
  return {
    pathlib.Path(path).relative_to(root).as_posix(): file_digest(path)
    for path in sorted(map(pathlib.Path, paths))
  }


def describe(
  kind: str,
  *,
  class_names: Sequence[str],
  channel_names: Sequence[str],
  subjects: Sequence[str],
  root: str | os.PathLike | None = None,
  files: Mapping[str, str] | None = None,
  options: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
  """The JSON-able manifest of a source.

  `root` keeps only its last part: the same data at another place gives the same manifest.
  """
  return {
    "kind": kind,
    "root": "" if root is None else pathlib.Path(root).resolve().name,
    "files": dict(files or {}),
    "subjects": list(subjects),
    "class_names": list(class_names),
    "channel_names": list(channel_names),
    "options": plain(options or {}, name_classes=True),
  }
