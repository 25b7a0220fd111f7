"""Label values of files and class ids of training: one increasing table between them."""

from collections.abc import Sequence

import numpy as np

from medjax.check import InputError, require
from medjax.types import IGNORE

_MAX_TABLE = 1 << 20  # widest range of values that a lookup table may span


def whole_numbers(array: np.ndarray, where: str) -> np.ndarray:
  """The array as integers.

  Floats count as whole where rounding explains their fraction: programs that store labels as scaled
  integers keep the factor in 32 bits, so that 14175 may be read as 14175.0005.

  Raises:
    InputError: naming `where`, when a value has a fraction of more than 1e-4 and more than four
      units of 32-bit rounding of the largest value (at most .01), or does not fit 32 bits.
  """
  if array.dtype.kind == "f":
    rounded = np.rint(array)
    largest = float(np.abs(rounded).max(initial=0.0))
    tolerance = min(max(1e-4, 4 * float(np.finfo(np.float32).eps) * largest), 0.01)
    fraction = array[np.abs(array - rounded) > tolerance]
    if fraction.size:
      shown = ", ".join(np.format_float_positional(v, 4) for v in np.unique(fraction)[:5])
      raise InputError(
        f"whole numbers as labels in {where}", f"{shown}", "resample labels by nearest neighbour"
      )
    array = rounded
  low, high = (array.min(), array.max()) if array.size else (0, 0)
  require(
    -(2**31) <= low and high < 2**31, f"labels of 32 bits in {where}", f"{low}..{high}", "relabel"
  )
  return array.astype(np.int32)


def distinct(array: np.ndarray) -> np.ndarray:
  """Sorted distinct values of an integer array; one pass where the range is narrow."""
  if not array.size:
    return np.zeros(0, np.int32)
  low, high = int(array.min()), int(array.max())
  if high - low >= _MAX_TABLE:
    return np.unique(array)
  return (np.flatnonzero(np.bincount((array - low).ravel())) + low).astype(np.int32)


def class_ids(
  array: np.ndarray, values: Sequence[int], where: str, *, ignore: int | None = None
) -> np.ndarray:
  """Replaces each label value by its position in `values`.

  Args:
    array: [*space] int32 as in the file.
    values: increasing label values of class ids 0..K-1.
    where: file name for the error.
    ignore: value that becomes `IGNORE`, None if the set has none.
  Returns:
    [*space] int32 class ids.
  Raises:
    InputError: listing the values that the table does not hold.
  """
  present = distinct(array)
  known = set(values) | ({ignore} if ignore is not None else set())
  strangers = [int(v) for v in present if int(v) not in known]
  if strangers:
    shown = ", ".join(map(str, strangers[:10])) + (", ..." if len(strangers) > 10 else "")
    raise InputError(
      f"label values among {_listed(sorted(known))} in {where}",
      shown,
      "add them to the label table or correct the file",
    )
  ids = np.searchsorted(np.asarray(values), present).astype(np.int32)
  if ignore is not None:
    ids[present == ignore] = IGNORE
  if present.size and int(present[-1]) - int(present[0]) < _MAX_TABLE:
    low = int(present[0])
    table = np.zeros(int(present[-1]) - low + 1, np.int32)
    table[present - low] = ids
    return table[array - low]
  return ids[np.searchsorted(present, array)].astype(np.int32)


def _listed(values: Sequence[int]) -> str:
  shown = ", ".join(map(str, values[:12]))
  return f"{{{shown}{', ...' if len(values) > 12 else ''}}}"
