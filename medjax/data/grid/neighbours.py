"""Volumes whose channels are a slice and those before and after it, for 2D networks that see three.

The prostate networks of MMTL take slices z - 1, z, z + 1 as channels; `slices` comes after.
"""

import numpy as np

from medjax.check import given, one_of, require
from medjax.types import Example, Json, Source

_OFFSETS = (-1, 0, 1)


def neighbours(source: Source, axis: int = 2) -> "Neighbours":
  """Three channels for each channel: the slice before, the slice, the slice after.

  The first and the last slice are their own neighbours; MMTL's code leaves both unpredicted.

  Args:
    source: cases of three spatial axes with images.
    axis: across which the slices lie: 0, 1 or 2.
  Raises:
    InputError: label maps alone, another axis; reading a case that has not three axes.
  """
  return Neighbours(source, axis)


class Neighbours:
  """A Source; use `neighbours`."""

  def __init__(self, source: Source, axis: int):
    one_of("axis", axis, (0, 1, 2))
    require(source.channel_names, "a source of images", "label maps alone", "pass one with images")
    self.source, self.axis = source, axis
    self.class_names = source.class_names
    self.channel_names = tuple(
      f"{name}{offset:+d}" if offset else name
      for offset in _OFFSETS
      for name in source.channel_names
    )
    self.subjects, self.domains = source.subjects, source.domains

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    example = self.source[index]
    expected = f"three spatial axes in case {example.name}"
    image = given(example.image, expected, "pass volumes")
    require(image.ndim == 4, expected, f"shape {image.shape}", "pass volumes")
    last = image.shape[self.axis] - 1
    places = np.arange(last + 1)
    shifted = [image.take(np.clip(places + k, 0, last), axis=self.axis) for k in _OFFSETS]
    return example.replace(image=np.concatenate(shifted, axis=-1))

  def manifest(self) -> dict[str, Json]:
    return {
      **self.source.manifest(),
      "channel_names": list(self.channel_names),
      "neighbours": {"axis": self.axis},
    }
