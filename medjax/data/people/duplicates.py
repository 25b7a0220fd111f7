"""Near-duplicates: one scan under two names, also rescaled, shifted, cropped or resampled.

1. Every case is averaged onto a common grid over its field of view, in mm where it has an affine.
2. A Gaussian of one cell is subtracted; what stays knows little of coils, skulls and scales.
3. Each case is moved by half cells onto the mean of all, so that crops and shifts line up.
4. A pair's similarity is the correlation of what is left after the mean of their nearest cases of
   other people has been taken from both: anatomy is common to many, detail belongs to one scan.

Aligned brains of different people correlate by .83 before step 4 (median; up to .91), by .43 at
most after it. Measured with the default grid (lowest of 12 copies; brain: 39 aligned T1 slabs of 24
people, hippocampus: 40 crops of about 35 x 51 x 35 voxels):

| copy | brain | hippocampus |
|---|---|---|
| noise of .2 standard deviations | .98 | .98 |
| power .7 of the intensities / linear bias field of 30 % | .79 / .90 | .99 / .74 |
| moved by 1 voxel / by 3 and 2 voxels | .84 / .59 | .87 / .74 |
| 5 voxels cropped from each axis | .88 | .79 |
| voxels 1.25 times as large / blurred by 1 voxel | .59 / .66 | .70 / .85 |
| 8 voxels cropped at one end of each axis, a fifth of the hippocampus | .90 | missed |
| another scan of the same person | .66 to .87 | |
| different people, highest | .43 | .43 |

Pictures have no voxel size and often one object in their middle, so that little is left to tell
two of them apart, least of all in a small set, where few others stand for anatomy. Over 870 random
subsets of 8 to 30 blood cells, breast ultrasound images, nuclei, retinas and skin lesions the
highest similarity of different people was .77; all above it were copies, or one lesion pictured
twice. Copies with noise, another contrast, a bias field, blur or 16 grey values passed .8 in 574 of
580 sets, those moved by 2 pixels in 92 of 116, those cropped by 4 percent in 54 of 116. Hence the
defaults, .55 for volumes and .8 for pictures.

It fails for mirrored or rotated copies, for crops by more than about a tenth (pictures: 4 percent),
for pictures that were resized and cropped, and for small objects on an empty field.
"""

import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from medjax.check import InputError, in_interval, require
from medjax.data.formats import png
from medjax.data.people.inspection import middle
from medjax.data.people.splits import Splits
from medjax.types import Example, Indices, Source

_FINE = 2  # samples a cell: alignment to a quarter of a cell
_REACH = 2  # cells by which step 3 may move a case
_PAIR_REACH = 1  # cells by which step 4 may still move one of a pair
_NEAREST = 8  # cases of other people that a case is compared with, and that stand for anatomy
_FEWEST = 4  # with fewer others, anatomy and detail cannot be told apart
_FEWEST_CELLS = 4  # that the detail of an image must fill
_ROWS = 1024  # of the similarity matrix at a time
VOLUMES, PICTURES = 0.55, 0.8
"""Similarities from which two volumes, or two pictures, are taken for one; see the measurements."""

_DECIMALS = 4  # of every similarity: sums of products differ in the last bits between processors


class LookAlikes(NamedTuple):
  """Two cases of different subjects that look like one scan.

  Attributes:
    first, second: positions in the source, first < second.
    similarity: correlation of what they do not share with other people, in [-1, 1], rounded to four
      decimals. Every order and comparison uses the rounded value, so that all machines agree.
  """

  first: int
  second: int
  similarity: float


def near_duplicates(
  source: Source,
  indices: Indices | None = None,
  *,
  grid: int = 24,
  threshold: float | int | None = None,
) -> list[LookAlikes]:
  """Pairs of different subjects that look like one scan, the most similar first.

  Reads every case once. 40 volumes take about 2 s after reading, 4700 pictures 6 s; memory is 4
  bytes times the square of the number of cases and, in 3D, a megabyte a case.

  Args:
    source: images of one number of axes, volumes in one orientation (RAS); channels are averaged.
    indices: which cases, None for all.
    grid: cells an axis of the common grid, at most the voxels of the median case.
    threshold: similarity from which a pair is listed, in [-1, 1]; None takes `VOLUMES` for cases of
      three axes and `PICTURES` for others.
  Returns:
    Pairs; none where fewer than six subjects are at hand. Images whose detail fills fewer than four
    cells are skipped: the first slices of a head look alike.
  """
  require(grid >= 4, "grid >= 4", f"{grid=}", "24 separates best")
  if threshold is not None:
    in_interval("threshold", threshold, -1, 1)
  numbers = [int(i) for i in (range(len(source)) if indices is None else indices)]
  if not numbers:
    return []
  pictures = _common_grid((source[i] for i in numbers), grid)
  if threshold is None:
    threshold = VOLUMES if pictures.ndim == 4 else PICTURES
  seen = [n for n, picture in enumerate(pictures) if _is_telling(picture)]
  if not seen:
    return []
  numbers = [numbers[n] for n in seen]
  people = np.unique([source.subjects[i] for i in numbers], return_inverse=True)[1]
  found: dict[tuple[int, int], float] = {}
  for i, j, similarity in _compared(_aligned(pictures[seen]), people):
    first, second = sorted((numbers[i], numbers[j]))
    found[first, second] = max(similarity, found.get((first, second), -1.0))
  pairs = [
    LookAlikes(*pair, similarity) for pair, similarity in found.items() if similarity >= threshold
  ]
  return sorted(pairs, key=lambda pair: (-pair.similarity, pair))


def check_near_duplicates(
  source: Source,
  splits: Splits,
  *,
  grid: int = 24,
  threshold: float | int | None = None,
  picture: str | os.PathLike | None = None,
) -> None:
  """Refuses splits that hold one scan on two sides under different subjects.

  Identical pixels are found by `splits.check_content`, also in small sets and in label maps. Label
  maps have too little detail for this check: two of distinct people reach .7.

  Args:
    source, grid, threshold: see `near_duplicates`.
    splits: parts over people.
    picture: PNG file to which the refused pair is written, side by side, for people to look at; it
      shows two cases, so choose a place where images may lie.
  Raises:
    InputError: naming the most similar such pair, or a case without image.
  """
  part_of = {subject: part for part, members in splits.parts.items() for subject in members}
  known = [i for i, subject in enumerate(source.subjects) if subject in part_of]
  for pair in near_duplicates(source, known, grid=grid, threshold=threshold):
    sides = [part_of[source.subjects[i]] for i in pair[:2]]
    if sides[0] == sides[1]:
      continue
    first, second = (source[i] for i in pair[:2])
    if picture is not None:
      pathlib.Path(picture).parent.mkdir(parents=True, exist_ok=True)
      png.write_png(picture, _side_by_side(first, second))
    raise InputError(
      f"different people in {sides[0]} and {sides[1]}",
      f"cases {first.name} and {second.name} of similarity {pair.similarity:.2f}",
      f"look at {'both' if picture is None else picture}: give them one subject, remove one, or, if"
      f" they differ, pass a threshold above {pair.similarity:.2f} (--near_duplicates of a study)",
    )


def _side_by_side(first: Example, second: Example) -> np.ndarray:
  """Two cases in grey, [row, column] uint8; volumes are cut through their middle."""
  planes = [middle(example)[0] for example in (first, second)]
  planes = [plane.mean(axis=-1) if plane.ndim == 3 else plane for plane in planes]
  height = max(plane.shape[0] for plane in planes)
  gap = np.ones((height, 4))
  padded = [np.pad(plane, ((0, height - plane.shape[0]), (0, 0))) for plane in planes]
  return np.rint(255 * np.concatenate([padded[0], gap, padded[1]], axis=1)).astype(np.uint8)


def _common_grid(examples: Iterable[Example], grid: int) -> np.ndarray:
  """Steps 1 and 2: [case, *fine] float32, `_FINE` samples a cell."""
  from scipy import ndimage

  small, extents, spaces, has_size = [], [], [], True
  for example in examples:
    picture = _picture(example)
    spaces.append(picture.shape)
    extents.append(np.multiply(picture.shape, example.spacing))
    has_size &= example.affine is not None
    num = [_FINE * min(grid, size) for size in picture.shape]
    small.append(_averaged(picture, np.asarray(picture.shape), num).astype(np.float32))
  require(
    len({picture.ndim for picture in small}) == 1,
    "cases of one number of axes",
    f"{sorted({picture.ndim for picture in small})}",
    "check 2D and 3D cases apart",
  )
  if not has_size:  # pictures: the whole field of view is the common ground
    extents = list(np.ones_like(extents))
  common = np.median(extents, axis=0)
  num = [_FINE * int(cells) for cells in np.clip(np.median(spaces, axis=0), 1, grid)]
  result = np.empty((len(small), *num), np.float32)
  for n, (picture, extent) in enumerate(zip(small, extents, strict=True)):
    fine = _averaged(picture, common / extent * picture.shape, num)
    cell = ndimage.uniform_filter(fine, _FINE, mode="nearest")
    detail = cell - ndimage.gaussian_filter(cell, _FINE, mode="nearest")
    result[n] = detail / max(float(np.abs(detail).max()), 1e-6 * float(np.abs(fine).max()), 1e-30)
  return result


def _picture(example: Example) -> np.ndarray:
  if example.image is None:
    raise InputError(
      "an image", f"case {example.name} without", "check_content compares label maps exactly"
    )
  return example.image.mean(axis=-1)


def _averaged(array: np.ndarray, width: np.ndarray, num: Sequence[int]) -> np.ndarray:
  """Means over `num` cells an axis that span `width` voxels around the middle.

  Beyond the border the outermost voxels go on.
  """
  array = array.astype(np.float64)
  for axis, cells in enumerate(num):
    size = array.shape[axis]
    front = np.zeros_like(np.take(array, [0], axis))
    integral = np.concatenate([front, np.cumsum(array, axis)], axis)
    edges = size / 2 + np.linspace(-0.5, 0.5, cells + 1) * width[axis]
    below = np.clip(np.floor(edges).astype(int), 0, size - 1)
    part = (edges - below).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    at_edges = (
      np.take(integral, below, axis) * (1 - part) + np.take(integral, below + 1, axis) * part
    )
    array = np.diff(at_edges, axis=axis) * (cells / width[axis])
  return array


def _is_telling(picture: np.ndarray) -> bool:
  """Whether the detail of a case [*fine] fills enough cells; (sum x^2)^2 / sum x^4 counts them."""
  if np.ptp(picture) < 1e-6:
    return False
  energy = np.square(picture, dtype=np.float64)
  count = energy.sum() ** 2 / np.square(energy).sum()
  return bool(count >= _FEWEST_CELLS * _FINE**picture.ndim)


class _Windows(NamedTuple):
  """Ways to cut a window out of pictures, so that it may still move by `reach` cells."""

  sizes: list[int]  # cells of the window
  offsets: list[tuple[int, ...]]  # first sample, for each way
  middle: tuple[int, ...]
  step: int  # samples a cell

  def cut(self, pictures: np.ndarray, offset: Sequence[int]) -> np.ndarray:
    """[..., *samples] -> [..., *sizes]."""
    slices = (
      slice(start, start + self.step * size, self.step)
      for start, size in zip(offset, self.sizes, strict=True)
    )
    return pictures[(..., *slices)]


def _windows(samples: Sequence[int], step: int, reach: int) -> _Windows:
  cells = [n // step for n in samples]
  margins = [min(reach, (n - 1) // 8) for n in cells]  # thin axes stay as they are
  return _Windows(
    sizes=[n - 2 * margin for n, margin in zip(cells, margins, strict=True)],
    offsets=list(itertools.product(*(range(2 * step * margin + 1) for margin in margins))),
    middle=tuple(step * margin for margin in margins),
    step=step,
  )


def _aligned(pictures: np.ndarray) -> np.ndarray:
  """Step 3: [case, *fine] -> [case, *cells], each where it fits the mean of all best."""
  windows = _windows(pictures.shape[1:], _FINE, _REACH)
  current = windows.cut(pictures, windows.middle).copy()
  for _ in range(2):
    mean = _unit(current).mean(axis=0)
    best = np.full(len(pictures), -np.inf)
    for offset in windows.offsets:
      cut = windows.cut(pictures, offset)
      fit = _unit(cut) @ mean
      better = fit > best
      best[better], current[better] = fit[better], cut[better]
  return current


def _compared(aligned: np.ndarray, people: np.ndarray) -> Iterator[tuple[int, int, float]]:
  """Step 4: (case, one of its nearest of other people, similarity)."""
  windows = _windows(aligned.shape[1:], 1, _PAIR_REACH)
  flat = _unit(windows.cut(aligned, windows.middle))
  best = np.full((len(flat), len(flat)), -np.inf, np.float32)
  way = np.zeros(best.shape, np.uint8)
  for number, offset in enumerate(windows.offsets):
    moved = _unit(windows.cut(aligned, offset))
    for start in range(0, len(flat), _ROWS):
      rows = slice(start, start + _ROWS)
      fit = flat[rows] @ moved.T
      better = fit > best[rows]
      best[rows][better], way[rows][better] = fit[better], number
  best[people[:, None] == people] = -np.inf

  for i, row in enumerate(best):
    candidates = min(3 * _NEAREST, len(row))
    near = [j for j in _largest(row, candidates).tolist() if row[j] > -np.inf]
    moved = {j: _unit(windows.cut(aligned[j : j + 1], windows.offsets[way[i, j]]))[0] for j in near}
    for j in near[:_NEAREST]:
      others = [moved[c] for c in near if people[c] != people[j]][:_NEAREST]
      if len(others) >= _FEWEST:
        anatomy = np.mean(others, axis=0)
        yield i, j, round(_correlation(flat[i] - anatomy, moved[j] - anatomy), _DECIMALS)


def _largest(row: np.ndarray, count: int) -> np.ndarray:
  """Positions of the `count` largest rounded values, the largest first; ties go to the first."""
  rounded = np.round(row, _DECIMALS)
  least = np.partition(rounded, -count)[-count]
  candidates = np.flatnonzero(rounded >= least)
  return candidates[np.argsort(-rounded[candidates], kind="stable")][:count]


def _unit(pictures: np.ndarray) -> np.ndarray:
  """[case, *space] -> [case, voxels] of mean 0 and norm 1."""
  flat = pictures.reshape(len(pictures), -1)
  flat = flat - flat.mean(axis=1, keepdims=True)
  return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30)
