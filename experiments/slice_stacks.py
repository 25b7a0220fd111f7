"""Volumes and pictures as stacks of slices, for studies that train 2D networks on several sites."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from medjax import check, data
from medjax.data.manifest import array_digest
from medjax.types import Batch, Source


class Stack(NamedTuple):
  """A volume, or a picture, as the slices that a 2D network sees.

  Attributes:
    name, subject, site: of the case.
    phase: "ED" or "ES" of hearts, else "".
    image: [slice, height, width, channel] float32 on the network's grid, in [0, 1].
    label: [slice, height, width] int32 on the network's grid, `IGNORE` outside the case.
    truth: [*space] int32 on the case's own grid, `IGNORE` outside what the network sees.
    spacing: of that grid in mm; of pictures in pixels.
  """

  name: str
  subject: str
  site: str
  phase: str
  image: np.ndarray
  label: np.ndarray
  truth: np.ndarray
  spacing: tuple[float, ...]


def alike_together(source: Source) -> tuple[str, ...]:
  """Subject of each case; people whose images look like one scan count as one."""
  first = {subject: subject for subject in source.subjects}

  def root(subject: str) -> str:
    while first[subject] != subject:
      subject = first[subject]
    return subject

  for pair in data.near_duplicates(source, threshold=0.55):  # two people as one cost little
    one, two = sorted(root(source.subjects[i]) for i in pair[:2])
    first[two] = one
  return tuple(root(subject) for subject in source.subjects)


def check_pixels(kept: Sequence[Stack], test: Sequence[Stack]) -> None:
  """Refuses identical images on both sides."""
  seen = {array_digest(stack.image): stack for stack in kept}
  for stack in test:
    twin = seen.get(array_digest(stack.image))
    check.require(
      twin is None,
      "different images to train on and to test",
      f"identical ones, {twin.site}/{twin.name} and {stack.site}/{stack.name}" if twin else "",
      "remove one",
    )


def batch(
  stacks: Sequence[Stack], sites: Sequence[str], person: Callable[[Stack], Hashable]
) -> Batch:
  """All slices, one example each; `domain` numbers sites, `subject` those that `person` tells."""
  people = list(dict.fromkeys(map(person, stacks)))
  codes = [(sites.index(stack.site), people.index(person(stack))) for stack in stacks]
  depths = [len(stack.image) for stack in stacks]
  domain, subject = np.repeat(np.array(codes, np.int32), depths, axis=0).T
  total = sum(depths)
  return Batch(
    image=np.concatenate([stack.image for stack in stacks]).astype(np.float32, copy=False),
    label=np.concatenate([stack.label for stack in stacks]),
    domain=domain.copy(),
    subject=subject.copy(),
    index=np.arange(total, dtype=np.int32),
    weight=np.ones(total, np.float32),
  )
