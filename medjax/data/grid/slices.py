"""2D examples out of 3D ones."""

from collections.abc import Callable

import numpy as np

from medjax.check import given, one_of, require
from medjax.types import Example, Json, Source

_AXIS_LETTERS = "xyz"


def slices(
  source: Source, axis: int = 2, *, keep: Callable[[Example], bool] | None = None
) -> "Slices":
  """The slices of every case across `axis`, subject and domain carried along.

  Args:
    source: cases of three spatial axes.
    axis: 0 (sagittal after reorientation), 1 (coronal) or 2 (axial).
    keep: which 2D examples to keep, e.g. `lambda e: (e.label > 0).mean() > 0.05`; None keeps all.
  Returns:
    Source of examples named CASE_z007 whose affine maps (first, second, 0) to RAS millimetres.
  """
  return Slices(source, axis, keep)


class Slices:
  """A Source; use `slices`. The constructor reads every case once to count its slices.

  `positions` says, for every slice, where along the axis of its case it lies, in voxels.

  The case last read is kept, so that reading in order decodes each file once; for random access
  construct the 3D source with `cache=True`.
  """

  def __init__(self, source: Source, axis: int, keep: Callable[[Example], bool] | None):
    one_of("axis", axis, (0, 1, 2))
    self.source, self.axis, self._keep = source, axis, keep
    self.class_names, self.channel_names = source.class_names, source.channel_names
    self._table: list[tuple[int, int]] = []  # (case, position along the axis)
    self._last: tuple[int, Example] | None = None
    domains, names = [], []
    for case in range(len(source)):
      whole = self._case(case)
      for position in range(_space(whole)[axis]):
        part = _slice(whole, axis, position, len(self._table))
        if keep is None or keep(part):
          self._table.append((case, position))
          domains.append(whole.domain)
          names.append(part.name)
    require(self._table, "at least one slice", "none", "loosen `keep`")
    self.subjects = tuple(source.subjects[case] for case, _ in self._table)
    self.positions = tuple(position for _, position in self._table)
    self.domains, self.names = tuple(domains), tuple(names)

  def __len__(self) -> int:
    return len(self._table)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    case, position = self._table[index]
    return _slice(self._case(case), self.axis, position, index)

  def manifest(self) -> dict[str, Json]:
    return {
      **self.source.manifest(),
      "slices": {"axis": self.axis, "kept": list(self.names)},
      "subjects": list(self.subjects),
    }

  def _case(self, case: int) -> Example:
    if self._last is None or self._last[0] != case:
      self._last = (case, self.source[case])
    return self._last[1]


def _space(example: Example) -> tuple[int, ...]:
  array = example.label if example.image is None else example.image[..., 0]
  expected, remedy = f"three spatial axes in case {example.name}", "slice 3D cases only"
  array = given(array, expected, remedy)
  require(array.ndim == 3, expected, f"shape {array.shape}", remedy)
  return array.shape


def _slice(example: Example, axis: int, position: int, index: int) -> Example:
  pick = (slice(None),) * axis + (position,)
  rest = [a for a in range(3) if a != axis]
  affine = example.affine
  if affine is not None:
    origin = affine[:, 3] + affine[:, axis] * position
    affine = np.stack([affine[:, rest[0]], affine[:, rest[1]], affine[:, axis], origin], axis=1)
  return example.replace(
    name=f"{example.name}_{_AXIS_LETTERS[axis]}{position:03d}",
    index=index,
    image=None if example.image is None else np.ascontiguousarray(example.image[pick]),
    label=None if example.label is None else np.ascontiguousarray(example.label[pick]),
    spacing=tuple(example.spacing[a] for a in rest),
    affine=affine,
  )
