"""metrics.jsonl: one JSON object a log step, shared by the runs of a directory."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from medjax import files
from medjax.types import Json

FILE = "metrics.jsonl"


@runtime_checkable
class Writer(Protocol):
  """Where the rows of a run go beside metrics.jsonl: TensorBoard, wandb, your own."""

  def write(self, run: str, step: int, values: Mapping[str, Json], /) -> None:
    """One row: numbers (NaN for nothing to measure) by name after `step` steps of `run`."""
    ...

  def close(self) -> None: ...


LogRow = dict[str, Json]
"""{"run": name, "step": steps done, metric: number, "evaluator/metric": number, ...}"""


def read_rows(path: str | os.PathLike, *, run: str | None = None) -> list[LogRow]:
  """Rows of `path` in file order, of the run `run` if given; [] where there is no file.

  Numbers come back as they were written: null is NaN. A last line cut off by a crash is dropped.

  Raises:
    ValueError: a line before the last one is not JSON; the file was edited.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  lines = path.read_bytes().split(b"\n")
  rows = []
  for position, text in enumerate(lines):
    if position == len(lines) - 1:  # empty after a complete line, half a row after a crash
      break
    try:
      row = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(
        f"expected one JSON object a line in {path}, got {text[:60]!r} on line {position + 1};"
        " remove that line"
      ) from error
    rows.append({k: v if k == "run" else files.number(v) for k, v in row.items()})
  return [row for row in rows if run is None or row["run"] == run]


def truncate_rows(path: str | os.PathLike, *, run: str, step: int) -> list[LogRow]:
  """Removes the rows of `run` past `step`, rewriting the file atomically; returns those kept.

  Rows of other runs stay; a half-written last line goes.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  kept = [row for row in read_rows(path) if row["run"] != run or row["step"] <= step]
  text = "".join(files.line(row) + "\n" for row in kept)
  if text.encode() != path.read_bytes():
    files.write_text(path, text)
  return [row for row in kept if row["run"] == run]


class MetricsWriter:
  """Appends the rows of one run; use as a context manager.

  Args:
    path: the metrics.jsonl; its folder exists, and any half-written last line was truncated.
    run: name of the run, first field of every row.
  """

  def __init__(self, path: str | os.PathLike, run: str):
    self._run = run
    self._file = open(path, "a", encoding="utf-8", newline="\n")

  def write(self, step: int, values: Mapping[str, Json]) -> None:
    """Appends a row and hands it to the operating system: it survives the end of this process."""
    self._file.write(files.line({"run": self._run, "step": step, **values}) + "\n")
    self._file.flush()

  def sync(self) -> None:
    """Waits until the rows are on the disk; called before a checkpoint that relies on them."""
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    self._file.close()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
