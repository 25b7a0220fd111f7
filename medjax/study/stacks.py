"""Volumes and pictures as stacks of slices, for studies that train 2D networks on several sites.

A `Grid` brings each slice to the network's input and brings a prediction back to the case's own
grid, where it is scored.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from medjax import check, data
from medjax.data.manifest import array_digest
from medjax.types import IGNORE, Batch, Example, Source


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


class Grid(NamedTuple):
  """How a case comes to the network's input, and a prediction back.

  Attributes:
    shape: pixels of the network's input.
    how: "crop" about the middle, with padding where the case is smaller; "resize" whatever the
      pixel size.
    normalise: intensities, see `data.normalise`.
    is_by_slice: normalise each slice after it is placed; False: the volume before.
  """

  shape: tuple[int, int]
  how: Literal["crop", "resize"] = "crop"
  normalise: str = "percentile"
  is_by_slice: bool = True

  def stack(self, example: Example, site: str, phase: str = "") -> Stack:
    """The slices of a case. What the network does not see of it is not scored.

    Raises:
      InputError: no image or no label map of 2 or 3 axes, or a voxel size that is none.
    """
    image, label, spacing = example.image, example.label, example.spacing
    if image is None or label is None or label.ndim not in (2, 3):
      raise check.InputError(
        f"an image and a label map of 2 or 3 axes in {example.name}", "none", "give labelled cases"
      )
    check.require(
      len(spacing) == label.ndim and all(np.isfinite(mm) and mm > 0 for mm in spacing),
      f"a positive voxel size on every axis of {example.name}",
      f"{spacing}",
      "correct the header, or distances mean nothing",
    )
    labels = label[..., None] if label.ndim == 2 else label
    planes = [self.placed(plane, is_label=True) for plane in np.moveaxis(labels, 2, 0)]
    is_seen = self.restore(np.ones(self.shape, np.int32), label.shape[:2]) > 0
    is_seen = is_seen if label.ndim == 2 else is_seen[..., None]
    return Stack(
      example.name,
      example.subject,
      site,
      phase,
      np.stack(self.planes(image)),
      np.stack(planes).astype(np.int32),
      np.where(is_seen, label, IGNORE),
      tuple(float(mm) for mm in spacing),
    )

  def planes(self, image: np.ndarray) -> list[np.ndarray]:
    """[height, width, channel] of each slice of [*space, channel], normalised."""
    volume = image[:, :, None] if image.ndim == 3 else image
    if self.is_by_slice:
      placed = (self.placed(plane, is_label=False) for plane in np.moveaxis(volume, 2, 0))
      return [data.normalise(plane, self.normalise) for plane in placed]
    volume = data.normalise(volume, self.normalise)
    low = float(volume.min())  # what lies outside is as dark as the darkest voxel of the volume
    return [self.placed(plane, is_label=False, low=low) for plane in np.moveaxis(volume, 2, 0)]

  def placed(self, plane: np.ndarray, *, is_label: bool, low: float | None = None) -> np.ndarray:
    """A slice on the network's grid; outside of the case labels are `IGNORE` and images `low`."""
    if self.how == "resize":
      return _resized(plane, self.shape, order=0 if is_label else 3)
    low = float(plane.min()) if low is None else low
    return data.fit_to_shape(plane, self.shape, IGNORE if is_label else low)

  def restore(self, plane: np.ndarray, space: Sequence[int]) -> np.ndarray:
    """Class ids [height, width] on the network's grid -> [*space] on the case's own, in plane."""
    if self.how == "resize":
      return _resized(plane, space, order=0)
    return data.fit_to_shape(plane, space)

  def restored(self, planes: np.ndarray, stack: Stack) -> np.ndarray:
    """Class ids [slice, height, width] on the network's grid -> [*space] on the case's own."""
    space = stack.truth.shape
    own = [self.restore(plane, space[:2]) for plane in planes]
    return np.stack(own, axis=-1).reshape(space)


def _resized(plane: np.ndarray, shape: Sequence[int], *, order: int) -> np.ndarray:
  """Spline interpolation between pixel centres; pixels keep their share of the field of view."""
  from scipy import ndimage

  factors = [new / old for new, old in zip(shape, plane.shape, strict=False)]
  factors += [1.0] * (plane.ndim - 2)
  return ndimage.zoom(plane, factors, order=order, mode="nearest", grid_mode=True)


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
