"""Where a random key comes from: a path of derivations, by which two keys are told apart.

A path starts with what the first key is and goes on with the number of every child:

  ("argument", 2, 0)                 element 0 of argument 2
  ("argument", 2, 0, 7)              fold_in(key, 7), and split(key, n)[7], which JAX makes alike
  ("argument", 2, 0, ANY)            fold_in(key, i) of an i that is not known
  ("argument", 2, 0, MANY)           made of the key in a way that is not known

Numbers drawn from two keys count as independent where the paths differ at a known place. A key and
its own children do not: a draw from the key shows bits of the children.
"""

from collections.abc import Hashable, Iterable
from typing import TypeAlias

import numpy as np

Path: TypeAlias = tuple[Hashable, ...]
ANY = -1
MANY = -2
FIXED = "constant"
"""First entry of the path of a key that the program holds as a constant: everybody knows it."""
_MOST = 16  # paths that a value remembers one by one


def child(path: Path, number: int) -> Path:
  """Of a key derived from another."""
  return path if path[-1] == MANY else (*path, number)


def may_meet(a: Path, b: Path) -> bool:
  """Whether two keys may be one, or one be derived from the other."""
  for x, y in zip(a, b, strict=False):
    if MANY in (x, y):
      return True
    if ANY not in (x, y) and x != y:
      return False
  return True


def is_exact(path: Path) -> bool:
  """Whether the path names one key."""
  return ANY not in path and MANY not in path


def covering(paths: Iterable[Path]) -> frozenset[Path]:
  """These paths, or where they are many one that stands for all of them."""
  found = frozenset(paths)
  if len(found) <= _MOST:
    return found
  first, last = min(found, key=str), max(found, key=str)
  shared = 0
  while shared < min(len(first), len(last)) and all(
    len(p) > shared and p[shared] == first[shared] for p in found
  ):
    shared += 1
  return frozenset([(*first[:shared], MANY)])


def array(paths: Iterable[Path], shape: tuple[int, ...]) -> np.ndarray:
  """Paths as an array of objects of a given shape."""
  out = np.empty(int(np.prod(shape)), object)
  for place, path in enumerate(paths):
    out[place] = path
  return out.reshape(shape)
