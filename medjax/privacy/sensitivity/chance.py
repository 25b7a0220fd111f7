"""What of a value was drawn at random, element by element.

An element with a law is  x + std z,  where z is one standard normal number of one draw and x does
not depend on it. The law survives what moves elements, adds other values and multiplies by a known
constant. After everything else the draw is merely `used`: the value depends on it somehow.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from medjax.privacy.sensitivity.keys import Path

_PLACES = 40  # bits of the place in a draw; the number of the draw stands above them


class Law(NamedTuple):
  """Gaussian noise of an array.

  Attributes:
    number: int64, of the array's shape: which standard normal number, 0 where there is none.
    std: float64, of the array's shape: by what it is multiplied; NaN where that is not known.
  """

  number: np.ndarray
  std: np.ndarray

  @property
  def draws(self) -> frozenset[int]:
    """The draws that the numbers belong to."""
    present = np.unique(self.number >> _PLACES)
    return frozenset(int(d) for d in present if d)

  @property
  def is_everywhere(self) -> bool:
    """Whether every element has noise of a known size above 0."""
    return bool(self.number.all() and (self.std > 0).all())


def drawn(draw: int, shape: tuple[int, ...]) -> Law:
  """A whole draw of standard normal numbers, in order."""
  size = int(np.prod(shape))
  number = (np.int64(draw) << _PLACES) + 1 + np.arange(size, dtype=np.int64)
  return Law(number.reshape(shape), np.ones(shape))


@dataclasses.dataclass(frozen=True, eq=False)
class Chance:
  """Attributes:
  law: of noise in the elements.
  keys: path of every element of an array of keys, or of the keys whose raw data the value is.
  used: paths of the keys of all other random numbers that the value depends on.
  """

  law: Law | None = None
  keys: np.ndarray | None = None
  used: frozenset[Path] = frozenset()


NOTHING = Chance()
