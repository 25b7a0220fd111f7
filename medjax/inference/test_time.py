"""Symmetries to average a prediction over: mirrorings and quarter turns of the grid."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Symmetry(NamedTuple):
  """A move of the grid that only permutes voxels.

  Attributes:
    flips: spatial axes that are mirrored, first.
    turns: (first axis, second axis, number of quarter turns), then.
  """

  flips: tuple[int, ...] = ()
  turns: tuple[tuple[int, int, int], ...] = ()

  def forward(self, image: np.ndarray) -> np.ndarray:
    """The moved image [*space, channel]."""
    image = np.flip(image, self.flips)
    for a, b, count in self.turns:
      image = np.rot90(image, count, (a, b))
    return image

  def backward(self, image: np.ndarray) -> np.ndarray:
    """Undoes `forward`."""
    for a, b, count in reversed(self.turns):
      image = np.rot90(image, -count, (a, b))
    return np.flip(image, self.flips)


IDENTITY = Symmetry()


def mirrorings(num_axes: int) -> tuple[Symmetry, ...]:
  """All 2^n combinations of mirrored axes, the identity first."""
  axes = range(num_axes)
  subsets = (itertools.combinations(axes, count) for count in range(num_axes + 1))
  return tuple(Symmetry(flips) for group in subsets for flips in group)


def rotations(
  patch: Sequence[int], spacing: Sequence[float | int] | None = None
) -> tuple[Symmetry, ...]:
  """Quarter turns in the planes whose two axes have one patch size and one voxel size.

  The identity first; three turns more for each such plane.
  """
  sizes = list(zip(patch, spacing or (1.0,) * len(patch), strict=True))
  planes = [(a, b) for a, b in itertools.combinations(range(len(patch)), 2) if sizes[a] == sizes[b]]
  turned = [Symmetry(turns=((a, b, count),)) for a, b in planes for count in (1, 2, 3)]
  return (IDENTITY, *turned)


def both(first: Sequence[Symmetry], second: Sequence[Symmetry]) -> tuple[Symmetry, ...]:
  """Every mirroring of `first` followed by every turn of `second`; moves that agree once."""
  moves = {}
  for one, two in itertools.product(first, second):
    move = Symmetry(one.flips, one.turns + two.turns)
    moves.setdefault(_fingerprint(move), move)
  return tuple(moves.values())


def _fingerprint(move: Symmetry) -> tuple[bytes, tuple[int, ...]]:
  """Where a move takes the corners of a small cube."""
  moved = move.forward(np.arange(27).reshape(3, 3, 3, 1))
  return moved.tobytes(), moved.shape
