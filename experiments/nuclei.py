"""Nuclei that are measured from their masks, and superpixels, by scikit-image; its one importer.

Not a study: what `experiments.bags` makes slides of and `experiments.samaug` has priors from. Extra
`nuclei`.
"""

import importlib
import pathlib
from typing import Any, NamedTuple

import numpy as np

from medjax import check, data
from medjax.data.formats import png
from medjax.data.seeds import generator

_OF_CELLS = ("area", "eccentricity", "solidity", "red", "green", "blue")
NAMES = (*(f"{name}_mean" for name in _OF_CELLS), *(f"{name}_std" for name in _OF_CELLS),
         "density", "distance_mean", "distance_std")  # fmt: skip
PLANTED = ("red_mean", "red_std")
MARKED, SHOWN = 1, 2
"""States of a tile: marked, and marked with nuclei in which the label shows; 0 is as it was."""


class Tiles(NamedTuple):
  """Tiles of crops of people, each in three states.

  Attributes:
    image: [tile, state, side, side, 3] in [0, 1].
    feature: [tile, state, feature] in the order of NAMES.
    cells: [tile, state, cell, 6] what is measured of each nucleus, 0 in padding.
    is_cell: [tile, cell].
    is_dark: [tile, cell] nuclei in which the label shows, in the state that shows it.
    subjects: [tile] people.
  """

  image: np.ndarray
  feature: np.ndarray
  cells: np.ndarray
  is_cell: np.ndarray
  is_dark: np.ndarray
  subjects: tuple[str, ...]


def measured(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
  """[nucleus, 8]: area in pixels, eccentricity, solidity, mean colours, and middle, of each.

  Args:
    image: [height, width, 3].
    instances: [height, width] numbers of nuclei, 0 outside.
  """
  library = _library("measure")
  wanted = ("area", "eccentricity", "solidity", "intensity_mean", "centroid")
  found = library.regionprops_table(instances, image, properties=wanted)
  return np.stack(list(found.values()), axis=1)


def superpixels(image: np.ndarray, num: int, compactness: float) -> np.ndarray:
  """Numbers [height, width] from 1 of about `num` superpixels (SLIC, Achanta et al. 2012).

  Args:
    image: [height, width, 3] in [0, 1].
    num: which the result comes near.
    compactness: how much distance counts beside colour; large ones make squares.
  """
  return _library("segmentation").slic(image, num, compactness, start_label=1)


def _library(room: str) -> Any:
  try:
    return importlib.import_module(f"skimage.{room}")
  except ImportError as error:
    raise check.InputError("scikit-image", "none", "pip install 'medjax[nuclei]'") from error


def tiles_of(path: pathlib.Path, side: int = 128, seed: int = 0, least: int = 4) -> Tiles:
  """Tiles of an nnU-Net folder of stained tissue with instancesTr/NAME.png beside labelsTr.

  A tile is marked by less blue light everywhere, whatever the label. The label shows in half of its
  nuclei, which get 30 percent darker in red. So both networks of measured nuclei and those of
  pictures can see it, and it is known which nuclei show it.

  Args:
    path: folder; crops of one image, NAME_ROW_COLUMN, are one person's.
    side: of a tile in pixels.
    seed: of the nuclei that get darker.
    least: nuclei of a tile that is kept.
  Raises:
    InputError: a crop without instances, or no tile.
  """
  source = data.NnUNetFolder(path, normalise="eight_bit", subject_pattern=r"^(.+)_[0-9]+_[0-9]+$")
  images, cells, dark, subjects = [], [], [], []
  for index in range(len(source)):
    example = source[index]
    file = check.existing_file(path / "instancesTr" / f"{example.name}.png")
    whole = np.asarray(example.image)
    numbers = np.asarray(png.read_labels(file).array).reshape(whole.shape[:2])
    for row in range(0, whole.shape[0] - side + 1, side):
      for column in range(0, whole.shape[1] - side + 1, side):
        window = slice(row, row + side), slice(column, column + side)
        image, own = whole[window], numbers[window].astype(int)
        names = np.unique(own[own > 0])
        if len(names) < least:
          continue
        random = generator(seed, f"dark nuclei {example.name}", row * 10_000 + column)
        is_dark = random.permutation(len(names)) < len(names) // 2
        marked = image * np.array([1.0, 1.0, 0.8])
        shown = np.where(np.isin(own, names[is_dark])[..., None], marked * [0.7, 1, 1], marked)
        states = np.stack([image, marked, shown])
        images.append(states)
        cells.append(np.stack([measured(state, own) for state in states]))
        dark.append(is_dark)
        subjects.append(source.subjects[index])
  check.require(images, f"tiles of {least} nuclei in {path}", "none", "look at instancesTr")
  most = max(map(len, dark))
  pad = lambda x, axis: np.pad(  # noqa: E731
    x, [(0, most - x.shape[axis] if i == axis else 0) for i in range(x.ndim)]
  )
  return Tiles(
    np.clip(np.stack(images), 0, 1).astype(np.float32),
    np.stack([np.stack([_tile(state, side) for state in own]) for own in cells]),
    np.stack([pad(own[..., :6], 1) for own in cells]).astype(np.float32),
    np.stack([np.arange(most) < len(own) for own in dark]),
    np.stack([pad(own, 0) for own in dark]),
    tuple(subjects),
  )


def _tile(nuclei: np.ndarray, side: int) -> np.ndarray:
  """[feature] of a tile: means and deviations of its nuclei, their number, and how near they are.

  DEVIATION: means in the place of medians, so that a tile's part can be told nucleus by nucleus.
  """
  middle = nuclei[:, 6:]
  apart = np.linalg.norm(middle[:, None] - middle[None], axis=-1)
  np.fill_diagonal(apart, np.inf)
  nearest = apart.min(1)
  about = [len(nuclei) / (side / 100) ** 2, nearest.mean(), nearest.std()]
  return np.concatenate([nuclei[:, :6].mean(0), nuclei[:, :6].std(0), about]).astype(np.float32)
