"""Prostates of three centres: real zones of real people, with pictures by medjax's own generator.

Not a study: what the study of clinics looks at. The label maps (two zones, drawn on T2 scans) are
real and come without scans. So each centre gets a contrast of its own, as its scanner would have:
what a clinic shares and what it does not is known, and no claim on real T2 follows from it.
"""

import pathlib

import jax
import numpy as np
from scipy import ndimage

from experiments import clinic_sets
from medjax import check, data, rng, synth, tables
from medjax.data import manifest
from medjax.synth import grouping

SIZE = 64  # pixels of 1.5 mm
NAMES = ("background", "peripheral zone", "transition zone")
# Dark and bright tissue stands around the prostate, so that brightness alone does not tell it.
_TISSUES = grouping.build(
  {0: "around", 1: "peripheral", 2: "transition", 3: "dark", 4: "bright"},
  {1: NAMES[1], 2: NAMES[2]},
  target_names=NAMES,
)
# Means of those five in each picture are drawn from these ranges: the prior of one contrast.
CENTRES: dict[str, tuple[tuple[float, float], ...]] = {
  "RUMC": ((80.0, 110.0), (170.0, 220.0), (100.0, 140.0), (20.0, 60.0), (180.0, 240.0)),
  "ZGT": ((60.0, 90.0), (120.0, 160.0), (95.0, 120.0), (10.0, 40.0), (130.0, 200.0)),
  "PCNN": ((110.0, 150.0), (190.0, 240.0), (90.0, 130.0), (60.0, 100.0), (150.0, 210.0)),
}
_NOISE = {"RUMC": (0.01, 0.03), "ZGT": (0.03, 0.06), "PCNN": (0.02, 0.04)}


def prostates(root: pathlib.Path, seed: int) -> clinic_sets.Clinics:
  """The slice with most prostate of every case of a folder with zones/*.nii.gz and cases.csv.

  Raises:
    InputError: a map without a line in cases.csv, or one of another centre than the three.
  """
  maps = data.LabelMapFolder(root / "zones", label_values=(0, 1, 2), subject_pattern="^([0-9]+)_")
  lines = tables.read_table(root / "cases.csv", ("case", "center"))
  centre = {line.filled("case"): line.filled("center") for line in lines}
  for name in maps.names:
    check.one_of(f"centre of {name} in cases.csv", centre.get(name, "none"), CENTRES)
  images, labels = [], []
  for index, name in enumerate(maps.names):
    case = maps[index]
    label = widest_slice(np.asarray(case.label), case.spacing)
    images.append(picture(label, centre[name], seed, index))
    labels.append(label)
  domains = [centre[name] for name in maps.names]
  about = manifest.describe(
    "prostates of three centres, pictures by synthesis",
    class_names=NAMES,
    channel_names=("synthetic T2",),
    subjects=maps.subjects,
    options={"seed": seed, "maps": maps.manifest()},
  )
  source = clinic_sets.Arrays(about, maps.subjects, domains, np.stack(images), np.stack(labels))
  return clinic_sets.Clinics(source, clinic_sets.parted(source, seed))


def widest_slice(volume: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
  """[SIZE, SIZE] the slice with most labelled voxels, on pixels of 1.5 mm around its centre."""
  plane = volume[..., int((volume > 0).sum((0, 1)).argmax())]
  # Only the voxel nearest to each pixel is looked up: resampling whole volumes takes minutes.
  away = (np.arange(SIZE) - (SIZE - 1) / 2) * 1.5
  places = [
    np.rint(away / step + (count - 1) / 2).astype(int)
    for step, count in zip(spacing, plane.shape, strict=False)
  ]
  inside = [(at >= 0) & (at < count) for at, count in zip(places, plane.shape, strict=True)]
  rows, columns = (at.clip(0, count - 1) for at, count in zip(places, plane.shape, strict=True))
  found = plane[np.ix_(rows, columns)]
  return np.where(inside[0][:, None] & inside[1][None], found, 0).astype(np.int32)


def picture(label: np.ndarray, centre: str, seed: int, index: int) -> np.ndarray:
  """[SIZE, SIZE, 1] in [0, 1]: a picture of a label map under the contrast of a centre."""
  random = np.random.default_rng([seed, index])
  field = ndimage.gaussian_filter(random.normal(size=label.shape), 4)
  field = field / field.std()
  around = np.where(field > 0.8, 4, np.where(field < -0.8, 3, 0))
  tissue = np.where(label > 0, label, around).astype(np.int32)
  key = jax.random.fold_in(rng.stream(jax.random.key(seed), "pictures"), index)
  return np.asarray(_generated(centre, key, tissue))


def generator(centre: str) -> synth.Generator:
  """What makes pictures of label maps under the contrast of a centre."""
  return synth.Generator(
    _TISSUES,
    mixture=synth.Mixture(
      mean=CENTRES[centre], std=(5.0, 20.0), zero_background=0.0, dark_background=0.0
    ),
    bias=synth.BiasField(strength=(0.0, 0.3)),
    blur=synth.Blur(fwhm=(0.5, 2.0)),
    noise=synth.Noise(std=_NOISE[centre]),
  )


def _made(centre: str, key: jax.Array, tissue: np.ndarray) -> jax.Array:
  return synth.generate(generator(centre), key, jax.numpy.asarray(tissue))[0]


_generated = jax.jit(_made, static_argnums=0)
