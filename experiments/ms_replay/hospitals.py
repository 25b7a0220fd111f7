"""Centres of the replay study: simulated heads with lesions, or folders of scans, as one pool.

A simulated centre is a scanner of the catalogue. Its heads and its lesions are functions of (seed,
centre, case), so that no anatomy and no lesion stands in two centres or on two sides of a split.
Lesions lie in white matter, more often near the ventricles; their soft label is the share of each
voxel that they fill. Masks of real patients may take the place of some, each in one head.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from medjax import check, data
from medjax.data import manifest as manifests
from medjax.data import readers
from medjax.data.seeds import generator
from medjax.data.volume_pool import VolumePool, volume_pool
from medjax.synth import sites, tissues
from medjax.types import Example, Source

# The published order, by size. Karo has FLAIR and T2 scans, Milan T2 alone, the others FLAIR.
SITES = (
  ("research", ("flair",)),
  ("trial", ("t2", "flair")),
  ("clinic", ("t2",)),
  ("hospital", ("flair",)),
  ("memory", ("flair",)),
  ("legacy", ("flair",)),
  ("lowfield", ("flair",)),
  ("surface", ("flair",)),
)
_HEAD_MM = 190.0  # field of view
_HEAD = 0.84  # of it that a simulated head fills
_BODY = 0.05  # of the largest value: what is above belongs to the body
_TISSUE_OF = {
  1: "cortical_gray_matter",
  2: "white_matter",
  3: "csf",
  4: "csf",
  5: "deep_gray_matter",
  6: "deep_gray_matter",
}
_WHITE, _VENTRICLES = 2, (3, 4)
_SUBVOXELS = 3  # an axis, for the share of a voxel that a lesion fills
_ONE_MASK = 0.8  # Dice, brain on brain, from which two people's lesions are taken for one mask
_LAYOUTS = ("nnunet", "mslesseg", "ljubljana")  # of folders, names of `readers.READERS`


class Study(NamedTuple):
  """All centres.

  Attributes:
    title: what they are.
    centres: names, in the order of the data.
    rows: of each centre, its positions in the pool.
    subjects: of each position.
    image: [case, *space, channel] float32, normalised.
    label: [case, *space] float32 soft labels.
    pool: the same for patches.
    num_train: of each centre, people to train on (those not to test on).
    synthetic: positions of synthetic heads, which belong to no centre.
    manifest: what the data are.
  """

  title: str
  centres: tuple[str, ...]
  rows: dict[str, tuple[int, ...]]
  subjects: tuple[str, ...]
  image: np.ndarray
  label: np.ndarray
  pool: VolumePool
  num_train: dict[str, int]
  synthetic: tuple[int, ...]
  manifest: dict[str, Any]


Normalisation = Literal["zscore", "equalise"]


def simulated(
  num_train: Sequence[int],
  num_test: int,
  shape: Sequence[int],
  seed: int,
  *,
  masks: pathlib.Path | None = None,
  subject_pattern: str | None = None,
  num_synthetic: int = 0,
  normalise: Normalisation = "zscore",
  on_device: bool = True,
) -> Study:
  """As many of the centres `SITES` as there are numbers of people to train on.

  Lesions of the i-th person in the nnU-Net folder `masks` go to one head of centre i modulo their
  number, so that a mask is in one centre and, whatever the split, on one side of it.

  Raises:
    InputError: a number of centres or axes that cannot be, more masks than heads, and what
      `real_lesions` refuses.
  """
  check.require(
    1 < len(num_train) <= len(SITES),
    f"2 to {len(SITES)} simulated centres",
    f"{len(num_train)}",
    "give as many sizes as centres",
  )
  check.require(
    len(shape) in (2, 3), "a shape of 2 or 3 axes", f"{tuple(shape)}", "e.g. --shape 40 40 40"
  )
  spacing = tuple(_HEAD_MM / n for n in shape)
  images, labels, rows, subjects, first = [], [], {}, [], 0
  real = [] if masks is None else real_lesions(masks, tuple(shape), subject_pattern)
  most = len(num_train) * (min(num_train) + num_test)
  check.require(
    len(real) <= most, f"at most {most} real masks", f"{len(real)}", "simulate more people"
  )
  for place, ((name, contrasts), size) in enumerate(zip(SITES, num_train, strict=False)):
    num = size + num_test
    own = real[place :: len(num_train)]
    raw, soft = _centre(name, contrasts, num, tuple(shape), spacing, seed, own)
    images += [raw]
    labels += [soft]
    rows[name] = tuple(range(first, first + num))
    subjects += [f"{name}/person{i:03d}" for i in range(num)]
    first += num
  image, label = np.concatenate(images), np.concatenate(labels)
  options = {
    "num_real_masks": len(real),
    "num_train": num_train,
    "num_test": num_test,
    "shape": shape,
    "seed": seed,
  }
  described = manifests.describe(
    "simulated MS centres",
    class_names=("background", "lesion"),
    channel_names=("MRI",),
    subjects=subjects,
    options=options | {"sites": [f"{n}: {', '.join(c)}" for n, c in SITES[: len(num_train)]]},
  )
  return _study(
    "simulated MS centres",
    rows,
    tuple(subjects),
    image,
    label,
    dict(zip(rows, num_train, strict=True)),
    described,
    generated(num_synthetic, tuple(shape), seed),
    normalise,
    on_device,
  )


def folders(
  paths: Sequence[pathlib.Path],
  test_fraction: float,
  *,
  shape: Sequence[int] | None,
  spacing: Sequence[float] | None,
  subject_pattern: str | None,
  near_duplicates: float,
  seed: int,
  num_synthetic: int = 0,
  normalise: Normalisation = "zscore",
  on_device: bool = True,
) -> Study:
  """Folders, a centre each, in the order of training; any class above 0 is lesion.

  A folder is in nnU-Net's layout, or one of the sets of `data.ms_sets` as distributed (FLAIR).

  Raises:
    InputError: fewer than two folders, one of another layout, cases of unequal spacing without
      `spacing`, a centre without lesion or with too few people, one scan (or a near-duplicate of
      it) under two names, at one centre or at two.
  """
  check.require(
    len(paths) >= 2, "two folders or more after --data", f"{len(paths)}", "one a centre, in order"
  )
  names = _names(paths)
  whole = _Held(
    data.concat(
      {
        name: _opened(path, spacing, subject_pattern)
        for name, path in zip(names, paths, strict=True)
      }
    )
  )
  people = {
    name: sorted({s for s, d in zip(whole.subjects, whole.domains, strict=True) if d == name})
    for name in names
  }
  num_train = {
    name: len(own) - max(int(test_fraction * len(own)), 1) for name, own in people.items()
  }
  for name, own in people.items():
    check.require(
      num_train[name] >= 2,
      f"at least 3 people at {name} for a split",
      f"{len(own)}",
      "merge small centres or leave this one out",
    )
  _check_grids(whole)
  # Every seed draws another split: any two people may come to stand on its two sides.
  apart = data.Splits({person: (person,) for own in people.values() for person in own})
  data.check_content(whole, apart)
  if near_duplicates > 0:
    data.check_near_duplicates(whole, apart, threshold=near_duplicates)
  largest = np.max([np.asarray(whole[i].label).shape for i in range(len(whole))], axis=0)
  grid = tuple(int(n) for n in (largest if shape is None else shape))
  grid = tuple(8 * -(-n // 8) for n in grid)
  stacked = data.stack(whole, shape=grid)
  label = (stacked.label > 0).astype(np.float32)
  rows = {}
  for name in names:
    rows[name] = tuple(i for i, domain in enumerate(whole.domains) if domain == name)
    check.require(
      label[list(rows[name])].any(),
      f"a lesion in some case of {name}",
      "none",
      "check the labels: a class above 0",
    )
  return _study(
    ", ".join(names),
    rows,
    whole.subjects,
    np.asarray(stacked.image),
    label,
    num_train,
    whole.manifest(),
    generated(num_synthetic, grid, seed),
    normalise,
    on_device,
  )


def split(study: Study, seed: int) -> dict[str, dict[str, tuple[int, ...]]]:
  """Positions {centre: {"train", "test"}}, people drawn anew by every seed."""
  parts = {}
  for centre, rows in study.rows.items():
    people = sorted({study.subjects[i] for i in rows})
    order = generator(seed, f"{centre} split").permutation(len(people))
    train = {people[i] for i in order[: study.num_train[centre]]}
    parts[centre] = {
      "train": tuple(i for i in rows if study.subjects[i] in train),
      "test": tuple(i for i in rows if study.subjects[i] not in train),
    }
  return parts


def equalised(image: np.ndarray, num_bins: int = 256) -> np.ndarray:
  """One channel's intensities replaced by the share of voxels below them, times `num_bins`."""
  counts, edges = np.histogram(image, num_bins)
  share = np.cumsum(counts) / max(counts.sum(), 1)
  return np.interp(image, edges[1:], num_bins * share).astype(np.float32)


def generated(num: int, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Images [num, *shape, 1] and soft labels of synthetic heads of random contrast."""
  from scipy import ndimage

  images = np.zeros((num, *shape, 1), np.float32)
  labels = np.zeros((num, *shape), np.float32)
  if num == 0:
    return images, labels
  heads = data.ProceduralAnatomy(num, shape, 7, int(generator(seed, "synthetic").integers(2**31)))
  for i in range(num):
    random = generator(seed, "synthetic scans", i)
    anatomy = np.asarray(heads[i].label)
    labels[i] = lesions(anatomy, random)
    level = np.concatenate([[0.0], random.uniform(0.1, 1.0, 6)])
    clean = level[anatomy]
    ill = level[_WHITE] + random.uniform(0.1, 0.5)
    clean = clean + labels[i] * (ill - clean)
    clean = ndimage.gaussian_filter(clean, random.uniform(0.3, 0.9))
    noisy = np.abs(clean + random.uniform(0.01, 0.06) * random.standard_normal(shape))
    images[i] = noisy.astype(np.float32)[..., None]
  return images, labels


def _study(
  title: str,
  rows: dict[str, tuple[int, ...]],
  subjects: tuple[str, ...],
  image: np.ndarray,
  label: np.ndarray,
  num_train: dict[str, int],
  described: dict[str, Any],
  synthetic: tuple[np.ndarray, np.ndarray],
  normalise: Normalisation,
  on_device: bool,
) -> Study:
  num_real, num_synthetic = len(image), len(synthetic[0])
  if num_synthetic:
    check.require(
      image.shape[-1] == 1,
      "one channel beside synthetic heads",
      f"{image.shape[-1]}",
      "leave replay-synthetic out of --arms",
    )
    image, label = np.concatenate([image, synthetic[0]]), np.concatenate([label, synthetic[1]])
    subjects = (*subjects, *(f"synthetic{i:03d}" for i in range(num_synthetic)))
  magnitude = np.abs(image).max(-1)
  highest = magnitude.max(tuple(range(1, magnitude.ndim)), keepdims=True)
  normalised = np.stack([_normalised(case, normalise) for case in image])
  return Study(
    title,
    tuple(rows),
    rows,
    subjects,
    normalised,
    label,
    volume_pool(normalised, label, magnitude > _BODY * highest, on_device=on_device),
    num_train,
    tuple(range(num_real, num_real + num_synthetic)),
    described,
  )


class _Held:
  """A source that reads every case once."""

  def __init__(self, source: Source):
    self._source, self._examples = source, {}
    self.class_names, self.channel_names = source.class_names, source.channel_names
    self.subjects, self.domains = source.subjects, source.domains
    self.manifest = source.manifest

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    if index not in self._examples:
      self._examples[index] = self._source[index]
    return self._examples[index]


def _opened(
  path: pathlib.Path, spacing: Sequence[float] | None, subject_pattern: str | None
) -> Source:
  """The folder's source, by its layout."""
  kind = readers.recognise(path)
  check.require(
    kind in _LAYOUTS,
    f"a layout among {', '.join(_LAYOUTS)} in {path}",
    kind,
    "see `python -m medjax.data list`",
  )
  options: dict[str, Any] = {"subject_pattern": subject_pattern} if kind == "nnunet" else {}
  grid = None if spacing is None else tuple(spacing)
  return readers.open_source(path, kind, spacing=grid, normalise="none", **options)


def _normalised(image: np.ndarray, how: Normalisation) -> np.ndarray:
  """Of one volume [*space, channel]: mean 0 and standard deviation 1 of every channel."""
  image = image.astype(np.float32)
  if how == "equalise":
    image = np.stack([equalised(image[..., c]) for c in range(image.shape[-1])], -1)
  axes = tuple(range(image.ndim - 1))
  return (image - image.mean(axes)) / np.maximum(image.std(axes), 1e-6)


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
  """The folders' own names, with the place in the order where two are equal."""
  names = [pathlib.Path(path).resolve().name for path in paths]
  return [f"{name}-{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _check_grids(source: Source) -> None:
  spacings = {tuple(np.round(source[i].spacing, 3)): source[i].name for i in range(len(source))}
  check.require(
    len(spacings) == 1,
    "one voxel size in all centres",
    "; ".join(f"{spacing} mm in {name}" for spacing, name in list(spacings.items())[:3]),
    "pass --spacing, e.g. --spacing 1 1 1",
  )


def _centre(
  name: str,
  contrasts: Sequence[str],
  num: int,
  shape: tuple[int, ...],
  spacing: tuple[float, ...],
  seed: int,
  real: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """Images [case, *space, 1] and soft labels [case, *space] of one centre."""
  heads = data.ProceduralAnatomy(num, shape, 7, int(generator(seed, name).integers(2**31)))
  anatomy = np.stack([np.asarray(heads[i].label) for i in range(num)])
  lesion = np.stack(
    [lesions(anatomy[i], generator(seed, f"{name} lesions", i)) for i in range(num)]
  )
  for i, mask in enumerate(real):
    lesion[i] = mask * (anatomy[i] == _WHITE)
  table = tissues.by_name(_TISSUE_OF)
  image = np.empty((*anatomy.shape, 1), np.float32)
  for turn, contrast in enumerate(contrasts):
    site = sites.find(f"{name}-{contrast}")

    @jax.jit
    @jax.vmap
    def scan(key, label, share, site=site):
      sigma = 0.4 * float(np.mean(spacing))
      maps = tissues.tissue_fractions(table, label, spacing=spacing, sigma_mm=sigma)
      ill = jax.nn.one_hot(tissues.TISSUES.index("lesion"), len(tissues.TISSUES))
      maps = maps * (1 - share[..., None]) + share[..., None] * ill.reshape(
        (1,) * share.ndim + (-1,)
      )
      parameters = site.draw(key, shape)
      return site.apply(parameters, site.contrast_image(parameters, maps), spacing=spacing)

    own = np.arange(turn, num, len(contrasts))
    key = jax.random.key(int(generator(seed, f"{name} scans").integers(2**31)))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, own)
    image[own] = scan(keys, anatomy[own], lesion[own])
  return image, lesion


def real_lesions(
  path: pathlib.Path, shape: tuple[int, ...], subject_pattern: str | None = None
) -> list[np.ndarray]:
  """Soft masks [*shape] of people's lesions, their brains scaled to the simulated ones.

  Args:
    path: nnU-Net folder; of a person with several cases the first is taken.
    shape: of the simulated heads.
    subject_pattern: finds the person in a case's name.
  Raises:
    InputError: no such folder, masks of other axes than `shape`, a mask without lesion, two people
      of one mask: the same voxels, or the same place in the brain.
  """
  source = data.NnUNetFolder(path, normalise="none", subject_pattern=subject_pattern)
  data.check_content(source, data.Splits({person: (person,) for person in set(source.subjects)}))
  found: dict[str, np.ndarray] = {}
  for i, person in enumerate(source.subjects):
    if person in found:
      continue
    example = source[i]
    body, mask = np.abs(np.asarray(example.image)).max(-1) > 0, np.asarray(example.label) > 0
    check.require(
      mask.ndim == len(shape), f"masks of {len(shape)} axes", f"{mask.ndim}", "match --shape"
    )
    check.require(mask.any(), f"a lesion in {example.name}", "none", "remove the case")
    found[person] = _scaled(body, mask, shape)
    for other, own in found.items():
      overlap = 2 * np.minimum(own, found[person]).sum() / (own.sum() + found[person].sum())
      check.require(
        other == person or overlap < _ONE_MASK,
        "different lesions of different people",
        f"Dice {overlap:.2f}, brain on brain, of {other} and {person}",
        "remove one, or pass --subject_pattern if they are one person",
      )
  return list(found.values())


def _scaled(body: np.ndarray, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The mask as shares of voxels [*shape], the box around the body as large as a simulated head."""
  from scipy import ndimage

  inner = [round(_HEAD * n) for n in shape]
  box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(body | mask))
  cut = mask[box].astype(np.float32)
  scale = [n / size for n, size in zip(inner, cut.shape, strict=True)]
  smooth = ndimage.uniform_filter(cut, [max(round(1 / s), 1) for s in scale], mode="constant")
  small = ndimage.zoom(smooth, scale, order=1, grid_mode=True, mode="grid-constant")
  whole = np.zeros(shape, np.float32)
  first = [(n - size) // 2 for n, size in zip(shape, small.shape, strict=True)]
  whole[tuple(slice(f, f + size) for f, size in zip(first, small.shape, strict=True))] = small
  return np.clip(whole, 0, 1)


def lesions(anatomy: np.ndarray, random: np.random.Generator) -> np.ndarray:
  """[*space] float32 in [0, 1]: 3 to 9 ellipsoids in the white matter of one head."""
  from scipy import ndimage

  white = anatomy == _WHITE
  near = ndimage.distance_transform_edt(~np.isin(anatomy, _VENTRICLES)) / anatomy.shape[0]
  chance = white * np.exp(-8 * near)
  places = np.flatnonzero(white)
  chance = chance.ravel()[places] / chance.sum()
  middles = random.choice(places, random.integers(3, 10), replace=False, p=chance)
  grid = np.stack(np.meshgrid(*(np.arange(n) for n in anatomy.shape), indexing="ij"), -1)
  offsets = (np.arange(_SUBVOXELS) + 0.5) / _SUBVOXELS - 0.5
  steps = np.stack(np.meshgrid(*(offsets,) * anatomy.ndim, indexing="ij"), -1).reshape(
    -1, anatomy.ndim
  )
  share = np.zeros(anatomy.shape, np.float32)
  for middle in middles:
    centre = np.asarray(np.unravel_index(middle, anatomy.shape))
    radii = anatomy.shape[0] * random.uniform(0.03, 0.09) * random.uniform(0.7, 1.3, anatomy.ndim)
    inside = [(((grid + s - centre) / radii) ** 2).sum(-1) < 1 for s in steps]
    share = np.maximum(share, np.mean(inside, 0, dtype=np.float32))
  return share * white
