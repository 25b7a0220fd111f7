"""PNG files as arrays; the only file that imports Pillow."""

import os
import pathlib

import numpy as np

from medjax import files
from medjax.check import InputError, require
from medjax.data.volume import Volume

_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "LA", "RGB", "RGBA")


def read_png(path: str | os.PathLike) -> Volume:
  """Reads a picture as [row, column] or, in colour, [row, column, channel], in its own type.

  Values are those of the file (0..255, or 0..65535 at 16 bits); a palette picture gives its
  indices, which is how label tools store classes. There is no geometry: spacing is (1.0, 1.0).

  Raises:
    InputError: naming the file, when it is missing, damaged or of another kind.
  """
  from PIL import Image, UnidentifiedImageError

  path = pathlib.Path(path)
  require(path.name.lower().endswith(".png"), "a file ending in .png", str(path), "convert it")
  require(path.is_file(), f"a file {path}", "nothing there", "check the path")
  try:
    with Image.open(path) as image:
      mode = image.mode
      array = np.array(image)
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
    reason = " ".join(str(error).split())[:120]
    raise InputError(
      f"a readable PNG file {path}", f"a damaged one ({reason})", "copy it again"
    ) from error
  require(mode in _MODES, f"a grey or colour PNG in {path}", f"mode {mode}", "convert it")
  if array.dtype == bool:
    array = array.astype(np.uint8)
  return Volume(array, None, (1.0, 1.0))


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
  """Number of channels in the header of a PNG file."""
  from PIL import Image, UnidentifiedImageError

  try:
    with Image.open(path) as image:
      return len(image.getbands())
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    raise InputError(f"a readable PNG file {path}", "a damaged one", "copy it again") from error
