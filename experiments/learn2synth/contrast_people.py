"""Real people for the study of contrasts: who trains, who is tested, and how scans are shown."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from experiments.learn2synth import contrast_views, real_images
from medjax import check, data, rng, study, synth
from medjax.data.grid.slices import Slices
from medjax.synth import tissues
from medjax.types import Batch

HOME = "in domain"
"""Role of the test scans as they are."""


class People(NamedTuple):
  """Slices by part; `scans` [slice] numbers the scans of the test slices, whose names are `names`.

  `maps` are the training slices with clusters in their unlabelled tissue, to synthesise from.
  """

  volumes: data.NnUNetFolder
  source: Slices
  maps: Batch
  training: Batch
  validation: Batch
  test: dict[str, Batch]
  scans: np.ndarray
  names: tuple[str, ...]
  vote: np.ndarray
  people: dict[str, tuple[str, ...]]


def load(
  path: pathlib.Path,
  *,
  shape: tuple[int, int],
  spacing: tuple[float, ...],
  subject_pattern: str,
  num_people: int,
  seed: int,
  picture: pathlib.Path | None = None,
) -> People:
  """Reads a folder, parts its people, and makes the views of the test scans."""
  whole = data.NnUNetFolder(
    path,
    spacing=spacing,
    normalise="percentile",
    subject_pattern=subject_pattern,
    cache=True,
  )
  for name in whole.class_names:
    check.one_of(f"class of {path} (their signal is computed)", name, tissues.TISSUES)
  source = data.slices(whole, 2, keep=lambda e: bool(np.mean(np.asarray(e.label) > 0) >= 0.01))
  drawn = data.split_subjects(
    source.subjects, {"train": 0.5, "validation": 0.15, "test": 0.35}, seed=seed
  )
  chosen = drawn.parts["train"][: num_people or None]
  check.require(
    len(chosen) >= num_people,
    f"{num_people} people to train on",
    f"{len(chosen)} in the part for training",
    "lower --people",
  )
  people = {**drawn.parts, "train": chosen}
  data.check_content(source, drawn)
  study.check_alike(whole, drawn.parts, -1.0, picture)
  parts = {
    part: [i for i, person in enumerate(source.subjects) if person in set(own)]
    for part, own in people.items()
  }
  stacked = {part: data.stack(source, rows, shape) for part, rows in parts.items()}
  num_classes = len(source.class_names)

  def scan_of(part: str) -> np.ndarray:
    return np.array([source.names[i].rpartition("_z")[0] for i in parts[part]])

  maps = _clustered(stacked["train"], scan_of("train"), num_classes)
  names, scans = np.unique(scan_of("test"), return_inverse=True)
  test = {HOME: stacked["test"]}
  clustered = _clustered(stacked["test"], scan_of("test"), num_classes)
  key = rng.stream(jax.random.key(seed), "views")  # one for all seeds of training
  for name, view in contrast_views.views(source.class_names, spacing[:2]).items():
    made = contrast_views.shown(view, key, clustered, scans)
    test[name] = made.replace(label=np.where(made.label < num_classes, made.label, 0))
  positions = np.array(source.positions)
  vote = real_images.label_vote(
    stacked["train"].label, positions[parts["train"]], positions[parts["test"]], num_classes
  )
  return People(
    whole,
    source,
    maps,
    stacked["train"],
    stacked["validation"],
    test,
    scans,
    tuple(names),
    vote,
    people,
  )


def _clustered(cases: Batch, scans: np.ndarray, num_classes: int) -> Batch:
  """Unlabelled tissue gets values after the classes, by its intensity within the scan."""
  labels = cases.label.copy()
  num = len(contrast_views.UNLABELLED)
  for scan in np.unique(scans):
    rows = scans == scan
    labels[rows] = synth.split_background(
      cases.image[rows, ..., 0], cases.label[rows], num, first_value=num_classes
    )
  return cases.replace(label=labels)
