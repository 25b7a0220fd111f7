"""JSON as every file of a run directory writes it: strict, sorted, atomic."""

import dataclasses
import enum
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


def plain(value: Any) -> Any:
  """`value` as strict JSON knows it: dict, list, str, int, finite float, bool or None.

  Dataclasses become dicts, tuples and arrays lists, sets sorted lists, paths strings, enums their
  names, functions and classes `module.name`. NaN becomes None and infinities "inf" and "-inf",
  which strict JSON lacks.

  >>> plain({"shape": (2, 3), "score": float("nan")})
  {'shape': [2, 3], 'score': None}

  Raises:
    TypeError: a value of another kind; what cannot be written cannot be compared on resume.
  """
  if value is None or isinstance(value, bool | str) and not isinstance(value, enum.Enum):
    return value
  if isinstance(value, enum.Enum):
    return value.name
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, Set):
    return sorted((plain(v) for v in value), key=repr)
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if callable(value):
    return f"{value.__module__}.{value.__qualname__}"
  array = np.asarray(value)
  if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
    raise TypeError(
      f"expected a number, text, list, mapping or dataclass for a JSON file, got"
      f" {type(value).__name__}; convert it before it is written"
    )
  if array.ndim:
    return [plain(v) for v in array.tolist()]
  return _scalar(array.item())


def _scalar(number: Any) -> Any:
  if not isinstance(number, float) or math.isfinite(number):
    return number
  return None if math.isnan(number) else ("inf" if number > 0 else "-inf")


def number(value: Any) -> Any:
  """Undoes `plain` for a number: None is NaN, "inf" and "-inf" are the infinities."""
  if value is None:
    return math.nan
  return _INFINITIES.get(value, value) if isinstance(value, str) else value


def line(value: Mapping[str, Any]) -> str:
  """`value` on one line, keys in their order."""
  return json.dumps(plain(value), allow_nan=False)


def write(path: str | os.PathLike, value: Any) -> None:
  """Writes `value` to `path`: sorted keys, two spaces; whole or not at all."""
  write_text(path, json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n")


def read(path: str | os.PathLike) -> Any:
  return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes `text` to `path` as UTF-8; see `write_bytes`."""
  write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes `content` to `path` through a synced temporary file beside it and a rename.

  Guarantees: a reader, or a process killed at any moment, finds the old file or the new one.
  """
  path = pathlib.Path(path)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise
