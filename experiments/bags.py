"""Bags of tiles with features of their nuclei: planted ones, real masses, the reader's own .npz.

Not a study: what the study of attention over tiles looks at. A file has the arrays

  feature [n, d]   features of tiles          bag   [n]   name of the slide of each tile
  name    [b]      slides                     label [b]   0 or 1, of each slide
and may have subject [b], the person of each slide, and feature_names [d].
"""

import os
import zipfile
from typing import NamedTuple

import numpy as np

from experiments import classical
from medjax import check, study
from medjax.data import manifest
from medjax.data.seeds import generator
from medjax.types import Json

Parts = dict[str, tuple[int, ...]]
FRACTIONS = {"train": 0.55, "validation": 0.15, "test": 0.3}
_NUCLEI = (
  "tumour_density", "lymphocyte_density", "other_density", "area_median", "area_std",
  "eccentricity_median", "eccentricity_std", "solidity_median", "solidity_std", "hue_median",
  "hue_std", "contrast_median", "contrast_std", "entropy_median", "entropy_std", "peaks_median",
  "peaks_std", "gini_median", "gini_std", "distance_mean", "distance_std", "degree_mean",
  "betweenness_max", "betweenness_std",
)  # fmt: skip


class Cells(NamedTuple):
  """Nuclei of the tiles of slides; what is the mean of a tile's nuclei can be told one by one.

  Attributes:
    cells: [unit, cell, measure] of every tile in every state.
    is_cell, is_shown: [unit, cell]; those in which the label shows.
    unit: [bag, tile] which of them each tile is.
    columns: positions among the features of the bags of the means of the measures.
  """

  cells: np.ndarray
  is_cell: np.ndarray
  is_shown: np.ndarray
  unit: np.ndarray
  columns: tuple[int, ...]


class Bags(NamedTuple):
  """Slides, each a bag of tiles, padded to one length.

  Attributes:
    feature: [bag, tile, feature] float32, 0 in padding.
    is_tile: [bag, tile].
    label: [bag] 0 or 1.
    subjects: [bag] persons.
    names: of the features.
    parts: positions of "train", "validation" and "test"; no person is in two.
    is_informative: [bag, tile] tiles that the label shows in; None if unknown.
    planted: names of the features that it shows in, () if unknown.
    embedding: [bag, tile, d] of an image network, None without pictures.
    cells: nuclei of the tiles, None where they are not told apart.
  """

  feature: np.ndarray
  is_tile: np.ndarray
  label: np.ndarray
  subjects: tuple[str, ...]
  names: tuple[str, ...]
  parts: Parts
  is_informative: np.ndarray | None = None
  planted: tuple[str, ...] = ()
  embedding: np.ndarray | None = None
  cells: Cells | None = None

  def manifest(self) -> dict[str, Json]:
    """What a run that goes on must find unchanged."""
    return {
      "kind": "bags of tiles",
      "features": manifest.array_digest(self.feature),
      "labels": manifest.array_digest(self.label.astype(np.int64)),
      "names": list(self.names),
    }

  def standardised(self, feature: np.ndarray | None = None) -> np.ndarray:
    """Features, or others of the tiles, less the mean over the training tiles, over their
    deviation; 0 in padding.

    Raises:
      InputError: a feature that is the same in all training tiles.
    """
    given = self.feature if feature is None else feature
    mean, spread = self.moments(given)
    check.require(
      (spread > 0).all(),
      "features that differ among the training tiles",
      f"{self.names[int(np.argmin(spread))] if feature is None else 'one'} the same in all",
      "leave it out",
    )
    found = (given - mean) / spread
    return np.where(self.is_tile[..., None], found, 0).astype(np.float32)

  def moments(self, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of features [bag, tile, d] over the training tiles."""
    train = list(self.parts["train"])
    tiles = feature[train][self.is_tile[train]]
    return tiles.mean(0), tiles.std(0)


def planted(num_bags: int, *, most: int = 30, seed: int = 0) -> Bags:
  """Slides of 10 to `most` tiles, one tile in five of which shows the label, in three features.

  A tile is the slide's own N(0, 0.5^2) + N(0, 1). Tiles that matter have 2 more tumour density, in
  both classes, so that they can be told apart; where the label is 1, one slide in three as in the
  paper, their area's median, contrast's deviation and number of peaks are 1 higher.
  """
  random = generator(seed, "planted bags")
  size, shown = len(_NUCLEI), ("area_median", "contrast_std", "peaks_median")
  label = (np.arange(num_bags) % 3 == 0).astype(np.int32)
  counts = random.integers(10, most + 1, num_bags)
  is_tile = np.arange(most) < counts[:, None]
  is_informative = (random.uniform(size=(num_bags, most)) < 0.2) & is_tile
  is_informative[:, 0] = True  # no slide is without one
  feature = random.normal(0, 0.5, (num_bags, 1, size)) + random.normal(size=(num_bags, most, size))
  feature[..., 0] += 2 * is_informative
  for name in shown:
    feature[..., _NUCLEI.index(name)] += is_informative * label[:, None]
  subjects = tuple(f"slide_{i:04d}" for i in range(num_bags))
  return Bags(
    np.where(is_tile[..., None], feature, 0).astype(np.float32),
    is_tile,
    label,
    subjects,
    _NUCLEI,
    study.parted(subjects, FRACTIONS, seed),
    is_informative,
    shown,
  )


def of_masses(num_bags: int, *, most: int = 30, seed: int = 0) -> Bags:
  """Slides put together from real breast masses: 6 of `most` are malignant, or 2 are.

  The masses are parted before slides are made of them, so that none is on two sides. Slides of one
  part share masses: intervals over slides are too narrow by that, and are no statement on people.
  """
  feature, malignant, names = classical.breast_cells()
  rows = study.parted([f"mass_{i:03d}" for i in range(len(feature))], FRACTIONS, seed)
  random = generator(seed, "bags of masses")
  chosen, label, parts = [], [], {}
  for part, own in rows.items():
    first, own = len(chosen), np.array(own)
    for i in range(round(num_bags * FRACTIONS[part])):
      count = 6 if i % 3 == 0 else 2
      drawn = [
        random.choice(own[malignant[own] == kind], number, replace=False)
        for kind, number in ((1, count), (0, most - count))
      ]
      chosen.append(random.permutation(np.concatenate(drawn)))
      label.append(int(count == 6))
    parts[part] = tuple(range(first, len(chosen)))
  place = np.stack(chosen)
  return Bags(
    feature[place],
    np.ones(place.shape, bool),
    np.array(label, np.int32),
    tuple(f"slide_{i:04d}" for i in range(len(place))),
    names,
    parts,
    malignant[place] == 1,
  )


def from_file(path: str | os.PathLike, *, seed: int = 0) -> Bags:
  """Reads the reader's own tiles; see the top of the file.

  Raises:
    InputError: naming the file and what it lacks: an array, a slide without a tile, a tile of no
      slide, a label that is not 0 or 1, a feature that is not finite.
  """
  path = check.existing_file(path)
  try:
    with np.load(path) as held:
      found = {name: held[name] for name in held.files}
  except (ValueError, OSError, zipfile.BadZipFile) as error:
    raise check.InputError(f"an .npz file {path}", f"an error ({error})", "save it again") from None
  for name in ("feature", "bag", "name", "label"):
    check.require(
      name in found, f"the array {name} in {path}", ", ".join(found), "see experiments.bags"
    )
  feature, label = found["feature"].astype(np.float32), found["label"].astype(np.int64)
  owner, names = ([str(own) for own in found[key]] for key in ("bag", "name"))
  check.require(
    feature.ndim == 2 and len(owner) == len(feature) and len(label) == len(names),
    "a slide for every tile and a label for every slide",
    f"{feature.shape}, {len(owner)} slides of tiles, {len(names)} slides, {len(label)} labels",
    "see experiments.bags",
  )
  check.require(np.isfinite(feature).all(), "finite features", "NaN or infinity", "mend the file")
  check.require(set(label.tolist()) == {0, 1}, "labels 0 and 1", f"{set(label.tolist())}", "mend")
  check.require(len(set(names)) == len(names), "each slide once", "one twice", "mend the names")
  strangers = sorted(set(owner) - set(names))
  check.require(not strangers, "tiles of the slides", f"one of {strangers[:1]}", "add the slide")
  rows = {name: [] for name in names}
  for i, name in enumerate(owner):
    rows[name].append(i)
  empty = [name for name, own in rows.items() if not own]
  check.require(not empty, "a tile or more in every slide", f"none of {empty[:1]}", "leave it out")
  most = max(map(len, rows.values()))
  place = np.stack([np.pad(own, (0, most - len(own)), constant_values=-1) for own in rows.values()])
  subjects = tuple(str(own) for own in found.get("subject", names))
  given = found.get("feature_names", [f"feature {i}" for i in range(feature.shape[1])])
  return Bags(
    np.where((place >= 0)[..., None], feature[place], 0),
    place >= 0,
    label.astype(np.int32),
    subjects,
    tuple(str(own) for own in given),
    study.parted(subjects, FRACTIONS, seed),
  )
