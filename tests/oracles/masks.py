"""Pairs of masks that NumPy alone makes anew: smooth blobs and speckle, in 2D and 3D."""

from typing import NamedTuple

import numpy as np

TOLERANCE_MM = 2.0


class Pair(NamedTuple):
  prediction: np.ndarray
  target: np.ndarray
  spacing: tuple[float, ...]


def blob(shape, *, centre, radii, roughness, seed) -> np.ndarray:
  """An ellipsoid with six random waves on its level function; all in units of half the image."""
  rng = np.random.default_rng(seed)
  axes = [np.linspace(-1, 1, n) for n in shape]
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
  level = (((grid - np.asarray(centre)) / np.asarray(radii)) ** 2).sum(-1)
  for _ in range(6):
    wave, phase = 4 * rng.normal(size=len(shape)), rng.uniform(0, 2 * np.pi)
    level += roughness * np.sin(grid @ wave + phase) / 6
  return level < 1


def blobs(shape, spacing, *, seed, radius=0.5, roughness=0.8) -> Pair:
  """Two that overlap, each centred within a tenth of the image's middle."""
  rng = np.random.default_rng(seed)
  masks = []
  for number in range(2):
    centre = rng.uniform(-0.1, 0.1, len(shape))
    radii = radius * rng.uniform(0.9, 1.1, len(shape))
    seeds = 2 * seed + number
    masks.append(blob(shape, centre=centre, radii=radii, roughness=roughness, seed=seeds))
  return Pair(*masks, spacing)


def speckle(shape, spacing, *, seed, fraction) -> Pair:
  """Independent voxels: every corner code of a cell occurs."""
  rng = np.random.default_rng(seed)
  first, second = rng.uniform(size=(2, *shape)) < fraction
  return Pair(first, second, spacing)


def pairs() -> dict[str, Pair]:
  """The pairs of surface_values.json."""
  return {
    "3D": blobs((24, 24, 24), (1.0, 1.0, 1.0), seed=0),
    "3D thick slices": blobs((24, 24, 24), (1.25, 1.25, 10.0), seed=1),
    "3D oblong": blobs((14, 26, 22), (5.0, 0.9, 1.3), seed=2),
    "3D at the border": blobs((24, 24, 24), (0.7, 1.1, 2.3), seed=3, radius=1.2),
    "3D speckle": speckle((14, 14, 14), (0.7, 1.1, 2.3), seed=4, fraction=0.03),
    "3D dense speckle": speckle((14, 14, 14), (1.3, 0.4, 0.9), seed=5, fraction=0.5),
    "2D": blobs((48, 40), (1.0, 1.0), seed=6),
    "2D rectangular": blobs((48, 40), (1.25, 0.8), seed=7),
    "2D speckle": speckle((48, 40), (0.8, 1.7), seed=8, fraction=0.02),
    "2D dense speckle": speckle((48, 40), (1.3, 0.4), seed=9, fraction=0.5),
  }
