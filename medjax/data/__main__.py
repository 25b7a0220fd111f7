"""Your images before you train on them: which layouts are read, what is in them, made ready once.

  python -m medjax.data list
  python -m medjax.data inspect FOLDER [--output PAGES]
  python -m medjax.data prepare FOLDER --output PREPARED [--name cc359] [--spacing 1 0.95 0.95]

`list` says which layouts there are. `inspect` prints, for each site, people, shapes, voxel sizes,
intensities and labels, and writes report.html with a picture of each and summary.json. `prepare`
writes ArrayRecord files, which TFDS and `medjax.data.Prepared` read, with splits over people and
digests, and goes on where it was stopped; `inspect` on such a folder checks the digests.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from medjax import cli, files
from medjax.check import InputError, require
from medjax.data.people import inspection
from medjax.data.people.inspection import SiteSummary
from medjax.data.sets import readers
from medjax.data.sets.prepared import Prepared, prepare
from medjax.train import Report
from medjax.train.progress import counted
from medjax.types import Source


@dataclasses.dataclass(frozen=True)
class Config:
  action: cli.Positional[Literal["list", "inspect", "prepare"]]
  """What to do."""
  folder: cli.Positional[pathlib.Path | None] = None
  """Folder, or file, with the data."""
  output: pathlib.Path | None = None
  """inspect: folder for report.html and summary.json, NAME-inspected if None. prepare: folder for
  all prepared sets."""
  kind: str = ""
  """Name of the reader, see list; recognised from the files if empty."""
  name: str = ""
  """prepare: of the set; the kind if empty."""
  spacing: tuple[float, ...] = ()
  """Voxel size to resample to, mm, one an axis; that of the files if not given."""
  normalise: str = ""
  """Of each image: zscore, percentile, minmax, none, ...; the reader's own if empty."""
  size: tuple[int, ...] = ()
  """Height and width of pictures in pixels; the reader's own if not given."""
  colour: Literal["auto", "yes", "no"] = "auto"
  """Read pictures in three channels or in grey; auto: in three where any of them is in colour."""
  findings: tuple[str, ...] = ()
  """Columns of a table of pictures with 1, 0 and -1, one a finding."""
  label: str = ""
  """Column of a table of pictures with the name of the class."""
  subject: str = ""
  """Column of a table of pictures with the person."""
  part: str = ""
  """Column of a table of pictures with the part as published."""
  subject_pattern: str = ""
  """Regular expression whose one group finds the person in a case's name."""
  cases: int | None = None
  """inspect: read at most so many cases a site."""
  seed: int = 0
  """prepare: of the splits."""


def run(config: Config) -> None:
  if config.action == "list":
    print("\n".join(_listing()))
    return
  if config.folder is None:
    raise InputError(f"{config.action} FOLDER", "no folder", "name the folder with the data")
  kind = config.kind or readers.recognise(config.folder)
  given = {name: getattr(config, name) for name in _OPTIONS if getattr(config, name)}
  if config.colour != "auto":
    given["colour"] = config.colour == "yes"
  if config.action == "inspect" and readers.takes(kind, "normalise"):
    given.setdefault("normalise", "none")  # what is shown are the values of the files
  source = readers.open_source(config.folder, kind, **given)
  if config.action == "inspect":
    _inspect(config, config.folder, kind, source)
    return
  require(config.output is not None, "--output FOLDER", "none", "say where the sets are to be")
  assert config.output is not None
  target = prepare(
    source,
    config.output,
    name=config.name or kind,
    seed=config.seed,
    progress=lambda names: counted(names, "preparing", enabled=len(names) > 1),
  )
  ready = Prepared(target)
  counts = ", ".join(f"{len(ready.indices(p))} {p}" for p in dict.fromkeys(ready.parts))
  print(f'{len(ready)} cases ({counts}) in {target}; read them with data.Prepared("{target}")')


_CLASSES_SAID = 15
_OPTIONS = ("spacing", "normalise", "size", "subject_pattern")
_OPTIONS += ("findings", "label", "subject", "part")


def _listing() -> list[str]:
  lines = []
  for name, reader in readers.READERS.items():
    lines += [f"{name}: {reader.what}", *(f"    {line}" for line in reader.layout)]
  return lines


def _inspect(config: Config, folder: pathlib.Path, kind: str, source: Source) -> None:
  if isinstance(source, Prepared):
    source.check()
  sites = inspection.inspect(
    source,
    most=config.cases,
    progress=lambda names: counted(names, "reading", enabled=len(names) > 1),
  )
  output = config.output or pathlib.Path(f"{folder.resolve().stem}-inspected")
  output.mkdir(parents=True, exist_ok=True)
  rows = [
    {k: v for k, v in vars(site).items() if k != "shown"} | {"shown": site.shown.name}
    for site in sites
  ]
  content = {"kind": kind, "manifest": source.manifest(), "sites": rows}
  files.write_json(output / "summary.json", content)
  _page(folder, kind, source, sites).write(output / "report.html")
  cells = [list(map(str, row)) for row in (_HEADER, *(_row(site) for site in sites))]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  print(f"{kind}: {_counted(source)}")
  for row in cells:
    print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
  for line in _label_lines(sites):
    print(line)
  print(f"see {output / 'report.html'}")


def _counted(source: Source) -> str:
  """How many cases and people, where anybody knows."""
  if inspection.knows_people(source):
    return f"{len(source)} cases of {len(set(source.subjects))} people"
  return f"{len(source)} cases of unknown people"


_HEADER = ("site", "cases", "people", "read", "shape", "spacing, mm", "values", "unknown")


def _row(site: SiteSummary) -> list[Any]:
  values = "-" if site.intensities is None else " ".join(f"{v:.4g}" for v in site.intensities)
  return [
    site.name or "-",
    site.cases,
    "?" if site.people is None else site.people,
    site.read,
    _range(site.shapes),
    _range(site.spacings),
    values,
    f"{100 * site.unknown:.3g} %",
  ]


def _range(ends: tuple[tuple, tuple]) -> str:
  """ "4x6x5", or "4..8x6x5" for an axis that differs."""
  pairs = zip(*ends, strict=True)
  return "x".join(f"{a:.4g}" if a == b else f"{a:.4g}..{b:.4g}" for a, b in pairs)


def _label_lines(sites: Sequence[SiteSummary]) -> list[str]:
  """Class, cases that have it and its mean share, a line a site."""
  lines = []
  for site in sites:
    held = [f"{name} {n} ({100 * site.share[name]:.3g} %)" for name, n in site.present.items()]
    if held:
      rest = [f"... ({len(held)} in all)"] if len(held) > _CLASSES_SAID else []
      lines.append(f"{site.name or 'classes'}: {', '.join(held[:_CLASSES_SAID] + rest)}")
  return lines


def _page(folder: pathlib.Path, kind: str, source: Source, sites: Sequence[SiteSummary]) -> Report:
  page = Report(
    folder.resolve().name,
    f"{_counted(source)}, read as {kind}.",
  )
  page.section("Sites").table(
    _HEADER,
    [_row(site) for site in sites],
    "shape and spacing: smallest..largest of the cases read. values: smallest, typical median and"
    " largest intensity as the reader gives them. unknown: labels that nothing may count.",
  )
  if source.class_names:
    rows = [
      [site.name or "-", name, n, 100 * site.share[name]]
      for site in sites
      for name, n in site.present.items()
    ]
    page.section("Labels").table(
      ["site", "class", "cases with it", "mean share, %"],
      rows,
      "Share of the known voxels of a case, or of the cases where a case has classes.",
    )
  pictures = [inspection.middle(site.shown) for site in sites]
  captions = [f"{site.name or kind}: {site.shown.name}" for site in sites]
  page.section("Pictures").overlay(
    [image for image, _ in pictures],
    captions,
    class_names=source.class_names if any(label is not None for _, label in pictures) else (),
    outlines=[label for _, label in pictures],
    caption="Of the cases read, the one with most foreground, cut where it is largest.",
  )
  return page


if __name__ == "__main__":
  cli.command(Config, run, __doc__, prog="python -m medjax.data")
