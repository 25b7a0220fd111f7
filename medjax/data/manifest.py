"""What a run directory records about its data: digests of files and arrays, subjects, options.

SHA-256 runs at 1 to 2 GB/s and 2,000 small files take 0.05 s (measured), so that reading the files
is the cost; digests are computed anew each time and never trusted from a time stamp.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

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
  options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
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
    "options": _plain(options or {}),
  }


def _plain(value: Any) -> Any:
  """The value in JSON's own types; functions by their name, settings with their fields."""
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  if isinstance(value, np.generic):
    return value.item()
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {"type": type(value).__qualname__, **_plain(dataclasses.asdict(value))}
  if callable(value):
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
  return value
