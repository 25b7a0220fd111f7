"""The studies of this folder, read from their docstrings and from the records of their runs.

Nothing is imported and nothing is kept by hand: a study is a module whose docstring has a command
`python -m experiments.NAME PRESET`, and what follows the command says what the preset does and how
long it takes.
"""

import ast
import pathlib
import re
from typing import Any, NamedTuple

from medjax import files

ROOT = pathlib.Path(__file__).parent
RECORDS = ROOT / "records"
_COMMAND = re.compile(r"^  python -m experiments\.(\w+) ([\w |]+)")
_PAPER = re.compile(r'[A-Z][^."]*(?: et al\.)?[^."]*, ?"[^"]+"[^.:;]*\d{4}\)?')
_TIME = re.compile(r"(?:about )?\b((?:\d+|an?) (?:minutes?|hours?|seconds?))")


class Study(NamedTuple):
  """A study as its docstring has it.

  Attributes:
    name: as in `python -m experiments.NAME`.
    title: first line of the docstring.
    paper: authors, title and year; "" of a study that tests no paper.
    presets: name -> how long it takes on 2 CPU cores, "" where that is not said.
    verdicts: verdict -> how many rows of the records have it.
  """

  name: str
  title: str
  paper: str
  presets: dict[str, str]
  verdicts: dict[str, int]


def studies() -> list[Study]:
  """All of them, by name."""
  found = []
  for path in sorted(ROOT.iterdir()):
    modules = [path] if path.suffix == ".py" else [path / "__init__.py", path / "__main__.py"]
    for module in (module for module in modules if module.is_file()):
      doc = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")), clean=False) or ""
      presets = presets_of(doc, path.stem)
      if presets:
        paper = _PAPER.search(re.sub(r"\s+", " ", doc.partition("\n")[2]))
        title = doc.partition("\n")[0].strip()
        verdicts = _counts(record for _, record in records(path.stem))
        cited = paper[0].removeprefix("Paper: ").strip() if paper else ""
        found.append(Study(path.stem, title, cited, presets, verdicts))
        break
  return found


def presets_of(doc: str, name: str) -> dict[str, str]:
  """Presets whose commands stand in a docstring, and their times.

  >>> presets_of('''What it does.
  ...
  ...   python -m experiments.toy demo        small pictures; about 3 minutes
  ...   python -m experiments.toy all | none  the rest, for as long
  ...                                         as 2 hours
  ... ''', "toy")
  {'demo': '3 minutes', 'all': '2 hours', 'none': '2 hours'}
  """
  found: dict[str, str] = {}
  names: list[str] = []
  text = ""
  for line in [*doc.splitlines(), ""]:
    command = _COMMAND.match(line)
    if command is None and line.startswith("    ") and names:
      text += " " + line.strip()
      continue
    time = _TIME.search(text)
    for preset in names:  # of several commands of a preset the first that says a time counts
      found[preset] = found.get(preset) or (time[1] if time else "")
    names, text = [], ""
    if command is not None and command[1] == name:
      words = re.split(r"\s{2,}| --", line[command.start(2) :])[0]
      names = [word.strip() for word in words.split("|")]
      text = line[command.start(2) + len(words) :]
  return found


def records(name: str) -> list[tuple[str, dict[str, Any]]]:
  """(file name without its ending, content) of the records of a study."""
  found = []
  for path in sorted(RECORDS.glob("*.json")):
    record = files.read_json(path)
    own = record.get("command") or record.get("commands") or ""
    if f"experiments.{name} " in f"{own} ":
      found.append((path.stem, record))
  return found


def verdict_rows(value: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
  """(where it stands, row) of every verdict in a record.

  >>> verdict_rows({"a": {"b": [{"verdict": "better", "arm": "ours"}]}})
  [('a/b', {'verdict': 'better', 'arm': 'ours'})]
  """
  if isinstance(value, dict):
    if "verdict" in value:
      return [(path, value)]
    parts = [(f"{path}/{key}" if path else key, part) for key, part in value.items()]
  elif isinstance(value, list):
    parts = [(path, part) for part in value]
  else:
    return []
  return [row for where, part in parts for row in verdict_rows(part, where)]


def _counts(found: Any) -> dict[str, int]:
  words = [row["verdict"] for record in found for _, row in verdict_rows(record)]
  return {word: words.count(word) for word in ("better", "worse", "undecided") if word in words}


def text(found: list[Study]) -> str:
  """The list as it is printed: a paragraph a study."""
  paragraphs = []
  for study in found:
    presets = ", ".join(
      f"{name} ({time})" if time else name for name, time in study.presets.items()
    )
    lines = [f"{study.name}: {study.title}"]
    lines += [f"  paper: {study.paper}"] if study.paper else []
    lines.append(f"  presets: {presets}")
    said = ", ".join(f"{number} {word}" for word, number in study.verdicts.items())
    lines.append(f"  verdicts in records: {said or 'none'}")
    paragraphs.append("\n".join(lines))
  return "\n\n".join([*paragraphs, "Run one with: python -m experiments.NAME PRESET [--help]"])
