"""What of a value was drawn at random, element by element.

An element with a law is  x + std z,  where z is one standard normal number of one draw and x does
not depend on it. The law survives what moves elements, adds other values and multiplies by a known
constant. After everything else the draw is merely `used`: the value depends on it somehow.
"""

import dataclasses
from typing import Any, NamedTuple

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


def identity(eqn: Any, x: np.ndarray) -> list[np.ndarray]:
  return [x]


def _slice(eqn: Any, x: np.ndarray) -> list[np.ndarray]:
  p = eqn.params
  strides = p["strides"] or (1,) * x.ndim
  spans = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
  return [x[tuple(slice(*span) for span in spans)]]


def _split(eqn: Any, x: np.ndarray) -> list[np.ndarray]:
  return np.split(x, np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"])


def _reshape(eqn: Any, x: np.ndarray) -> list[np.ndarray]:
  order = eqn.params["dimensions"]
  return [(x if order is None else x.transpose(order)).reshape(eqn.outvars[0].aval.shape)]


def _broadcast(eqn: Any, x: np.ndarray) -> list[np.ndarray]:
  shape = eqn.outvars[0].aval.shape
  sizes = [1] * len(shape)
  for axis, target in enumerate(eqn.params["broadcast_dimensions"]):
    sizes[target] = x.shape[axis]
  return [np.broadcast_to(x.reshape(sizes), shape)]


MOVES: dict[str, Any] = {
  "reshape": _reshape,
  "squeeze": lambda eqn, x: [x.squeeze(tuple(d % x.ndim for d in eqn.params["dimensions"]))],
  "transpose": lambda eqn, x: [x.transpose(eqn.params["permutation"])],
  "rev": lambda eqn, x: [np.flip(x, eqn.params["dimensions"])],
  "slice": _slice,
  "split": _split,
  "unstack": lambda eqn, x: list(np.moveaxis(x, eqn.params["axis"], 0)),
  "broadcast_in_dim": _broadcast,
  "tile": lambda eqn, x: [np.tile(x, eqn.params["reps"])],
  **dict.fromkeys(("copy", "copy_p", "stop_gradient", "name", "sharding_constraint"), identity),
}
"""{primitive: rule}: where the elements of an array go; rule(equation, array) -> results."""
