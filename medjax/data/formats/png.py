"""PNG files as arrays; the only file that imports Pillow."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from medjax import files
from medjax.check import InputError, existing_file, require
from medjax.data.formats.volume import Volume

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}


class _Header(NamedTuple):
  """What the first chunk of a PNG file says."""

  depth: int  # bits a channel
  kind: int


def read_png(path: str | os.PathLike) -> Volume:
  """Reads a picture as [row, column] or, in colour, [row, column, channel], in its own type.

  Values are those of the file, 0..2^bits - 1 for 1, 2, 4, 8 or 16 bits a channel. A palette is
  looked up: one of greys gives [row, column], another [row, column, 3]. There is no geometry:
  spacing is (1.0, 1.0).

  Raises:
    InputError: naming the file, when it is missing, damaged, of another kind than PNG, or in colour
      of 16 bits.
  """
  header, array, palette = _read(pathlib.Path(path))
  if header.kind == _PALETTE:
    array = palette[array]
    array = array[..., 0] if _is_grey(palette) else array
  return Volume(array, None, (1.0, 1.0))


def read_labels(path: str | os.PathLike) -> Volume:
  """As `read_png` for a label map: a palette gives its indices, where label tools keep classes.

  The colours of such a palette only say how a class is shown.
  """
  return Volume(_read(pathlib.Path(path))[1], None, (1.0, 1.0))


def write_png(path: str | os.PathLike, label: np.ndarray) -> None:
  """Writes [row, column] of integers 0..65535 as a grey PNG; it appears whole or not at all."""
  from PIL import Image

  path = pathlib.Path(path)
  highest = int(label.max(initial=0))
  require(
    label.ndim == 2 and int(label.min(initial=0)) >= 0 and highest < 2**16,
    "a map of integers 0..65535 for a PNG file",
    f"shape {label.shape}, highest value {highest}",
    "use label values that a PNG can hold",
  )
  with files.replacing(path, suffix=".png") as temporary:
    Image.fromarray(label.astype(np.uint8 if highest < 256 else np.uint16)).save(temporary)


def read_num_channels(path: str | os.PathLike) -> int:
  """Number of channels that `read_png` gives, from the header and the palette of a PNG file."""
  from PIL import Image

  path = pathlib.Path(path)
  header = _header(path)
  if header.kind != _PALETTE:
    return _CHANNELS[header.kind]
  with readable(path), Image.open(path) as image:
    return 1 if _is_grey(_palette(image)) else 3


def _read(path: pathlib.Path) -> tuple[_Header, np.ndarray, np.ndarray]:
  """Header, values as stored (of a palette: indices), and the palette [colour, 3]."""
  from PIL import Image

  require(path.name.lower().endswith(".png"), "a file ending in .png", str(path), "convert it")
  header = _header(path)
  require(
    header.depth <= 8 or header.kind == _GREY,
    f"at most 8 bits a channel in the colour picture {path}",
    f"{header.depth}",
    "store each channel as a grey picture of 16 bits, NAME_0000.png, NAME_0001.png, ...",
  )
  with readable(path), Image.open(path) as image:
    array, palette = np.array(image), _palette(image)
  if array.dtype == bool:
    array = array.astype(np.uint8)
  if header.kind == _GREY and header.depth in (2, 4):
    array = array // (255 // (2**header.depth - 1))  # Pillow spreads the grey values over 0..255
  return header, array, palette


def _header(path: pathlib.Path) -> _Header:
  existing_file(path)
  with readable(path), open(path, "rb") as file:
    start = file.read(26)
  require(
    start[:8] == _SIGNATURE,
    f"a PNG file {path}",
    "another kind of file" if start else "an empty file",
    "convert it; a JPEG under this name has lost values already",
  )
  require(len(start) == 26, f"a readable PNG file {path}", "a damaged one", "copy it again")
  header = _Header(start[24], start[25])
  require(
    header.kind in _CHANNELS and header.depth in (1, 2, 4, 8, 16),
    f"a readable PNG file {path}",
    "a damaged one (header)",
    "copy it again",
  )
  return header


@contextlib.contextmanager
def readable(path: pathlib.Path, what: str = "PNG file") -> Iterator[None]:
  """Whatever Pillow or the system finds wrong becomes an InputError."""
  from PIL import UnidentifiedImageError

  try:
    yield
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
    reason = " ".join(str(error).split())[:120]
    raise InputError(
      f"a readable {what} {path}", f"a damaged one ({reason})", "copy it again"
    ) from error


def _palette(image: Any) -> np.ndarray:
  colours = image.getpalette("RGB") if image.mode == "P" else None
  return np.array(colours or [], np.uint8).reshape(-1, 3)


def _is_grey(palette: np.ndarray) -> bool:
  return bool((palette == palette[:, :1]).all())
