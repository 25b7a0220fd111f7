"""Centres of the replay study: simulated scanners, or folders of scans, as one pool."""

import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.ms_replay import simulation
from experiments.ms_replay.simulation import SITES
from medjax import check, data, study
from medjax.data import manifest as manifests
from medjax.data.formats.volume import Volume
from medjax.data.grid.resample import resample
from medjax.data.seeds import generator
from medjax.data.sets import readers
from medjax.data.streams.volume_pool import VolumePool, volume_pool
from medjax.types import Example, Source

_HEAD_MM = 190.0  # field of view
_BODY = 0.05  # of the largest value: what is above belongs to the body
_LAYOUTS = ("nnunet", "mslesseg", "ljubljana")  # of folders, names of `readers.READERS`


class Setting(NamedTuple):
  """All centres.

  Attributes:
    title: what they are.
    centres: names, in the order of the data.
    rows: centre -> positions of its volumes in the pool.
    subjects: the person at each position.
    image: [case, *space, channel] float32, normalised.
    label: [case, *space] float32 soft labels.
    pool: the same volumes, from which patches are cut.
    num_train: centre -> people to train on; all others are tested.
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
) -> Setting:
  """Simulated centres: the first of `SITES`, one for each entry of `num_train`.

  Lesions of the i-th person in the nnU-Net folder `masks` go to one head of centre i modulo their
  number, so that a mask is in one centre and, whatever the split, on one side of it.

  Raises:
    InputError: a number of centres or axes that cannot be, more masks than heads, and what
      `simulation.real_lesions` refuses.
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
  real = [] if masks is None else simulation.real_lesions(masks, tuple(shape), subject_pattern)
  most = len(num_train) * (min(num_train) + num_test)
  check.require(
    len(real) <= most, f"at most {most} real masks", f"{len(real)}", "simulate more people"
  )
  for place, ((name, contrasts), size) in enumerate(zip(SITES, num_train, strict=False)):
    num = size + num_test
    own = real[place :: len(num_train)]
    raw, soft = simulation.centre(name, contrasts, num, tuple(shape), spacing, seed, own)
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
    np.stack([_normalised(case, normalise) for case in image]),
    label,
    dict(zip(rows, num_train, strict=True)),
    described,
    simulation.generated(num_synthetic, tuple(shape), seed),
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
  picture: pathlib.Path | None = None,
  num_synthetic: int = 0,
  normalise: Normalisation = "zscore",
  on_device: bool = True,
) -> Setting:
  """Folders, a centre each, in the order of training; any class above 0 is lesion.

  A folder is in nnU-Net's layout, or one of the sets of `data.sets.ms_sets` as distributed (FLAIR).
  Two people whose scans look like one are shown in the file `picture`.

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
      {name: _opened(path, subject_pattern) for name, path in zip(names, paths, strict=True)}
    ),
    spacing,
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
  study.check_alike(whole, apart.parts, near_duplicates, picture)
  largest = np.max([np.asarray(whole[i].label).shape for i in range(len(whole))], axis=0)
  grid = tuple(int(n) for n in (largest if shape is None else shape))
  grid = tuple(8 * -(-n // 8) for n in grid)
  stacked = data.stack(whole, shape=grid)
  label = np.stack([data.fit_to_shape(whole.share(i), grid) for i in range(len(whole))])
  rows = {}
  for name in names:
    rows[name] = tuple(i for i, domain in enumerate(whole.domains) if domain == name)
    check.require(
      label[list(rows[name])].any(),
      f"a lesion in some case of {name}",
      "none",
      "check the labels: a class above 0",
    )
  own = [_normalised(np.asarray(whole[i].image), normalise) for i in range(len(whole))]
  return _study(
    ", ".join(names),
    rows,
    whole.subjects,
    np.asarray(stacked.image),
    np.stack([_padded(case, grid) for case in own]),
    label,
    num_train,
    whole.manifest(),
    simulation.generated(num_synthetic, grid, seed),
    normalise,
    on_device,
  )


def split(setting: Setting, seed: int) -> dict[str, dict[str, tuple[int, ...]]]:
  """Positions {centre: {"train", "test"}}, people drawn anew by every seed."""
  parts = {}
  for centre, rows in setting.rows.items():
    people = sorted({setting.subjects[i] for i in rows})
    order = generator(seed, f"{centre} split").permutation(len(people))
    train = {people[i] for i in order[: setting.num_train[centre]]}
    parts[centre] = {
      "train": tuple(i for i in rows if setting.subjects[i] in train),
      "test": tuple(i for i in rows if setting.subjects[i] not in train),
    }
  return parts


def equalised(image: np.ndarray, num_bins: int = 256) -> np.ndarray:
  """One channel's intensities replaced by the share of voxels below them, times `num_bins`."""
  counts, edges = np.histogram(image, num_bins)
  share = np.cumsum(counts) / max(counts.sum(), 1)
  return np.interp(image, edges[1:], num_bins * share).astype(np.float32)


def _study(
  title: str,
  rows: dict[str, tuple[int, ...]],
  subjects: tuple[str, ...],
  image: np.ndarray,
  normalised: np.ndarray,
  label: np.ndarray,
  num_train: dict[str, int],
  described: dict[str, Any],
  synthetic: tuple[np.ndarray, np.ndarray],
  normalise: Normalisation,
  on_device: bool,
) -> Setting:
  num_real, num_synthetic = len(image), len(synthetic[0])
  if num_synthetic:
    check.require(
      image.shape[-1] == 1,
      "one channel beside synthetic heads",
      f"{image.shape[-1]}",
      "leave replay-synthetic out of --arms",
    )
    image, label = np.concatenate([image, synthetic[0]]), np.concatenate([label, synthetic[1]])
    theirs = np.stack([_normalised(case, normalise) for case in synthetic[0]])
    normalised = np.concatenate([normalised, theirs])
    subjects = (*subjects, *(f"synthetic{i:03d}" for i in range(num_synthetic)))
  magnitude = np.abs(image).max(-1)
  highest = magnitude.max(tuple(range(1, magnitude.ndim)), keepdims=True)
  return Setting(
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
  """A source that reads every case once, on the grid of the study.

  Labels are resampled like images: the share of lesion around each voxel, a soft label.
  """

  def __init__(self, source: Source, spacing: Sequence[float] | None):
    self._source, self._spacing = source, spacing
    self._examples: dict[int, Example] = {}
    self._shares: dict[int, np.ndarray] = {}
    self.class_names, self.channel_names = source.class_names, source.channel_names
    self.subjects, self.domains = source.subjects, source.domains
    self.manifest = source.manifest

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    if index not in self._examples:
      example = self._source[index]
      label, image = np.asarray(example.label), np.asarray(example.image)
      lesion = Volume((label > 0).astype(np.float32), example.affine, example.spacing)
      scan = Volume(image.astype(np.float32), example.affine, example.spacing)
      if self._spacing is not None:
        lesion, scan = resample(lesion, self._spacing), resample(scan, self._spacing)
      self._shares[index] = lesion.array
      self._examples[index] = example.replace(
        image=scan.array,
        label=(lesion.array > 0.5).astype(np.int32),
        affine=scan.affine,
        spacing=scan.spacing,
      )
    return self._examples[index]

  def share(self, index: int) -> np.ndarray:
    """[*space] soft label of a case."""
    self[index]
    return self._shares[index]


def _opened(path: pathlib.Path, subject_pattern: str | None) -> Source:
  """The folder's source, by its layout, on the grids of its files."""
  kind = readers.recognise(path)
  check.require(
    kind in _LAYOUTS,
    f"a layout among {', '.join(_LAYOUTS)} in {path}",
    kind,
    "see `python -m medjax.data list`",
  )
  options: dict[str, Any] = {"subject_pattern": subject_pattern} if kind == "nnunet" else {}
  return readers.open_source(path, kind, spacing=None, normalise="none", **options)


def _normalised(image: np.ndarray, how: Normalisation) -> np.ndarray:
  """One volume [*space, channel] with mean 0 and standard deviation 1 in every channel."""
  image = image.astype(np.float32)
  if how == "equalise":
    image = np.stack([equalised(image[..., c]) for c in range(image.shape[-1])], -1)
  axes = tuple(range(image.ndim - 1))
  return (image - image.mean(axes)) / np.maximum(image.std(axes), 1e-6)


def _padded(image: np.ndarray, grid: Sequence[int]) -> np.ndarray:
  """On the grid of the study; outside of the scan every channel has its least value."""
  channels = np.moveaxis(image, -1, 0)
  return np.stack([data.fit_to_shape(c, grid, float(c.min())) for c in channels], axis=-1)


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
