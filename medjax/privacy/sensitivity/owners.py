"""Whose row is where: the example that every part of an array belongs to, followed through moves.

Owners are an int array of the rank of the value, of full size along axes over which the example
changes and of size 1 along the others. So batch axes may be split, merged, moved, cut and repeated.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

NOBODY = -1  # public
EVERYONE = -2  # depends on more than one example

Owners = np.ndarray
Axes = Sequence[int | np.integer]
"""Sizes, places or numbers of axes; JAX has both kinds of integers."""


class MixesError(Exception):
  """Rows of different examples would meet in one row: (what happens, what to do)."""


OWN_ROWS = (
  "let rows meet only in sums of clipped rows; weights may use one example and public state"
)


def everyone(rank: int) -> Owners:
  return np.full((1,) * rank, EVERYONE, np.int32)


def is_everyone(owners: Owners) -> bool:
  return owners.size > 0 and bool((owners == EVERYONE).all())


def varies(owners: Owners, axis: Any) -> bool:
  return owners.shape[axis] > 1


def axes(owners: Owners) -> tuple[int, ...]:
  """The axes along which the example changes."""
  return tuple(i for i in range(owners.ndim) if owners.shape[i] > 1)


def has_repeats(owners: Owners) -> bool:
  """Whether an example owns several rows."""
  real = owners[owners >= 0]
  return len(np.unique(real)) < real.size


def compressed(owners: Owners) -> Owners:
  for axis in range(owners.ndim):
    first = owners.take([0], axis) if owners.shape[axis] > 1 else owners
    if owners.shape[axis] > 1 and (owners == first).all():
      owners = first
  return owners


def merged(*several: Owners) -> Owners:
  """Owners of an operation on aligned rows."""
  out = several[0]
  for other in several[1:]:
    if (out == EVERYONE).any() or (other == EVERYONE).any():
      out = everyone(out.ndim)
      continue
    a, b = np.broadcast_arrays(out, other)
    if ((a != b) & (a != NOBODY) & (b != NOBODY)).any():
      raise MixesError("combines rows of different examples", OWN_ROWS)
    out = compressed(np.where(a == NOBODY, b, a))
  return out


def reshaped(owners: Owners, shape: Axes, new: Axes) -> Owners:
  if 0 in shape:
    return np.full((1,) * len(new), NOBODY, np.int32)
  old_sizes, new_sizes = [], []
  i = j = 0
  while i < len(shape) or j < len(new):
    first, start = i, j
    left, right = (shape[i] if i < len(shape) else 1), (new[j] if j < len(new) else 1)
    i, j = min(i + 1, len(shape)), min(j + 1, len(new))
    while left != right:
      if left < right:
        left, i = left * shape[i], i + 1
      else:
        right, j = right * new[j], j + 1
    is_mixed = any(owners.shape[k] > 1 for k in range(first, i))
    old_sizes += [shape[k] if is_mixed else 1 for k in range(first, i)]
    new_sizes += [new[k] if is_mixed else 1 for k in range(start, j)]
  return compressed(np.broadcast_to(owners, old_sizes).reshape(new_sizes))


def placed(owners: Owners, positions: Axes, rank: int) -> Owners:
  """Axis k becomes axis positions[k] of a value of the given rank."""
  sizes = [1] * rank
  order = sorted(range(owners.ndim), key=lambda k: positions[k])
  for k in order:
    sizes[positions[k]] = owners.shape[k]
  return owners.transpose(order).reshape(sizes)


def joined(parts: Sequence[tuple[Owners | None, int]], axis: Any) -> Owners:
  """Of parts of given lengths along an axis; None for a public part."""
  known = [p for p, _ in parts if p is not None]
  if any((p == EVERYONE).any() for p in known):
    return everyone(known[0].ndim)
  moving = any(varies(p, axis) for p in known)
  if not moving:
    try:
      return merged(*known)
    except MixesError:
      pass  # rows of different examples, one below the other
  sizes = np.broadcast_shapes(*([*p.shape[:axis], 1, *p.shape[axis + 1 :]] for p in known))
  pieces = []
  for part, length in parts:
    full = (*sizes[:axis], length, *sizes[axis + 1 :])
    nobody = np.full((1,) * len(full), NOBODY, np.int32)
    pieces.append(np.broadcast_to(nobody if part is None else part, full))
  return compressed(np.concatenate(pieces, axis))


def padded(owners: Owners, axis: Any, length: int, low: Any, high: Any, interior: Any) -> Owners:
  """Of an axis of `length` after `lax.pad` with a public value."""
  if (low, high, interior) == (0, 0, 0) or not varies(owners, axis):
    return owners
  rows = np.moveaxis(np.repeat(owners, 1, axis), axis, 0)
  wide = np.full((length + (length - 1) * interior, *rows.shape[1:]), NOBODY, np.int32)
  wide[:: interior + 1] = rows
  wide = wide[max(-low, 0) : len(wide) - max(-high, 0)]
  ends = [np.full((max(n, 0), *rows.shape[1:]), NOBODY, np.int32) for n in (low, high)]
  return compressed(np.moveaxis(np.concatenate([ends[0], wide, ends[1]]), 0, axis))


def still(owners: Owners, axis_list: Axes, what: str) -> None:
  """Refuses an operation along axes over which the example changes."""
  if any(varies(owners, axis) for axis in axis_list):
    raise MixesError(f"{what} over examples", OWN_ROWS)
