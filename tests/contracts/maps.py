"""The table of maps that explain a score: a further one is one more row."""

from collections.abc import Callable
from typing import Any, NamedTuple

from medjax import explain


class Row(NamedTuple):
  """A map.

  Attributes:
    name: of its function.
    make: `make(score, activations [*space, channel]) -> [*space]`.
    degree: how the map grows with the score: 1 if a score twice as large has a map twice as large.
  """

  name: str
  make: Callable[..., Any]
  degree: int = 1


ROWS = (Row("gradcam", explain.gradcam),)
