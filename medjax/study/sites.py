"""Sites of a study: one folder for each, or one folder as several simulated scanners show it."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from medjax import check, data, synth
from medjax.data.seeds import generator
from medjax.study.stacks import Stack, alike_together
from medjax.types import Example, Json, Source


class StudySite(NamedTuple):
  """A site before a turn gives it a role.

  Attributes:
    source: its cases.
    part_of: person -> part.
    unlabelled: images without labels that may be looked at.
  """

  source: Source
  part_of: Mapping[str, str]
  unlabelled: Sequence[np.ndarray] = ()


def drawn(
  subjects: Iterable[str], fractions: Mapping[str, float | int], seed: int
) -> dict[str, str]:
  """Person -> part, drawn from `seed`."""
  found = data.split_subjects(subjects, fractions, seed=seed)
  return {person: part for part, people in found.parts.items() for person in people}


def drawn_of(source: Source, fractions: Mapping[str, float | int], seed: int) -> dict[str, str]:
  """A part for each of a source's people; people whose images look like one scan share theirs."""
  merged = alike_together(source)
  part_of = drawn(merged, fractions, seed)
  return dict(zip(source.subjects, (part_of[person] for person in merged), strict=True))


def some_people(stacks: Sequence[Stack], most: int, seed: int, stream: str) -> list[Stack]:
  """The stacks of at most `most` people, drawn from `seed`; 0 takes all."""
  people = sorted({stack.subject for stack in stacks})
  if not most or len(people) <= most:
    return list(stacks)
  kept = set(generator(seed, stream).permutation(people)[:most].tolist())
  return [stack for stack in stacks if stack.subject in kept]


def folder(
  path: pathlib.Path,
  subject_pattern: str = "",
  spacing: Sequence[float | int | None] | None = None,
) -> data.NnUNetFolder:
  """An nnU-Net folder whose intensities the study normalises itself.

  Args:
    path: of the folder.
    subject_pattern: finds the subject in a case name; "" makes every case a person.
    spacing: voxel size in mm that volumes are resampled to; None keeps the files' own.
  Raises:
    InputError: a spacing for pictures, which have no pixel size.
  """
  is_png = data.NnUNetFolder(path, normalise="none").spec.file_ending == ".png"
  check.require(
    not (is_png and spacing),
    "--pixel_mm 0 for pictures",
    f"{spacing[0] if spacing else 0}",
    "PNG files have no pixel size; distances are then in pixels",
  )
  return data.NnUNetFolder(
    path,
    spacing=spacing,
    normalise="none",
    subject_pattern=subject_pattern or None,
    cache=True,
  )


def names_of(paths: Sequence[pathlib.Path]) -> list[str]:
  """The folders' own names; refuses two of one name."""
  names = [path.resolve().name for path in paths]
  is_unique = len(set(names)) == len(names)
  check.require(is_unique, "folders of different names", f"{names}", "rename one")
  return names


def rescanned(source: Source, sites: Iterable[str], seed: int) -> dict[str, "Rescanned"]:
  """The source at each of `sites` of `python -m medjax.synth`, with the same people.

  Raises:
    InputError: images of several channels, an unknown site.
  """
  check.require(
    len(source.channel_names) == 1,
    "images of one channel to rescan",
    f"{len(source.channel_names)}",
    "keep one channel in dataset.json",
  )
  return {name: Rescanned(source, synth.sites.find(name), seed) for name in sites}


class Rescanned:
  """A source whose images another scanner took.

  Attributes:
    original: the source.
  """

  def __init__(self, source: Source, site: synth.Site, seed: int):
    self.original, self._site, self._seed = source, site, seed
    self.class_names, self.channel_names = source.class_names, source.channel_names
    self.subjects, self.domains = source.subjects, (site.name,) * len(source)
    self._scan = jax.jit(
      lambda key, image, spacing: synth.rescan(site, key, image, spacing=spacing),
      static_argnames="spacing",
    )

  def __len__(self) -> int:
    return len(self.original)

  def __getitem__(self, index: int) -> Example:
    example = self.original[index]
    key = jax.random.key(int(generator(self._seed, self._site.name, index).integers(2**31)))
    image = np.maximum(np.asarray(example.image), 0.0)  # magnitudes; resampling may undershoot
    scanned = np.asarray(self._scan(key, image, tuple(example.spacing)))
    return example.replace(image=scanned, domain=self._site.name)

  def manifest(self) -> dict[str, Json]:
    return {**self.original.manifest(), "rescanned by": self._site.name, "seed": self._seed}
