"""Pictures for a report: arrays to PNG, curves to SVG, both as text. Owns matplotlib."""

import base64
import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# Okabe and Ito's colours, which people with colour-blindness tell apart; black left out.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#9A6FE0")
_INK = "#123456"  # stands for the page's text colour, which the page's scheme decides
_SIDE = 320  # overlays are enlarged to about this many pixels, so that outlines stay thin


def colour(index: int) -> str:
  """Colour of class or series `index`, as #rrggbb; repeats after eight."""
  return PALETTE[index % len(PALETTE)]


def png(image: Any, window: tuple[float, float] | None = None) -> str:
  """`image` ([height, width] grey or [height, width, 3]) as base64 PNG, see `rgb` for `window`."""
  from matplotlib import image as images

  buffer = io.BytesIO()
  nameless: Any = {"Software": None}  # or the bytes change with matplotlib's version
  images.imsave(buffer, rgb(image, window), format="png", metadata=nameless)
  return base64.b64encode(buffer.getvalue()).decode()


def rgb(image: Any, window: tuple[float, float] | None = None) -> np.ndarray:
  """uint8 [height, width, 3]; floats are shown from window[0] to window[1].

  Default window: the range of a grey image's finite values, [0, 1] for colour. uint8 is kept.

  Raises:
    ValueError: another shape.
  """
  image = np.asarray(image)
  if image.ndim == 3 and image.shape[-1] == 1:
    image = image[..., 0]
  if image.ndim not in (2, 3) or image.ndim == 3 and image.shape[-1] != 3:
    raise ValueError(
      f"expected an image [height, width] or [height, width, 3], got shape {image.shape};"
      " cut a slice from a volume"
    )
  if image.dtype != np.uint8:
    image = image.astype(np.float64)
    finite = image[np.isfinite(image)]
    if window is None:
      is_grey = image.ndim == 2 and finite.size > 0
      window = (finite.min(), finite.max()) if is_grey else (0.0, 1.0)
    low, high = window
    scaled = (np.nan_to_num(image, nan=low) - low) / (high - low if high > low else 1.0)
    image = np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
  return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)


def overlay(image: Any, fill: Any = None, outline: Any = None, *, alpha: float = 0.4) -> np.ndarray:
  """Label maps over an image.

  Args:
    image: [height, width] grey or [height, width, 3].
    fill: integer label map [height, width], tinted; ids below 1 stay clear.
    outline: integer label map [height, width], its borders drawn.
    alpha: weight of the tint in [0, 1].
  Returns:
    uint8 [k height, k width, 3], enlarged by a whole number k.
  """
  factor = max(1, round(_SIDE / max(np.shape(image)[:2])))
  picture = _enlarge(rgb(image), factor).astype(np.float64)
  if fill is not None:
    labels = _enlarge(np.asarray(fill), factor)
    inside = labels > 0
    picture[inside] += alpha * (_colours(labels[inside]) - picture[inside])
  if outline is not None:
    labels = _enlarge(np.asarray(outline), factor)
    border = _border(labels, 1 if factor == 1 else 2) & (labels > 0)
    picture[border] = _colours(labels[border])
  return np.round(picture).astype(np.uint8)


def curves(
  series: Mapping[str, tuple[Any, Any]],
  *,
  xlabel: str,
  ylabel: str,
  hlines: Mapping[str, Any] | None = None,
  log_y: bool = False,
  prefix: str = "figure",
) -> str:
  """Lines as an SVG element in the colours of the page that holds it.

  Args:
    series: name -> (x, y), two sequences or arrays of one length.
    xlabel: text under the x axis, with its unit.
    ylabel: text beside the y axis, with its unit.
    hlines: name -> height of a dashed line.
    log_y: logarithmic y axis.
    prefix: begins the ids in the SVG; another one for each figure of a page.
  """
  with _canvas(prefix, 3.4) as (figure, axes):
    for index, (name, (x, y)) in enumerate(series.items()):
      marker = "o" if len(x) < 2 else None
      axes.plot(x, y, label=name, color=colour(index), linewidth=1.8, marker=marker)
    for index, (name, height) in enumerate((hlines or {}).items()):
      tint = colour(len(series) + index)
      axes.axhline(height, label=name, color=tint, linewidth=1.4, linestyle=(0, (5, 3)))
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log_y else "linear")
    axes.grid(color=_INK, alpha=0.12, linewidth=0.8)
    if len(series) + len(hlines or {}) > 1:
      figure.legend(loc="outside upper left", ncols=4, frameon=False, handlelength=1.6)
    text = _svg(figure)
  return _inline(text, prefix, f"{ylabel} over {xlabel}: {', '.join(series)}")


def bars(
  names: Sequence[str],
  values: Sequence[float],
  *,
  xlabel: str,
  marks: Sequence[float] | None = None,
  prefix: str = "figure",
) -> str:
  """Horizontal bars from the top down, as an SVG element in the colours of its page.

  Args:
    names: what each bar stands for.
    values: lengths of the bars, 0 or more.
    xlabel: text under the axis, with its unit.
    marks: a line across each bar, in the unit of the bars; NaN for none.
    prefix: see `curves`.
  """
  places = np.arange(len(names))
  with _canvas(prefix, 0.9 + 0.28 * len(names)) as (_, axes):
    axes.barh(places, values, height=0.62, color=colour(1))
    for place, mark in zip(places, marks if marks is not None else (), strict=False):
      if np.isfinite(mark):
        axes.plot([mark, mark], [place - 0.42, place + 0.42], color=colour(5), linewidth=2.2)
    axes.set(xlabel=xlabel, yticks=places, yticklabels=list(names))
    axes.invert_yaxis()
    axes.grid(color=_INK, alpha=0.12, linewidth=0.8, axis="x")
    text = _svg(axes.figure)
  return _inline(text, prefix, f"{xlabel}: {', '.join(names)}")


@contextlib.contextmanager
def _canvas(prefix: str, height: float) -> Iterator[tuple[Any, Any]]:
  """A figure of the page's width and its axes, in the page's colours."""
  import matplotlib
  from matplotlib.backends.backend_svg import FigureCanvasSVG
  from matplotlib.figure import Figure

  style = {
    "svg.fonttype": "none",
    "svg.hashsalt": prefix,  # or ids are random
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
  }
  with matplotlib.rc_context(style):
    figure = Figure(figsize=(7.2, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    yield figure, axes


def _svg(figure: Any) -> str:
  text = io.StringIO()
  figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
  return text.getvalue()


def _inline(svg: str, prefix: str, label: str) -> str:
  """The svg element alone: no prologue, no metadata, no namespace, which HTML does not need."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
  svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
  svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
  svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
  used = set(re.findall(r'(?:url\(|")#([^")]+)', svg))
  svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
  svg = re.sub(r'((?:url\(|")#|\bid=")(?=[^"]*")', rf"\g<1>{prefix}-", svg)
  label = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
  svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
  return svg.replace(_INK, "currentColor").strip()


def _enlarge(array: np.ndarray, factor: int) -> np.ndarray:
  return np.repeat(np.repeat(array, factor, axis=0), factor, axis=1)


def _border(labels: np.ndarray, width: int) -> np.ndarray:
  """Pixels within `width` of a pixel with another label, along the axes."""
  border = np.zeros(labels.shape, bool)
  for axis in (0, 1):
    for shift in range(1, width + 1):
      for sign in (-shift, shift):
        pad = [(shift, shift) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(labels, pad, mode="edge")
        start = shift + sign
        border |= labels != padded.take(range(start, start + labels.shape[axis]), axis=axis)
  return border


def _colours(labels: np.ndarray) -> np.ndarray:
  table = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PALETTE], np.float64)
  return table[(labels.astype(np.int64) - 1) % len(PALETTE)]
