"""Procedural hearts in short-axis stacks, and four simulated vendors that scan them.

A left ventricle (LV) with papillary muscles inside a ring of myocardium (MYO), a right ventricle
(RV) as a crescent beside it, and around them what such images show and nobody labels: fat, lung,
liver, chest wall, descending aorta. Everything is drawn in millimetres, at the end of diastole (ED)
and of systole (ES), where the cavities are smaller and the wall is as much thicker as its area
asks. The contrast is that of balanced steady-state free precession at TE = TR / 2 with TR << T1:

  S = PD sin a / (1 + cos a + (1 - cos a) T1 / T2) exp(-TE / T2)

(Scheffler & Lehnhardt, European Radiology 2003); the rest is `synth.rescan`. The classes are those
of the M&Ms challenge (`data.sets.mnms`), the vendors' numbers are nobody's.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax.check import one_of, positive, require
from medjax.data import manifest
from medjax.data.seeds import Seed, generator
from medjax.data.sets.mnms import CLASS_NAMES
from medjax.synth.acquisition import Site, rescan
from medjax.synth.artefacts import Ghosting, IntensityCurve
from medjax.synth.coils import Coil
from medjax.synth.sequences import SpoiledGradientEcho
from medjax.types import Example, Json

PHASES = ("ED", "ES")
_LUNG, _BLOOD, _MYOCARDIUM, _FAT, _LIVER, _MUSCLE = range(6)
# (T1, T2) in ms at 1.5 and 3 T, proton density: Stanisz et al. 2005 (blood, heart, liver, muscle),
# de Bazelaire et al. 2004 (fat); lung: little water, short T2.
_TISSUES = (
  ((1200.0, 35.0), (1300.0, 30.0), 0.15),
  ((1441.0, 290.0), (1932.0, 275.0), 0.95),
  ((1030.0, 40.0), (1471.0, 47.0), 0.80),
  ((343.0, 58.0), (382.0, 68.0), 0.90),
  ((576.0, 46.0), (812.0, 42.0), 0.75),
  ((1008.0, 44.0), (1412.0, 50.0), 0.79),
)
_ECHO_TIME = 1.5  # ms


@dataclasses.dataclass(frozen=True)
class Vendor:
  """A scanner of hearts.

  Attributes:
    name: letter, as in the challenge.
    field: 1.5 or 3 tesla.
    flip_angle: a, in degrees; small ones darken blood against myocardium.
    site: everything after the contrast; its own sequence and field are not used.
  """

  name: str
  field: float
  flip_angle: float | int
  site: Site

  def __post_init__(self):
    one_of("field", self.field, (1.5, 3.0))
    positive("flip_angle", self.flip_angle)

  def signals(self) -> np.ndarray:
    """[tissue] S of the module for lung, blood, myocardium, fat, liver, muscle."""
    angle = np.deg2rad(self.flip_angle)
    t1, t2 = np.array([row[self.field == 3.0] for row in _TISSUES]).T
    density = np.array([row[2] for row in _TISSUES])
    relaxed = 1 + np.cos(angle) + (1 - np.cos(angle)) * t1 / t2
    return density * np.sin(angle) / relaxed * np.exp(-_ECHO_TIME / t2)


def _vendor(name: str, field: float, flip_angle: float | int, text: str, **settings: Any) -> Vendor:
  site = Site(f"cardiac-{name}", text, "t1", field, SpoiledGradientEcho(), **settings)
  return Vendor(name, field, flip_angle, site)


VENDORS: dict[str, Vendor] = {
  vendor.name: vendor
  for vendor in (
    _vendor(
      "A", 1.5, 60, "1.5 T, evenly lit.",
      voxel_mm=(1.5, 8.0), noise=(0.01, 0.02), coil=Coil(num_elements=6, shading=0.2),
    ),
    _vendor(
      "B", 1.5, 45, "1.5 T, coarser, unevenly lit by three elements.",
      voxel_mm=(2.2, 10.0), noise=(0.02, 0.04), coil=Coil(num_elements=3, shading=0.4, angle=30.0),
    ),
    _vendor(
      "C", 3.0, 30, "3 T with small flip angles, a steep surface coil and noise.",
      voxel_mm=(2.6, 10.0), noise=(0.05, 0.08),
      coil=Coil(num_elements=2, distance=1.4, radius=1.2, shading=1.0, angle=90.0),
    ),
    _vendor(
      "D", 3.0, 50, "3 T, ghosts of the beating heart, an unknown contrast curve.",
      voxel_mm=(1.8, 8.0), noise=(0.02, 0.04), coil=Coil(num_elements=4, shading=0.5),
      ghosting=Ghosting(), curve=IntensityCurve(),
    ),
  )
}  # fmt: skip
"""A and B to train on; C differs from them in degree, D by effects of no generator (out of
family)."""


class Heart(NamedTuple):
  """One heart at one time: class ids and tissue ids, [x, y, slice] int32 each."""

  label: np.ndarray
  tissue: np.ndarray


class CardiacAnatomy:
  """A Source of short-axis stacks, two cases (ED, ES) a patient, base first.

  Patient and time fix the anatomy, whoever scans it: sources of one seed that differ in their
  vendor show the same people. Images are [x, y, slice, 1], 0 or more.

  Attributes:
    names: names of the cases, e.g. "heart_0_00012_ES".
    phases: "ED" or "ES" of each.
  """

  class_names: tuple[str, ...] = CLASS_NAMES
  channel_names: tuple[str, ...] = ("cine MR",)

  def __init__(
    self,
    num_patients: int,
    seed: Seed,
    *,
    vendor: str | Vendor = "A",
    shape: Sequence[int] = (64, 64, 6),
    field_of_view_mm: float | int = 160.0,
    slice_mm: float | int = 10.0,
  ):
    """Describes the hearts; each is computed when asked for.

    Args:
      num_patients: people.
      seed: any int.
      vendor: a name of `VENDORS`, or your own.
      shape: voxels along x and y, and slices from base to apex.
      field_of_view_mm: of both in-plane axes.
      slice_mm: from slice to slice.
    """
    require(num_patients >= 1, "num_patients >= 1", f"{num_patients=}", "pass a positive number")
    require(
      len(shape) == 3 and min(shape) >= 2,
      "shape as (x, y, slices) of at least 2 each",
      f"{tuple(shape)}",
      "pass for example (64, 64, 6)",
    )
    positive("field_of_view_mm", field_of_view_mm)
    positive("slice_mm", slice_mm)
    if isinstance(vendor, str):
      one_of("vendor", vendor, VENDORS)
      vendor = VENDORS[vendor]
    self.vendor, self.seed, self.shape = vendor, seed, tuple(shape)
    self.spacing = (*(float(field_of_view_mm) / n for n in self.shape[:2]), float(slice_mm))
    people = [f"heart_{seed}_{index:05d}" for index in range(num_patients)]
    self.subjects = tuple(person for person in people for _ in PHASES)
    self.phases = PHASES * num_patients
    self.names = tuple(f"{p}_{phase}" for p in people for phase in PHASES)
    self.domains = (vendor.name,) * len(self.names)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    found = heart(self.seed, index // 2, self.phases[index], self.shape, self.spacing)
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=self._scan(found.tissue, index),
      label=found.label,
      spacing=self.spacing,
      affine=np.diag([*self.spacing, 1.0]),
      domain=self.vendor.name,
    )

  def manifest(self) -> dict[str, Json]:
    return manifest.describe(
      "cardiac",
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options={
        "seed": self.seed,
        "vendor": self.vendor,
        "shape": self.shape,
        "spacing": self.spacing,
      },
    )

  def _scan(self, tissue: np.ndarray, index: int) -> np.ndarray:
    """The vendor's image; no random number is shared between two vendors."""
    from scipy import ndimage

    random = generator(self.seed, f"cardiac contrast {self.vendor.name}", index)
    signals = self.vendor.signals() * np.exp(0.05 * random.standard_normal(len(_TISSUES)))
    texture = ndimage.gaussian_filter(random.standard_normal(tissue.shape), (1.5, 1.5, 0.5))
    contrast = signals[tissue] * (1 + 0.05 * texture / texture.std())
    blurred = ndimage.gaussian_filter(contrast, (0.5, 0.5, 0.0))
    key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(self.vendor.name.encode()))
    scan = _scanner(self.vendor.site, self.spacing)
    image = scan(jax.random.fold_in(key, index), blurred.astype(np.float32)[..., None])
    return np.asarray(image)


def heart(
  seed: Seed, patient: int, phase: str, shape: Sequence[int], spacing: Sequence[float]
) -> Heart:
  """The anatomy of a patient at "ED" or "ES", a function of (seed, patient) and time.

  Args:
    seed, patient: any ints.
    phase: "ED" or "ES".
    shape: voxels along x, y, and slices.
    spacing: voxel size in mm, three.
  """
  one_of("phase", phase, PHASES)
  random = generator(seed, "heart", patient)
  cavity_mm, wall_mm = random.uniform(19, 27), random.uniform(7, 11)
  shortening, swing = random.uniform(0.6, 0.8), random.uniform(0.7, 0.85)
  turn = np.pi + random.normal(0, 0.35)  # towards the right ventricle
  centre, tilt = random.normal(0, 8, 2), random.normal(0, 6, 2)
  bumps = random.normal(0, 0.03, (3, 3)), random.uniform(0, 2 * np.pi, (3, 3))
  breath = random.normal(0, 1.0, (shape[2], 2))  # slices are of different breath-holds
  organs = random.uniform(-1, 1, 8)
  is_systole = phase == "ES"
  label, tissue = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  lines = [(np.arange(n) + 0.5 - n / 2) * mm for n, mm in zip(shape[:2], spacing, strict=False)]
  plane = np.stack(np.meshgrid(*lines, indexing="ij"))
  for z in range(shape[2]):
    depth = (z + 0.5) / shape[2]  # 0 base, 1 apex
    taper = np.sqrt(1 - (0.92 * depth) ** 2)
    place = plane - (centre + (depth - 0.5) * tilt + breath[z])[:, None, None]
    radius, angle = np.hypot(*place), np.arctan2(place[1], place[0]) - turn
    inner, outer = taper * cavity_mm, taper * (cavity_mm + wall_mm)
    if is_systole:
      inner, outer = shortening * inner, np.sqrt(outer**2 - inner**2 + (shortening * inner) ** 2)
    cavity = radius < inner * _wave(angle, bumps, 0)
    epicardium = (radius < outer * _wave(angle, bumps, 1)) | cavity
    right = _crescent(place, turn, outer, depth, swing if is_systole else 1.0, 0.0, bumps)
    right_wall = _crescent(place, turn, outer, depth, swing if is_systole else 1.0, 3.0, bumps)
    tissue[..., z] = _surroundings(plane, radius, outer, depth, organs)
    tissue[right_wall, z] = _MUSCLE
    tissue[right, z] = _BLOOD
    tissue[epicardium, z] = _MYOCARDIUM
    tissue[cavity, z] = _BLOOD
    for side in (-1.0, 1.0):  # papillary muscles belong to the cavity, as in the challenge
      at = 0.62 * inner * np.array([np.cos(turn + np.pi + side), np.sin(turn + np.pi + side)])
      muscle = np.hypot(*(place - at[:, None, None])) < 0.16 * inner
      tissue[muscle & cavity & (0.2 < depth < 0.8), z] = _MYOCARDIUM
    label[right & ~epicardium, z] = 3
    label[epicardium, z] = 2
    label[cavity, z] = 1
  return Heart(label, tissue)


def _wave(angle: np.ndarray, bumps: tuple[np.ndarray, np.ndarray], row: int) -> np.ndarray:
  """1 plus the second to fourth harmonic: outlines are no circles."""
  sizes, starts = bumps[0][row], bumps[1][row]
  waves = [a * np.cos(k * angle + s) for k, a, s in zip((2, 3, 4), sizes, starts, strict=True)]
  return 1 + sum(waves, np.zeros_like(angle))


def _crescent(
  place: np.ndarray,
  turn: float,
  outer: float,
  depth: float,
  size: float,
  margin_mm: float,
  bumps: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
  """The ellipse whose part outside the left ventricle is the right one; none near the apex."""
  scale = size * np.sqrt(max(1 - (depth / 0.88) ** 2, 0.0))
  if scale == 0:
    return np.zeros(place.shape[1:], bool)
  along = place[0] * np.cos(turn) + place[1] * np.sin(turn) - 0.85 * outer
  across = -place[0] * np.sin(turn) + place[1] * np.cos(turn)
  short, long = 0.85 * outer * scale + margin_mm, 1.25 * outer * scale + margin_mm
  ring = np.hypot(along / short, across / long)
  return ring < _wave(np.arctan2(across, along), bumps, 2)


def _surroundings(
  plane: np.ndarray, radius: np.ndarray, outer: float, depth: float, organs: np.ndarray
) -> np.ndarray:
  """Tissue ids of the chest around a heart, [x, y]."""
  x, y = plane
  tissue = np.full(x.shape, _LUNG)
  tissue[x > 52 + 8 * organs[0] - 0.2 * y - 25 * depth] = _LIVER
  wall = y + 0.15 * x
  tissue[wall < -58 + 6 * organs[1]] = _MUSCLE
  tissue[wall < -68 + 6 * organs[1]] = _FAT
  fat = outer + 6 + 4 * organs[2] + 5 * np.cos(np.arctan2(y, x) - np.pi * organs[3])
  tissue[radius < fat] = _FAT
  aorta = np.hypot(x - 10 - 10 * organs[4], y - 58 - 6 * organs[5])
  tissue[aorta < 13 + 2 * organs[6]] = _MUSCLE
  tissue[aorta < 11 + 2 * organs[6]] = _BLOOD
  return tissue


@functools.lru_cache(maxsize=16)
def _scanner(site: Site, spacing: tuple[float, ...]) -> Callable[[Any, np.ndarray], jax.Array]:
  """Compiled once a vendor."""
  return jax.jit(lambda key, image: rescan(site, key, image, spacing=spacing, slice_axis=2))
