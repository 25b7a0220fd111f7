"""Which regions of a map a network needs: cubes, ranked by how much it misses each.

Not a study: what `experiments.ebm_biomarkers` looks at. Candidates overlap by half, and those that
are chosen do not, so that ten regions are ten places.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medjax.data.seeds import generator


class Grid(NamedTuple):
  """Candidate regions: cubes that overlap by half.

  Attributes:
    corners: [candidate, 3] lowest corner of each in voxels.
    side: in voxels.
  """

  corners: np.ndarray
  side: int

  def cut(self, image: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """[n, region, side, side, side, channel] of images [n, *space, channel]."""
    return np.stack([self._part(image, k) for k in chosen], axis=1)

  def sums(self, maps: np.ndarray) -> np.ndarray:
    """[n, candidate] sums of maps [n, *space] over each."""
    return np.stack([self._part(maps, k).sum((1, 2, 3)) for k in range(len(self.corners))], axis=1)

  def holds(self, chosen: Sequence[int], place: np.ndarray) -> np.ndarray:
    """[region] whether each chosen region holds a place, [3] in voxels."""
    low = self.corners[list(chosen)]
    return np.all((low <= place) & (place < low + self.side), axis=1)

  def _part(self, image: np.ndarray, k: int) -> np.ndarray:
    a, b, c = (slice(start, start + self.side) for start in self.corners[k])
    return image[:, a, b, c]


def grid_of(size: int, side: int) -> Grid:
  """All candidates of a side in a cube of `size` voxels, half a side apart."""
  starts = np.unique(np.minimum(np.arange(0, size, max(side // 2, 1)), size - side))
  corners = np.stack(np.meshgrid(starts, starts, starts, indexing="ij"), -1).reshape(-1, 3)
  return Grid(corners, side)


def ranked(grid: Grid, totals: np.ndarray, num: int) -> list[int]:
  """The `num` candidates of the largest totals, passing over those that meet a chosen one.

  >>> grid = Grid(np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]]), 2)
  >>> ranked(grid, np.array([2.0, 3.0, 2.5]), 2)  # both others meet the second one
  [1]
  """
  chosen: list[int] = []
  for k in np.argsort(-totals, kind="stable"):
    apart = np.abs(grid.corners[chosen] - grid.corners[k]).max(1, initial=0) if chosen else []
    if all(own >= grid.side for own in apart):
      chosen.append(int(k))
    if len(chosen) == num:
      break
  return chosen


def at_random(grid: Grid, num: int, seed: int) -> list[int]:
  """Regions of nobody's choice: the control."""
  return ranked(grid, generator(seed, "regions").uniform(size=len(grid.corners)), num)


def found(grid: Grid, chosen: Sequence[int], planted: np.ndarray) -> np.ndarray:
  """[place] whether a chosen region holds each planted place."""
  return np.array([grid.holds(chosen, place).any() for place in planted])


def how_often(
  grid: Grid, sums: np.ndarray, num: int, planted: np.ndarray, seed: int, num_draws: int = 200
) -> tuple[list[float], list[float]]:
  """How stable a ranking is if other people had been looked at, by the bootstrap over people.

  Args:
    grid: of the candidates.
    sums: [person, candidate] weight of each candidate in each person's map.
    num: regions that are chosen.
    planted: [place, 3] in voxels.
    seed: of the draws.
    num_draws: of as many people, with repeats.
  Returns:
    For each planted place the share of draws in which a chosen region holds it, and for each region
    that is chosen from all people the share in which a chosen region holds its middle.
  """
  random = generator(seed, "bootstrap of regions")
  counts = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=num_draws)
  draws = [ranked(grid, totals, num) for totals in counts @ sums]
  middles = grid.corners[ranked(grid, sums.sum(0), num)] + (grid.side - 1) / 2
  often = lambda places: np.mean([found(grid, own, places) for own in draws], 0).tolist()  # noqa: E731
  return often(planted), often(middles)
