"""Pictures with an object and a box for promptable networks: simulated groups, or your folders.

Simulated: speckle as of ultrasound with one dark object. In the groups a bright rim goes around it,
which the readers of some groups count as part of the object and those of others do not: what is
right depends on the group, whose speckle and shapes differ too.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax import check, data, study, tables
from medjax.data.seeds import generator
from medjax.types import Example

GROUPS = ("round, rim outside", "lobed, rim inside", "spiked, rim inside")
_RIM = 3.0  # pixels


class Pictures(NamedTuple):
  """Pictures of one object each.

  Attributes:
    image: [n, side, side, channel] float32 in [0, 1].
    mask: [n, side, side] bool, the object.
    group: [n] int32.
    groups: names of the groups.
    subjects: person of each picture.
    manifest: what the run directory records.
    title: of the page.
  """

  image: np.ndarray
  mask: np.ndarray
  group: np.ndarray
  groups: tuple[str, ...]
  subjects: tuple[str, ...]
  manifest: Any
  title: str


def drawn(count: int, side: int, seed: int, *, has_groups: bool = True) -> Pictures:
  """Simulated pictures; without groups there is no rim, and shapes, speckle and sign are drawn."""
  images, masks, groups = [], [], []
  for index in range(count):
    random = generator(seed, "speckle" if has_groups else "shapes", index)
    group = index % len(GROUPS)
    kind = group if has_groups else int(random.integers(3))
    y, x = np.mgrid[:side, :side].astype(np.float32)
    centre = random.uniform(0.35, 0.65, 2) * side
    radius = random.uniform(0.14, 0.24) * side
    angle = np.arctan2(y - centre[0], x - centre[1]) + random.uniform(0, 2 * np.pi)
    waves, depth = ((2, 0.12), (3, 0.2), (9, 0.15))[kind]
    edge = radius * (1 + depth * np.cos(waves * angle))
    inside = edge - np.hypot(y - centre[0], x - centre[1])  # pixels, above 0 within the core
    speckle = random.rayleigh(1.0, (side, side))
    speckle = _smooth(speckle, (0.6, 1.0, 1.5)[kind])
    brightness = np.where(inside > 0, random.uniform(0.25, 0.45), 0.6)
    mask = inside > 0
    if has_groups:
      is_rim = (inside <= 0) & (inside > -_RIM)
      brightness = np.where(is_rim, 0.95, brightness)
      mask = mask | is_rim if group > 0 else mask
    elif random.random() < 0.5:
      brightness = 1 - brightness
    image = brightness * (0.5 + 0.5 * speckle / speckle.mean())
    images.append((image - image.min()) / (image.max() - image.min()))
    masks.append(mask)
    groups.append(group)
  about = {"kind": "simulated speckle", "count": count, "side": side, "seed": seed}
  return Pictures(
    np.stack(images).astype(np.float32)[..., None],
    np.stack(masks),
    np.array(groups, np.int32),
    GROUPS,
    tuple(f"picture {i}" for i in range(count)),
    about,
    "simulated speckle in three groups",
  )


def folders(
  paths: Sequence[pathlib.Path], side: int, *, condition: str = "", person: str = "", most: int = 0
) -> Pictures:
  """The largest object of each labelled picture of nnU-Net folders; others are left out.

  Args:
    paths: folders with imagesTr and labelsTr; of several the folder is the group.
    side: the longer side is scaled to it, zeros go right and below; intensities go to [0, 1].
    condition: column of class.csv beside the pictures that holds the group; "": the folder.
    person: column of class.csv that holds the person; "": each picture is one.
    most: pictures a group, 0 takes all.
  """
  from scipy import ndimage

  images, masks, groups, subjects, manifests = [], [], [], [], {}
  names: list[str] = []
  for path in paths:
    source = data.NnUNetFolder(path, normalise="none")
    manifests[path.name] = source.manifest()
    told = {}
    if condition or person:
      told = {line.text("case"): line for line in tables.read_table(path / "class.csv", ("case",))}
    for index, name in enumerate(source.names):
      example = source[index]
      assert example.image is not None and example.label is not None
      parts, number = ndimage.label(example.label > 0)
      if not number:
        continue
      largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
      group = told[name].filled(condition) if condition else path.name
      if group not in names:
        names.append(group)
      if most and groups.count(names.index(group)) >= most:
        continue
      images.append(_fitted(example.image, side, 1))
      masks.append(_fitted(largest[..., None].astype(np.float32), side, 0)[..., 0] > 0.5)
      groups.append(names.index(group))
      subjects.append(f"{path.name} {told[name].filled(person) if person else name}")
  check.require(
    len(names) > 1, "two groups or more", f"{names}", "pass more folders, or --condition"
  )
  image = np.stack(images)
  return Pictures(
    np.repeat(image, 3, -1) if image.shape[-1] == 1 else image,
    np.stack(masks),
    np.array(groups, np.int32),
    tuple(names),
    tuple(subjects),
    manifests,
    " and ".join(path.name for path in paths),
  )


def lesions(path: pathlib.Path, side: int) -> Pictures:
  """Every labelled picture of an nnU-Net folder, its foreground as one object; no groups."""
  source = data.NnUNetFolder(path, normalise="none")
  examples = [source[i] for i in range(len(source))]
  masks = []
  for example in examples:
    assert example.image is not None and example.label is not None
    inside = (example.label > 0)[..., None].astype(np.float32)
    masks.append(_fitted(inside, side, 0)[..., 0] > 0.5)
  return Pictures(
    np.stack([_fitted(example.image, side, 1) for example in examples]),
    np.stack(masks),
    np.zeros(len(examples), np.int32),
    (path.name,),
    tuple(example.subject for example in examples),
    source.manifest(),
    path.name,
  )


def _fitted(image: np.ndarray | None, side: int, order: int) -> np.ndarray:
  from scipy import ndimage

  assert image is not None
  scale = side / max(image.shape[:2])
  shape = [max(1, round(n * scale)) for n in image.shape[:2]]
  factors = [new / old for new, old in zip(shape, image.shape, strict=False)]
  scaled = ndimage.zoom(image, [*factors, 1.0], order=order, mode="nearest", grid_mode=True)
  out = np.zeros((side, side, image.shape[-1]), np.float32)
  low, high = float(scaled.min()), float(scaled.max())
  out[: shape[0], : shape[1]] = (scaled - low) / max(high - low, 1e-8)
  return out


class _Cases:
  """Pictures as a source, as the search for near-duplicates reads them."""

  class_names: tuple[str, ...] = ("background", "object")
  channel_names: tuple[str, ...] = ("picture",)

  def __init__(self, own: Pictures):
    self._own = own
    self.subjects: tuple[str, ...] = own.subjects
    self.domains: tuple[str, ...] = ("",) * len(own.subjects)

  def __len__(self) -> int:
    return len(self.subjects)

  def __getitem__(self, index: int) -> Example:
    name, label = self.subjects[index], self._own.mask[index].astype(np.int32)
    return Example(f"{name} {index}", name, index, self._own.image[index], label, (1.0, 1.0))

  def manifest(self) -> dict[str, Any]:
    return dict(self._own.manifest)


def check_alike(
  own: Pictures,
  people: Mapping[str, Sequence[str]],
  near_duplicates: float | int,
  picture: pathlib.Path,
) -> None:
  """Refuses pictures of two people on two sides that look like one, see `study.check_alike`."""
  study.check_alike(_Cases(own), people, near_duplicates, picture)


def boxes(masks: np.ndarray) -> np.ndarray:
  """[n, 4] boxes (left, top, right, bottom) of masks [n, row, column], in pixels."""
  found = []
  for mask in masks:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    found.append((columns[0], rows[0], columns[-1], rows[-1]))
  return np.array(found, np.float32)


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
  """Gaussian smoothing around the edges, by the Fourier transform."""
  rates = [np.fft.fftfreq(n) for n in values.shape]
  square = rates[0][:, None] ** 2 + rates[1][None, :] ** 2
  return np.fft.ifft2(np.fft.fft2(values) * np.exp(-2 * (np.pi * sigma) ** 2 * square)).real
