"""Volumes of several sites that label some organs each, and a new site that labels a few volumes.

Not a study: the data of `experiments.fseft`, simulated or from nnU-Net folders.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import abdomens
from medjax import check, data, losses
from medjax.types import Batch, Source


@dataclasses.dataclass(frozen=True)
class Sites:
  """Volumes to pretrain on, whose labels are partial, and a new site.

  Attributes:
    title, class_names: background first.
    pretraining: volumes; `domain` numbers the sets.
    labelled: [set, class] what each set labels.
    new: volumes of the new site, shots first.
    people: part -> names.
    manifest: what the run directory records.
  """

  title: str
  class_names: tuple[str, ...]
  pretraining: Batch
  labelled: np.ndarray
  new: Batch
  names: list[str]
  people: dict[str, tuple[str, ...]]
  manifest: dict[str, Any]


def simulated(
  num_people: int, shape: tuple[int, ...], num_shots: int, num_queries: int, seed: int
) -> Sites:
  """Three hospitals that label one organ each, and a fourth under another scanner."""
  first = {
    name: abdomens.abdomen(num_people, shape, seed, name)
    for name in ("kidney", "liver", "pancreas")
  }
  last = abdomens.abdomen(num_shots + num_queries, shape, seed, "spleen")
  organs = np.array([0, 1, 1, 2, 2, 3, 3, 0])  # with their tumours; nobody knows the spleen
  old, new = data.stack(data.concat(first)), data.stack(last)
  old, new = (b.replace(label=organs[b.label].astype(np.int32)) for b in (old, new))
  # Steeper, darker and noisier than the three of the pretraining.
  noise = np.random.default_rng(seed).normal(0, 0.08, new.image.shape)
  new = new.replace(image=(1.3 * new.image - 0.2 + noise).astype(np.float32))
  # The hospitals stand in the order of their names, as `data.stack` numbers them.
  people = {
    "pretraining": tuple(f"{name}/{s}" for name, own in first.items() for s in own.subjects),
    "shots": last.subjects[:num_shots],
    "query": last.subjects[num_shots:],
  }
  names = ("background", "kidney", "liver", "pancreas")
  record = {"sites": [source.manifest() for source in (*first.values(), last)]}
  return _sites("simulated abdomens", names, old, new, list(last.subjects), people, record)


def folders(
  paths: Sequence[pathlib.Path],
  shape: tuple[int, ...],
  num_shots: int,
  num_queries: int,
  subject: str,
  seed: int,
) -> Sites:
  """One nnU-Net folder, whose people are parted, or one to pretrain on and one of the new site.

  Volumes are cropped or padded about their middle to one shape, so they should be of one voxel
  size. Each person of the pretraining keeps the labels of one class.

  Raises:
    InputError: folders of different classes, or too few people.
  """
  several, wanted = len(paths) > 1, num_shots + num_queries
  sources: list[Source] = [
    data.NnUNetFolder(path, subject_pattern=subject or None) for path in paths
  ]
  first, last = sources[0], sources[-1]
  names = tuple(first.class_names)
  check.require(
    tuple(last.class_names) == names,
    f"classes {names} in both folders",
    f"{last.class_names}",
    "rename them in dataset.json",
  )
  persons = np.array(last.subjects)
  order = np.random.default_rng(seed).permutation(sorted(set(persons.tolist())))
  check.require(
    len(order) >= wanted + (not several),
    f"{wanted} people for shots and queries, and others to pretrain on",
    f"{len(order)} in {paths[-1]}",
    "lower --num_queries or --shots",
  )
  chosen = [int(np.flatnonzero(persons == one)[0]) for one in order[:wanted]]
  subjects = [str(persons[i]) for i in chosen]
  rows = [i for i, s in enumerate(first.subjects) if several or s not in subjects]
  old, new = data.stack(first, rows, shape), data.stack(last, chosen, shape)
  pretrained = sorted({first.subjects[i] for i in rows})
  own = {person: i % (len(names) - 1) for i, person in enumerate(pretrained)}
  old = old.replace(domain=np.array([own[first.subjects[i]] for i in rows], np.int32))
  people = {
    "pretraining": tuple(f"{paths[0].name}/{s}" if several else s for s in pretrained),
    "shots": tuple(subjects[:num_shots]),
    "query": tuple(subjects[num_shots:]),
  }
  record = {"sites": [source.manifest() for source in sources]}
  title = " and ".join(path.name for path in paths)
  return _sites(title, names, old, new, subjects, people, record)


def _sites(
  title: str,
  names: tuple[str, ...],
  old: Batch,
  new: Batch,
  subjects: list[str],
  people: dict[str, tuple[str, ...]],
  record: dict[str, Any],
) -> Sites:
  """Each set of the pretraining forgets what it does not label."""
  labelled = losses.labelled_classes([(k,) for k in range(1, len(names))], len(names))
  kept = [losses.keep_labelled(x, labelled[d]) for x, d in zip(old.label, old.domain, strict=True)]
  old = old.replace(label=np.stack([np.asarray(x) for x in kept]))
  return Sites(title, names, old, labelled, new, subjects, people, record)
