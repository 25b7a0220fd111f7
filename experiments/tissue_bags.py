"""Bags of real tiles: nuclei that are measured from their masks, and slides of mitotic figures.

Not a study: what the study of attention over tiles looks at, beside `experiments.bags`.
"""

import pathlib

import numpy as np

from experiments import bags, lesion_sets, nuclei, patients
from medjax import nets, study
from medjax.data.seeds import generator


def of_nuclei(
  path: pathlib.Path, weights: pathlib.Path, num_bags: int, *, most: int = 12, seed: int = 0
) -> bags.Bags:
  """Slides of `most` tiles of real tissue, with measured nuclei and with embeddings of an ImageNet
  network; the label is drawn, and shows in nuclei of one tile in four (`nuclei.tiles_of`).

  The people of the tiles are parted before slides are made of them. Slides of one part share tiles:
  intervals over slides are too narrow by that, and are no statement on people.
  """
  tiles = nuclei.tiles_of(path, seed=seed)
  num, states = tiles.feature.shape[:2]
  pictures = tiles.image.reshape(num * states, *tiles.image.shape[2:])
  embedding = nets.imagenet_features(pictures, weights)
  rows = study.parted(tiles.subjects, bags.FRACTIONS, seed)
  random = generator(seed, "bags of nuclei")
  units, shows, label, parts = [], [], [], {}
  for part, own in rows.items():
    first = len(units)
    for i in range(round(num_bags * bags.FRACTIONS[part])):
      is_ill = i % 2
      drawn = random.choice(np.array(own), most, replace=len(own) < most)
      is_shown = random.uniform(size=most) < 0.25
      is_shown[random.integers(most)] = True  # no slide is without one
      state = np.where(is_shown, nuclei.SHOWN if is_ill else nuclei.MARKED, 0)
      units.append(drawn * states + state)
      shows.append(is_shown)
      label.append(is_ill)
    parts[part] = tuple(range(first, len(units)))
  unit = np.stack(units)
  is_last = np.arange(num * states) % states == nuclei.SHOWN
  cells = bags.Cells(
    tiles.cells.reshape(num * states, *tiles.cells.shape[2:]),
    np.repeat(tiles.is_cell, states, 0),
    np.repeat(tiles.is_dark, states, 0) & is_last[:, None],
    unit,
    tuple(range(tiles.cells.shape[-1])),
  )
  return bags.Bags(
    tiles.feature.reshape(num * states, -1)[unit],
    np.ones(unit.shape, bool),
    np.array(label, np.int32),
    tuple(f"slide_{i:04d}" for i in range(len(unit))),
    nuclei.NAMES,
    parts,
    np.stack(shows),
    nuclei.PLANTED,
    embedding[unit],
    cells,
  )


def of_mitoses(path: pathlib.Path, weights: pathlib.Path, *, seed: int = 0) -> bags.Bags:
  """Real slides with their mitotic figures: are there more atypical ones than typical ones?

  Tiles are figures, features what an ImageNet network makes of them on 64 random directions. The
  label is a count of labels of tiles, which no tile tells alone.

  Args:
    path: SCANNER/CLASS/*.png with patches.csv, see `lesion_sets.mitosis`.
    weights: of EfficientNet-Lite0.
    seed: of the parts and the directions.
  """
  held = lesion_sets.mitoses(path, 64)
  feature = patients.projected(nets.imagenet_features(held.image, weights, size=96), 64, seed)
  names, owner = np.unique(np.array(held.subjects), return_inverse=True)
  counts = np.bincount(owner)
  place = np.full((len(names), counts.max()), -1)
  for k in range(len(names)):
    place[k, : counts[k]] = np.flatnonzero(owner == k)
  is_tile = place >= 0
  atypical = is_tile & (held.label[place] == 1)
  return bags.Bags(
    np.where(is_tile[..., None], feature[place], 0).astype(np.float32),
    is_tile,
    (2 * atypical.sum(1) > counts).astype(np.int32),
    tuple(map(str, names)),
    tuple(f"direction {k}" for k in range(feature.shape[1])),
    study.parted(names.tolist(), bags.FRACTIONS, seed),
    np.where(atypical.any(1, keepdims=True), atypical, is_tile),
  )
