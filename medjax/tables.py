"""Tables of cells separated by commas, the one reader of CSV files for every room.

A wrong cell in a table is a wrong label, so nothing is guessed: a row with fewer or more cells than
the header is refused, as is a file in another encoding than UTF-8, and every error names the file
and the line.
"""

import csv
import io
import math
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from medjax.check import InputError, existing_file, require

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
  """A line of a table.

  Attributes:
    where: "line 3 of FILE", for errors.
    cells: column -> text as in the file.
  """

  where: str
  cells: dict[str, str]

  def text(self, column: str) -> str:
    """The cell without spaces around it."""
    return self.cells[column].strip()

  def filled(self, column: str) -> str:
    """As `text`; raises InputError where nothing is written."""
    text = self.text(column)
    require(text, f"a value of {column!r} in {self.where}", "an empty cell", "fill it in")
    return text

  def whole(self, column: str, *, least: int | None = None) -> int:
    """The cell as a whole number; "3" and "3.0" are 3.

    Raises:
      InputError: text, a fraction, infinity, NaN, or a number below `least`.
    """
    value = self.number(column)
    lowest = "" if least is None else f" from {least}"
    require(
      value == math.floor(value) and (least is None or value >= least),
      f"a whole number{lowest} as {column!r} in {self.where}",
      repr(self.text(column)),
      "correct the cell",
    )
    return int(value)

  def number(self, column: str) -> float:
    """The cell as a finite number; raises InputError for anything else."""
    text = self.text(column)
    try:
      value = float(text)
    except ValueError:
      value = math.nan
    require(
      math.isfinite(value),
      f"a finite number as {column!r} in {self.where}",
      repr(text),
      "correct the cell",
    )
    return value


def read_table(path: str | os.PathLike, columns: Sequence[str] = ()) -> list[Line]:
  """All rows of a CSV file with a header line; empty lines are passed over.

  Args:
    path: UTF-8, with or without a byte order mark, separated by commas.
    columns: names that the header must have; it may have others.
  Returns:
    One `Line` for each line, with the cells of all columns of the header.
  Raises:
    InputError: naming the file, and the line where there is one: no such file, another encoding,
      no header, a column that is missing or stands there twice, a row of another length.
  """
  path = pathlib.Path(path)
  lines = csv.reader(io.StringIO(_decoded(path), newline=""), strict=True)
  rows: list[Line] = []
  try:
    header = next(lines, [])
    _check_header(path, header, columns)
    for cells in lines:
      if not cells:
        continue
      where = f"line {lines.line_num} of {path}"
      require(
        len(cells) == len(header),
        f"{len(header)} cells in {where}",
        f"{len(cells)}",
        "complete the row, and put cells that hold a comma into quotes",
      )
      rows.append(Line(where, dict(zip(header, cells, strict=True))))
  except csv.Error as error:
    raise InputError(
      f"a table in {path}", f"an error in line {lines.line_num} ({error})", "correct the quotes"
    ) from error
  return rows


def read_lines(path: str | os.PathLike) -> list[str]:
  """Lines of a UTF-8 file that hold anything, without spaces around them: a list of names."""
  return [line.strip() for line in _decoded(pathlib.Path(path)).splitlines() if line.strip()]


def check_once(rows: Iterable[tuple[str, str]], what: str) -> None:
  """Refuses a key that stands in two places: which of the two is right nobody can know.

  Args:
    rows: (key, where it stands): a line of a table, or a file.
    what: what the key names, for the error.
  Raises:
    InputError: naming the key and both places.
  """
  seen: dict[str, str] = {}
  for key, where in rows:
    require(
      key not in seen, f"one place for {what} {key!r}", f"{seen.get(key)} and {where}", "remove one"
    )
    seen[key] = where


def _decoded(path: pathlib.Path) -> str:
  existing_file(path)
  try:
    content = path.read_bytes()
  except OSError as error:
    raise InputError(f"a readable file {path}", f"{error.strerror}", "check its rights") from error
  try:
    text = content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    kind = "UTF-16" if content.startswith(_UTF16) else f"a byte {content[error.start]:#04x}"
    line = content[: error.start].count(b"\n") + 1
    raise InputError(
      f"UTF-8 text in {path}", f"{kind} in line {line}", "save the table as CSV in UTF-8"
    ) from error
  require("\0" not in text, f"text in {path}", "a zero byte", "save the table as CSV in UTF-8")
  return text


def _check_header(path: pathlib.Path, header: Sequence[str], columns: Sequence[str]) -> None:
  require(header, f"a header line in {path}", "an empty file", "copy it again")
  missing = [name for name in columns if name not in header]
  only = f"; its first line is {','.join(header)[:60]!r}" if len(header) == 1 else ""
  require(
    not missing,
    f"columns {', '.join(columns)} in {path}",
    f"none named {', '.join(missing)}{only}",
    "give the table as it is distributed, separated by commas",
  )
  twice = sorted({name for name in header if header.count(name) > 1 and name})
  require(
    not twice, f"columns of different names in {path}", f"two of {', '.join(twice)}", "rename one"
  )
