"""report.html: what ran and what came out, on one page that needs no other file."""

import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax import check, files
from medjax.train import figures, page
from medjax.types import Json


class Report:
  """A page built from top to bottom; every method but `write` returns the report.

  All texts are plain text and are escaped. Floats in tables have four significant digits, those of
  a column of numbers as many decimals as the one that needs most; NaN and None are a dash.

  >>> report = Report("Demo", "One table.").section("Scores")
  >>> report = report.table(["arm", "Dice"], [["plain", 0.81234]], "Mean over subjects.")
  >>> "0.8123" in report.html()
  True

  Args:
    title: heading of the page.
    lead: one or two sentences that say what ran and what came out.
  """

  def __init__(self, title: str, lead: str = ""):
    self._title, self._lead = title, lead
    self._sections: list[tuple[str, list[str]]] = []
    self._num_curves = 0

  def section(self, title: str, text: str | None = None) -> "Report":
    """Starts a section, which the contents at the top link to; empty lines in `text` part it."""
    self._sections.append((title, []))
    for paragraph in (text or "").split("\n\n"):
      if paragraph.strip():
        self._add(f"<p>{page.text(paragraph.strip())}</p>")
    return self

  def note(self, text: str) -> "Report":
    """A remark set apart."""
    return self._add(f'<p class="note">{page.text(text)}</p>')

  def items(self, texts: Sequence[str]) -> "Report":
    """A list, a line each."""
    lines = "".join(f"<li>{page.text(text)}</li>" for text in texts)
    return self._add(f"<ul>{lines}</ul>")

  def table(
    self, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = ""
  ) -> "Report":
    """A table; columns that hold only numbers stand to the right.

    Raises:
      InputError: a row is not as long as the header.
    """
    for row in rows:
      check.require(
        len(row) == len(header),
        f"rows of {len(header)} cells",
        f"one of {len(row)}: {list(row)!r}",
        "give every column of the header a cell",
      )
    is_number = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    marks = [' class="number"' if number else "" for number in is_number]
    head = "".join(
      f'<th scope="col"{m}>{page.text(h)}</th>' for h, m in zip(header, marks, strict=True)
    )
    columns = [_column([row[i] for row in rows]) for i in range(len(header))]
    body = "\n".join(
      "<tr>"
      + "".join(f"<td{m}>{page.text(c)}</td>" for c, m in zip(cells, marks, strict=True))
      + "</tr>"
      for cells in zip(*columns, strict=True)
    )
    # The note stands outside of what scrolls sideways: it wraps where the page ends, also on a
    # screen that is narrower than the table.
    return self._add(
      f'<figure><div class="wide"><table><thead><tr>{head}</tr></thead>\n'
      f"<tbody>{body}</tbody></table></div>{_caption(caption)}</figure>"
    )

  def images(
    self,
    panels: Sequence[Any] | np.ndarray,
    captions: Sequence[str],
    columns: int = 4,
    *,
    caption: str = "",
    window: tuple[float, float] | None = None,
  ) -> "Report":
    """A grid of pictures.

    Args:
      panels: arrays [height, width] (grey) or [height, width, 3] (floats in [0, 1] or uint8).
      captions: one a panel.
      columns: panels in a row on a wide screen, at least 1.
      caption: text under the whole figure.
      window: (low, high) shown as black and white in every panel; default: each panel's own range.
    """
    check.positive("columns", columns)
    check.require(
      len(panels) == len(captions),
      "one caption a panel",
      f"{len(captions)} captions for {len(panels)} panels",
      "pass '' for a panel without one",
    )
    cells = "\n".join(
      f'<figure><img alt="{page.text(words)}"'
      f' src="data:image/png;base64,{figures.png(panel, window)}">'
      f"<figcaption>{page.text(words)}</figcaption></figure>"
      for panel, words in zip(panels, captions, strict=True)
    )
    return self._add(
      f'<figure><div class="panels" style="--columns: {columns}">{cells}</div>'
      f"{_caption(caption)}</figure>"
    )

  def overlay(
    self,
    images: Sequence[Any] | np.ndarray,
    captions: Sequence[str],
    *,
    class_names: Sequence[str],
    fills: Sequence[Any] | np.ndarray | None = None,
    outlines: Sequence[Any] | np.ndarray | None = None,
    columns: int = 4,
    caption: str = "",
    opacity: float = 0.4,
    window: tuple[float, float] | None = None,
  ) -> "Report":
    """A grid of pictures with label maps over them, and a legend of the classes.

    Args:
      images: arrays [height, width] or [height, width, 3].
      captions: one an image.
      class_names: names of class ids 0..K-1; id 0, the background, stays clear.
      fills: an integer label map [height, width] or None for each image, tinted.
      outlines: the same, drawn as borders; say fills for the prediction, outlines for the truth.
      columns: images in a row on a wide screen.
      caption: text under the whole figure.
      opacity: opacity of the tint, in [0, 1]; 1 hides the image under labelled voxels.
      window: see `images`.
    """
    fills = [None] * len(images) if fills is None else fills
    outlines = [None] * len(images) if outlines is None else outlines
    for what, maps in (("fills", fills), ("outlines", outlines)):
      check.require(
        len(maps) == len(images),
        f"one label map an image in {what}",
        f"{len(maps)} for {len(images)}",
        "pass None for an image without one",
      )
    legend = "".join(
      f'<li><i style="background: {figures.colour(k - 1)}"></i>{page.text(name)}</li>'
      for k, name in enumerate(class_names)
      if k > 0
    )
    self._add(f'<ul class="legend">{legend}</ul>')
    panels = [
      figures.overlay(figures.rgb(image, window), fill, outline, alpha=opacity)
      for image, fill, outline in zip(images, fills, outlines, strict=True)
    ]
    return self.images(panels, captions, columns, caption=caption)

  def curves(
    self,
    series: Mapping[str, tuple[Any, Any]],
    xlabel: str,
    ylabel: str,
    hlines: Mapping[str, Json] | None = None,
    *,
    caption: str = "",
    log_y: bool = False,
  ) -> "Report":
    """Lines: `series` is name -> (x, y), `hlines` name -> height of a dashed line."""
    self._num_curves += 1
    svg = figures.curves(
      series,
      xlabel=xlabel,
      ylabel=ylabel,
      hlines=hlines,
      log_y=log_y,
      prefix=f"curves-{self._num_curves}",
    )
    return self._add(f'<figure class="curves">{svg}{_caption(caption)}</figure>')

  def bars(
    self,
    names: Sequence[str],
    values: Sequence[float],
    xlabel: str,
    *,
    marks: Sequence[float] | None = None,
    caption: str = "",
  ) -> "Report":
    """Horizontal bars, one a name; `marks` are lines across them, NaN for none."""
    self._num_curves += 1
    prefix = f"bars-{self._num_curves}"
    svg = figures.bars(names, values, xlabel=xlabel, marks=marks, prefix=prefix)
    return self._add(f'<figure class="curves">{svg}{_caption(caption)}</figure>')

  def what_ran(self, config: Mapping[str, Json]) -> "Report":
    """A section with what config.json holds: settings, seed, versions, commit, devices."""
    self.section("What ran")
    settings = [[name, str(value)] for name, value in config["config"].items()]
    self.table(["setting", "value"], settings)
    about = [["experiment", f"{config['experiment']} {config['preset']}"], ["seed", config["seed"]]]
    about += [["commit", str(config["commit"])], ["devices", str(config["devices"])]]
    about += [[name, version] for name, version in config["versions"].items()]
    return self.table(["", ""], [[name, str(value)] for name, value in about])

  def html(self) -> str:
    """The page as text."""
    sections = [page.Section(title, "\n".join(parts)) for title, parts in self._sections]
    return page.render(self._title, self._lead, sections)

  def write(self, path: str | os.PathLike) -> None:
    """Writes the page, whole or not at all."""
    files.write_text(path, self.html())

  def _add(self, part: str) -> "Report":
    if not self._sections:
      self._sections.append(("", []))
    self._sections[-1][1].append(part)
    return self


def _caption(text: str) -> str:
  return f"<figcaption>{page.text(text)}</figcaption>" if text else ""


def _is_number(cell: object) -> bool:
  return cell is None or isinstance(cell, numbers.Real) and not isinstance(cell, bool)


def _column(cells: Sequence[Any]) -> list[str]:
  """The cells of a column as text; its floats end at one decimal place, so that points align."""
  texts = [_cell(cell) for cell in cells]
  floats = [isinstance(c, numbers.Real) and _is_fixed(t) for c, t in zip(cells, texts, strict=True)]
  decimals = max(
    (len(t.partition(".")[2]) for t, is_float in zip(texts, floats, strict=True) if is_float),
    default=0,
  )
  return [
    f"{float(c):.{decimals}f}" if is_float and not isinstance(c, numbers.Integral) else t
    for c, t, is_float in zip(cells, texts, floats, strict=True)
  ]


def _is_fixed(text: str) -> bool:
  return text.lstrip("-").replace(".", "").isdigit()


def _cell(cell: object) -> str:
  if cell is None or isinstance(cell, numbers.Real) and math.isnan(cell):
    return "–"
  if isinstance(cell, bool):
    return "yes" if cell else "no"
  if isinstance(cell, numbers.Integral):
    return f"{cell:,}"
  return f"{float(cell):.4g}" if isinstance(cell, numbers.Real) else str(cell)
