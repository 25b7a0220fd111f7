"""Procedural anatomies: label maps, and images if asked, of any size in 2D or 3D.

A shell around an inner tissue with small deep structures inside, drawn as ellipsoids in normalised
coordinates and warped by a smooth random displacement. Deep structures keep their place relative to
the whole, as organs do, and vary in size and position from case to case.
"""

from collections.abc import Sequence

import numpy as np

from medjax.check import non_negative, require
from medjax.data import manifest
from medjax.data.seeds import Seed, generator
from medjax.types import Example, Json

_OUTER, _INNER = 0.84, 0.68  # radii as fractions of half the field of view
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


class ProceduralAnatomy:
  """A Source whose case `index` is a function of (seed, index) and of nothing else.

  Class 0 is background, 1 the inner tissue if there are two classes, else the shell; 2 the inner
  tissue; 3..K-1 deep structures.
  """

  def __init__(
    self,
    num_cases: int,
    shape: Sequence[int],
    num_classes: int,
    seed: Seed,
    *,
    with_image: bool = False,
    noise: float | int = 0.05,
    warp: float | int = 0.08,
    domain: str = "",
  ):
    """Describes the anatomies; each is computed when asked for.

    Args:
      num_cases: number of cases; each is its own subject.
      shape: voxels per axis, 2 or 3 axes.
      num_classes: 2 or more, background included.
      seed: any int.
      with_image: also give an image of one channel: class means evenly spaced in [0, 1] in an order
        that `seed` fixes (background 0), blurred by 0.6 voxels, plus noise.
      noise: standard deviation of the white noise, in units of the intensity range.
      warp: standard deviation of the displacement, as a fraction of half the field of view.
      domain: site name of all cases.
    """
    require(num_cases >= 1, "num_cases >= 1", f"{num_cases=}", "pass a positive number")
    require(
      len(shape) in (2, 3) and min(shape) >= 4,
      "shape with 2 or 3 axes of at least 4 voxels",
      f"{tuple(shape)}",
      "pass for example (64, 64)",
    )
    require(num_classes >= 2, "num_classes >= 2", f"{num_classes=}", "count the background")
    non_negative("noise", float(noise))
    non_negative("warp", float(warp))
    self.shape, self.num_classes, self.seed = tuple(shape), num_classes, seed
    self._num_cases, self._with_image, self._noise, self._warp = num_cases, with_image, noise, warp
    named = ("background", "inner") if num_classes == 2 else ("background", "shell", "inner")
    self.class_names: tuple[str, ...] = named + tuple(
      f"deep_{j}" for j in range(num_classes - len(named))
    )
    self.channel_names: tuple[str, ...] = ("intensity",) if with_image else ()
    self.names = tuple(f"procedural_{seed}_{index:05d}" for index in range(num_cases))
    self.subjects = self.names
    self.domains = (domain,) * num_cases
    order = generator(seed, "procedural class means").permutation(num_classes - 1)
    self.class_means = np.concatenate([[0.0], (1.0 + order) / (num_classes - 1)])

  def __len__(self) -> int:
    return self._num_cases

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    label = self._label(generator(self.seed, "procedural label", index))
    image = None
    if self._with_image:
      image = self._image(label, generator(self.seed, "procedural image", index))
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=image,
      label=label,
      spacing=(1.0,) * len(self.shape),
      affine=np.eye(4),
      domain=self.domains[index],
    )

  def manifest(self) -> dict[str, Json]:
    options = {
      "num_cases": len(self),
      "shape": self.shape,
      "num_classes": self.num_classes,
      "seed": self.seed,
      "with_image": self._with_image,
      "noise": self._noise,
      "warp": self._warp,
      "domain": self.domains[0],
    }
    return manifest.describe(
      "procedural",
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options=options,
    )

  def _label(self, random: np.random.Generator) -> np.ndarray:
    num_axes = len(self.shape)
    place = _warped_coordinates(self.shape, self._warp, random)
    axes = 1 + 0.1 * random.uniform(-1, 1, num_axes)  # the whole is never a perfect sphere
    thickness = random.uniform(0.8, 1.2)
    label = np.zeros(self.shape, np.int32)
    if self.num_classes > 2:
      label[_inside(place, np.zeros(num_axes), _OUTER * axes)] = 1
    inner = _OUTER - (_OUTER - _INNER) * thickness
    label[_inside(place, np.zeros(num_axes), inner * axes)] = min(2, self.num_classes - 1)
    num_deep = self.num_classes - 3
    for j in range(num_deep):
      centre = _deep_centre(j, num_deep, num_axes) * axes + 0.03 * random.uniform(-1, 1, num_axes)
      radius = min(0.2, 0.38 / np.sqrt(num_deep)) * random.uniform(0.75, 1.15, num_axes)
      label[_inside(place, centre, radius)] = 3 + j
    return label

  def _image(self, label: np.ndarray, random: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    clean = ndimage.gaussian_filter(self.class_means[label], 0.6)
    noisy = clean + self._noise * random.standard_normal(self.shape)
    return noisy.astype(np.float32)[..., None]


def _deep_centre(j: int, num_deep: int, num_axes: int) -> np.ndarray:
  """Sunflower arrangement in the first two axes, staggered along the third."""
  distance, angle = 0.48 * np.sqrt((j + 0.5) / num_deep), j * _GOLDEN_ANGLE
  third = [0.12 * (j % 3 - 1)] * (num_axes - 2)
  return np.array([distance * np.cos(angle), distance * np.sin(angle), *third])


def _inside(place: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
  """Mask of an ellipsoid; place [axis, *space]."""
  shape = (-1,) + (1,) * (place.ndim - 1)
  return (((place - centre.reshape(shape)) / radii.reshape(shape)) ** 2).sum(axis=0) < 1


def _warped_coordinates(
  shape: tuple[int, ...], warp: float, random: np.random.Generator
) -> np.ndarray:
  """Coordinates in [-1, 1] per axis, displaced by smooth noise of standard deviation `warp`."""
  from scipy import ndimage

  lines = [(np.arange(size) + 0.5) / size * 2 - 1 for size in shape]
  place = np.stack(np.meshgrid(*lines, indexing="ij"))
  nodes = 5  # control points an axis: displacements vary over about half the field of view
  where = (place + 1) / 2 * (nodes - 1)
  control = random.standard_normal((len(shape), *(nodes,) * len(shape))) * warp
  control = np.clip(control, -2 * warp, 2 * warp)
  displacement = [ndimage.map_coordinates(c, where, order=3, mode="nearest") for c in control]
  return place + np.stack(displacement)
