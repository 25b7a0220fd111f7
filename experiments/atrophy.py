"""Maps of grey matter in which patients have lost some at known places.

Not a study: what the study of imaging biomarkers looks at, since the paper's data ask for an
application. Anatomies are drawn, or are those of label maps of real people; the disease is drawn in
both. A person is

  image = sum of grey structures * (1 - age) * prod_k (1 - loss_k ball_k) + noise

with a loss at each planted place in most patients and in few others, and two losses of the same
size at places of nobody's choice in everybody, so that a loss as such says nothing.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medjax import check, data
from medjax.data import manifest
from medjax.data.seeds import generator
from medjax.synth import freesurfer
from medjax.types import Json

_NUM_DECOYS = 2
_NOISE = 0.05


class Brains(NamedTuple):
  """People with a map of grey matter each.

  Attributes:
    title: for the page.
    image: [n, size, size, size, 1] float32, share of grey matter in each voxel, with noise.
    volume: [n, region] grey matter of each region of an atlas and, last, of all, in voxels; what a
      segmentation of the own anatomy without an error would measure.
    regions: names of the regions.
    label: [n] 1 for a patient.
    subjects: [n] whose anatomy it is.
    planted: [place, 3] middles of the places where patients lose grey matter, in voxels.
    manifest: what a run that goes on must find unchanged.
  """

  title: str
  image: np.ndarray
  volume: np.ndarray
  regions: tuple[str, ...]
  label: np.ndarray
  subjects: tuple[str, ...]
  planted: np.ndarray
  manifest: dict[str, Json]


def drawn(num: int, size: int, seed: int, *, is_focal: bool = True, num_planted: int = 3) -> Brains:
  """People whose anatomies are drawn, each its own: a shell and five structures inside."""
  from scipy import ndimage

  source = data.ProceduralAnatomy(num, (size,) * 3, 8, seed)
  structures = {"shell": (1,), **{f"deep_{j}": (j,) for j in range(3, 8)}}

  def anatomies() -> Iterable[np.ndarray]:
    for index in range(num):
      label = source[index].label
      assert label is not None
      own = shares(label, structures, size)  # 0 or 1; blurred like a map of probabilities
      yield ndimage.gaussian_filter(own, (0, 0.7, 0.7, 0.7))

  about: dict[str, Json] = {"kind": "drawn brains", "num": num, "seed": seed}
  return _people(
    "drawn brains", anatomies(), source.names, tuple(structures), seed, is_focal, num_planted, about
  )


def of_label_maps(
  root: str | os.PathLike,
  num: int,
  size: int,
  seed: int,
  *,
  is_focal: bool = True,
  num_planted: int = 3,
) -> Brains:
  """People on the anatomies of a folder of label maps with FreeSurfer's values.

  Every anatomy serves `num` / (number of maps) people, each under a smooth displacement of its own.
  They count as one subject: nobody is tested on an anatomy that was trained on.

  Args:
    root: folder of NIfTI files.
    num: people; a multiple of the number of maps.
    size: voxels of a side; the brain's bounding box is brought to it.
    seed: of all draws.
    is_focal: whether losses are balls; else they fill whole regions of the atlas.
    num_planted: places.
  Raises:
    InputError: a number of people that is no multiple of the maps', or a map without grey matter.
  """
  folder = data.LabelMapFolder(root)
  check.require(
    num % len(folder) == 0, f"a multiple of {len(folder)} people", f"{num}", "as many for each map"
  )
  structures: dict[str, tuple[int, ...]] = {"cortex": (3, 42), "cerebellum": (8, 47)}
  for left, name in (
    (10, "thalamus"), (11, "caudate"), (12, "putamen"), (13, "pallidum"), (17, "hippocampus"),
    (18, "amygdala"),
  ):  # fmt: skip
    structures |= {f"left {name}": (left,), f"right {name}": (freesurfer.SIDES[left],)}
  values = np.array(folder.label_values)
  each = num // len(folder)
  names = tuple(name for name in folder.names for _ in range(each))

  def anatomies() -> Iterable[np.ndarray]:
    for index in range(len(folder)):
      label = folder[index].label
      assert label is not None
      label = values[label]
      inside = np.argwhere((label > 0) & (label < 500))  # 5xx is outside of the brain
      check.require(
        np.isin(label, structures["cortex"]).any(),
        f"grey matter in {folder.names[index]}",
        "none of the values 3 and 42",
        "pass maps with FreeSurfer's values",
      )
      box = tuple(slice(a, b + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True))
      own = shares(label[box], structures, size)
      for copy in range(each):
        yield _displaced(own, generator(seed, "displacement", index * each + copy))

  about = {**folder.manifest(), "num": num, "seed": seed}
  title = "losses drawn on anatomies of label maps"
  return _people(
    title, anatomies(), names, tuple(structures), seed, is_focal, num_planted, about
  )  # fmt: skip


def shares(label: np.ndarray, structures: Mapping[str, Sequence[int]], size: int) -> np.ndarray:
  """[structure, size, size, size]: the share of each voxel of a coarse grid that a structure fills.

  >>> label = np.zeros((2, 2, 2), int)
  >>> label[0] = 7
  >>> shares(label, {"grey": (7,)}, 1).ravel().tolist()
  [0.5]
  """
  number = np.full(int(label.max()) + 1, -1)
  for k, values in enumerate(structures.values()):
    number[[value for value in values if value < len(number)]] = k
  cells = [np.arange(n) * size // n for n in label.shape]
  place = (cells[0][:, None, None] * size + cells[1][:, None]) * size + cells[2]
  own = number[label]
  counts = np.bincount(
    (own * size**3 + place)[own >= 0], minlength=len(structures) * size**3
  ).reshape(len(structures), size, size, size)
  total = np.bincount(place.ravel(), minlength=size**3).reshape((size,) * 3)
  return (counts / np.maximum(total, 1)).astype(np.float32)


def _displaced(own: np.ndarray, random: np.random.Generator) -> np.ndarray:
  """Structures under a smooth displacement whose deviation is a thirtieth of the side."""
  from scipy import ndimage

  size = own.shape[-1]
  grid = np.indices(own.shape[1:]).astype(np.float32)
  for axis in range(3):
    coarse = random.normal(0, size / 30, (4, 4, 4))
    grid[axis] += ndimage.zoom(coarse, size / 4, order=3, mode="nearest", grid_mode=True)
  return np.stack([ndimage.map_coordinates(part, grid, order=1, mode="nearest") for part in own])


def _people(
  title: str,
  anatomies: Iterable[np.ndarray],
  names: Sequence[str],
  structures: tuple[str, ...],
  seed: int,
  is_focal: bool,
  num_planted: int,
  about: dict[str, Json],
) -> Brains:
  """Losses, images and volumes of everybody; the first structure has eight regions, by octants."""
  own = np.stack(list(anatomies))  # [n, structure, size, size, size]
  num, size = len(own), own.shape[-1]
  middle = (np.indices((size,) * 3) >= size / 2).reshape(3, -1)
  octant = (np.array([4, 2, 1]) @ middle).reshape((size,) * 3)
  regions = [f"{structures[0]} {k}" for k in range(8)] + list(structures[1:])
  template = own.mean(0)
  atlas = np.stack([template[0] * (octant == k) for k in range(8)] + list(template[1:]))
  random = generator(seed, "planted places")
  grey, radius = template.sum(0), size / 10
  anywhere = np.argwhere(grey > 0.6 * grey.max())
  if is_focal:
    centres = _apart(anywhere, num_planted, 3 * radius, random)
    balls = [_ball(centre, radius, size) for centre in centres]
  else:
    chosen = random.choice(len(atlas), num_planted, replace=False)
    balls = [(atlas[k] > 0.1 * atlas[k].max()).astype(np.float32) for k in chosen]
    centres = np.stack([np.argwhere(ball).mean(0) for ball in balls])
  label = (np.arange(num) % 2).astype(np.int32)
  images, volumes = [], []
  for i, parts in enumerate(own):
    random = generator(seed, "losses", i)
    has = random.uniform(size=num_planted) < (0.8 if label[i] else 0.1)
    keep = np.full((size,) * 3, 1 - random.uniform(0, 0.2))
    for ball, is_lost in zip(balls, has, strict=True):
      keep *= 1 - is_lost * random.uniform(0.4, 0.8) * ball
    for place in anywhere[random.integers(len(anywhere), size=_NUM_DECOYS)]:
      keep *= 1 - random.uniform(0.4, 0.8) * _ball(place, radius, size)
    left = parts * keep
    octants = [left[0][octant == k].sum() for k in range(8)]
    volumes.append([*octants, *left[1:].sum((1, 2, 3)), left.sum()])
    images.append(left.sum(0) + random.normal(0, _NOISE, (size,) * 3))
  image = np.stack(images).astype(np.float32)[..., None]
  about = {**about, "size": size, "focal": is_focal, "images": manifest.array_digest(image)}
  return Brains(
    title,
    image,
    np.array(volumes, np.float32),
    (*regions, "all"),
    label,
    tuple(names),
    centres.astype(np.float32),
    about,
  )


def _ball(centre: np.ndarray, radius: float, size: int) -> np.ndarray:
  """1 inside of a ball, 0 outside, with an edge of a voxel."""
  grid = np.indices((size,) * 3).transpose(1, 2, 3, 0)
  return np.clip(radius + 0.5 - np.linalg.norm(grid - centre, axis=-1), 0, 1).astype(np.float32)


def _apart(
  places: np.ndarray, num: int, distance: float, random: np.random.Generator
) -> np.ndarray:
  """`num` places, none nearer to another one than the distance."""
  chosen: list[np.ndarray] = []
  for place in random.permutation(places):
    if all(np.linalg.norm(place - other) >= distance for other in chosen):
      chosen.append(place)
    if len(chosen) == num:
      return np.stack(chosen)
  raise check.InputError(
    f"{num} places at least {distance:.1f} voxels apart", f"{len(chosen)}", "plant fewer"
  )
