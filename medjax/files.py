"""Files that appear whole or not at all, and JSON as every file of a run directory writes it."""

import contextlib
import dataclasses
import enum
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np

from medjax.types import Json

_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


def plain(value: Any, *, name_classes: bool = False) -> Any:
  """`value` as strict JSON knows it: dict, list, str, int, finite float, bool or None.

  Dataclasses become dicts, tuples and arrays lists, sets sorted lists, paths strings, enums their
  names, functions and classes `module.name`. NaN becomes None and infinities "inf" and "-inf",
  which strict JSON lacks. With `name_classes` the dict of a dataclass has its class under "type",
  so that two settings of one kind with the same fields differ.

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
    kind = {"type": type(value).__qualname__} if name_classes else {}
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return kind | {k: plain(v, name_classes=name_classes) for k, v in fields.items()}
  if isinstance(value, Mapping):
    return {str(k): plain(v, name_classes=name_classes) for k, v in value.items()}
  if isinstance(value, Set):
    return sorted((plain(v, name_classes=name_classes) for v in value), key=repr)
  if isinstance(value, list | tuple):
    return [plain(v, name_classes=name_classes) for v in value]
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if callable(value):
    named = value if hasattr(value, "__qualname__") else type(value)  # a functools.partial has none
    return f"{named.__module__}.{named.__qualname__}"
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


def line(value: Mapping[str, Json]) -> str:
  """`value` on one line, keys in their order."""
  return json.dumps(plain(value), allow_nan=False)


def write_json(path: str | os.PathLike, value: Any, *, mode: int = 0o644) -> None:
  """Writes `value` to `path`: strict JSON, sorted keys, two spaces; see `replacing`."""
  text = json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False)
  write_text(path, text + "\n", mode=mode)


def read_json(path: str | os.PathLike) -> Any:
  """What a JSON file holds, in JSON's own types."""
  return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_text(path: str | os.PathLike, text: str, *, mode: int = 0o644) -> None:
  """Writes `text` to `path` as UTF-8, line ends as they are; see `replacing`."""
  write_bytes(path, text.encode(), mode=mode)


def write_bytes(path: str | os.PathLike, content: bytes, *, mode: int = 0o644) -> None:
  """Writes `content` to `path`; see `replacing`."""
  with replacing(path, mode=mode) as temporary:
    temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(
  path: str | os.PathLike, *, suffix: str = "", mode: int = 0o644
) -> Iterator[pathlib.Path]:
  """Gives the path of a new empty file, which takes the place of `path` when the block ends.

  The file lies beside `path` and only its owner may read it until it is complete. An exception
  removes it and leaves `path` as it was.

  Args:
    path: the file to make or to replace.
    suffix: how the name of the temporary file must end, for libraries that choose a format by it.
    mode: permissions of the finished file.
  Guarantees: a reader, or a process killed at any moment, finds the old file or the whole new one;
    after the block the new one is on the disk, also if the power fails.
  """
  path = pathlib.Path(path)
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".tmp{suffix}")
  os.close(handle)
  temporary = pathlib.Path(name)
  try:
    yield temporary
    temporary.chmod(mode)
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def _sync(path: pathlib.Path) -> None:
  """Waits until the disk holds a file, or the names in a folder."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
