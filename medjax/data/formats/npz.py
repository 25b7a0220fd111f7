"""Opening npz files that may be damaged."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from medjax import check


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Any]:
  """The arrays of an npz file, as `numpy.load` opens them; no pickled object is read.

  What turns out to be damaged while an array is read is refused as well.

  Raises:
    InputError: no file, one of another kind, or a damaged one such as half a copy.
  """
  check.existing_file(path)
  with open(path, "rb") as stream:  # our own handle: numpy leaks its one on a damaged file
    start = stream.read(2)
    is_archive = start == b"PK"[: len(start)]  # whatever else is cut short is no npz file
    check.require(is_archive, f"an npz file {path}", "another file", "use numpy.savez")
    stream.seek(0)
    try:
      yield np.load(stream, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
      if isinstance(error, check.InputError):
        raise
      reason = " ".join(str(error).split())[:120]
      raise check.InputError(
        f"a readable npz file {path}", f"a damaged one ({reason})", "copy it again"
      ) from error
