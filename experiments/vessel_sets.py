"""Pictures of vessels: simulated trees under several appearances, and folders of real ones.

Not a study: each site is a Source of grey pictures of one side length, classes background and
vessel, whose domain it is. `views` shows a picture in other ways that keep its vessels.
"""

import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from medjax import check, data
from medjax.study import sites
from medjax.types import Example, Json, Source

NAMES = ("background", "vessel")
_PERSON = r"^(.+?)[LR]?$"  # both eyes of a person, where names end in L and R


def _plain(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
  return x


def _inverted(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
  return 1 - x


def _speckled(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
  field = ndimage.gaussian_filter(random.normal(size=x.shape), x.shape[0] / 5)
  field = field / np.abs(field).max()
  return x * (1 + 0.5 * field) * random.gamma(8, 1 / 8, x.shape)


def _blurred(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
  return ndimage.gaussian_filter(0.35 + 0.3 * x, 1.0) + random.normal(0, 0.02, x.shape)


APPEARANCES: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
  "known": _plain,
  "inverted": _inverted,
  "speckled": _speckled,
  "blurred": _blurred,
}
"""Site -> what it does to a picture in [0, 1]; "known" trains."""


def tree(num: int, size: int, seed: int, appearance: str) -> Source:
  """Bright trees of smooth random walks, one to three pixels wide, under one appearance.

  Args:
    num: people, one picture each.
    size: side in pixels.
    seed: any int.
    appearance: of `APPEARANCES`.
  """
  change = APPEARANCES[appearance]

  def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((size, size), bool)
    walks = [(*random.uniform(0.2, 0.8, 2) * size, random.uniform(0, 2 * np.pi), 1.6)
             for _ in range(4)]  # fmt: skip
    while walks:
      y, x, angle, radius = walks.pop()
      for _ in range(size):
        angle += random.normal(0, 0.18)
        y, x = y + np.sin(angle), x + np.cos(angle)
        if not (0 <= y < size and 0 <= x < size):
          break
        low, reach = np.maximum([int(y) - 2, int(x) - 2], 0), np.array([int(y) + 3, int(x) + 3])
        rows, columns = np.ogrid[low[0] : min(reach[0], size), low[1] : min(reach[1], size)]
        near = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        mask[low[0] : reach[0], low[1] : reach[1]] |= near
        if radius > 0.8 and random.random() < 0.04:
          turn = angle + random.choice([-0.8, 0.8])
          walks.append((y, x, turn, radius * 0.7))
    field = ndimage.gaussian_filter(random.normal(size=mask.shape), size / 6)
    soft = ndimage.gaussian_filter(mask.astype(float), 0.6)
    seen = (
      0.35 + 0.1 * field / np.abs(field).max() + 0.3 * soft + random.normal(0, 0.06, mask.shape)
    )
    changed = np.clip(change(np.clip(seen, 0, 1), random), 0, 1)
    return changed[..., None].astype(np.float32), mask.astype(np.int32)

  return data.Simulated(
    "simulated vessels", num, seed, draw, class_names=NAMES, domain=appearance,
    options={"size": size, "appearance": appearance},
  )  # fmt: skip


class VesselFolder:
  """Pictures of an nnU-Net folder as grey squares in [0, 1], vessels bright in fundus pictures.

  Of pictures in colour the green channel is turned around, as the paper does; grey ones stay. Each
  is scaled to `size`, and a pixel is vessel where a quarter of what it covers is.
  """

  def __init__(self, path: pathlib.Path, size: int):
    own = data.NnUNetFolder(path, normalise="none", subject_pattern=_PERSON)
    check.require(
      len(own.class_names) == 2, f"background and vessel in {path}", f"{own.class_names}", "join"
    )
    self._own, self._size = own, size
    self.class_names: tuple[str, ...] = NAMES
    self.channel_names: tuple[str, ...] = ("grey",)
    self.subjects: tuple[str, ...] = own.subjects
    self.domains: tuple[str, ...] = (path.name,) * len(own)
    self._cases: dict[int, Example] = {}

  def __len__(self) -> int:
    return len(self._own)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    if index not in self._cases:
      case = self._own[index]
      picture, label = np.asarray(case.image, np.float64) / 255, np.asarray(case.label)
      grey = 1 - picture[..., 1] if picture.shape[-1] == 3 else picture[..., 0]
      zoom = [self._size / n for n in grey.shape]
      smooth = [max(0.0, 0.35 * (1 / z - 1)) for z in zoom]  # antialiasing
      grey = ndimage.zoom(ndimage.gaussian_filter(grey, smooth), zoom, order=1)
      share = ndimage.zoom(ndimage.uniform_filter((label == 1).astype(float),
                                                  [max(1, round(1 / z)) for z in zoom]),
                           zoom, order=1)  # fmt: skip
      self._cases[index] = case.replace(
        image=np.clip(grey, 0, 1)[..., None].astype(np.float32),
        label=(share >= 0.25).astype(np.int32),
        domain=self.domains[0],
        spacing=(1.0, 1.0),
      )
    return self._cases[index]

  def manifest(self) -> dict[str, Json]:
    return {**self._own.manifest(), "shown as": "grey squares of vessels", "size": self._size}


def folders(paths: tuple[pathlib.Path, ...], size: int) -> dict[str, Source]:
  """Real sites by the names of their folders."""
  names = sites.names_of(paths)
  return {name: VesselFolder(path, size) for name, path in zip(names, paths, strict=True)}


def views(image: np.ndarray) -> np.ndarray:
  """[3, height, width, 1] of a picture [height, width, 1]: vessels stay where they are.

  The paper trains three networks on vessels alone and takes what their middles look like.
  DEVIATION: here the maps are analytic: local contrast, its square root turned around, and its
  edges, each in [0, 1].
  """
  x = image[..., 0].astype(np.float64)
  wide, near = (ndimage.gaussian_filter(x, s) for s in (6.0, 1.0))
  spread = np.sqrt(ndimage.gaussian_filter((x - wide) ** 2, 6.0)) + 0.02
  contrast = 1 / (1 + np.exp(-1.5 * (x - wide) / spread))
  edges = ndimage.gaussian_gradient_magnitude(near, 1.0)
  found = [contrast, 1 - np.sqrt(contrast), 1 - edges / (edges.max() + 1e-6)]
  return np.stack(found)[..., None].astype(np.float32)
