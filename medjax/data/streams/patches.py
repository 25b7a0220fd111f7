"""Batches of patches out of cases of different shapes, some of them centred on foreground.

The sampling rule of nnU-Net (Isensee et al. 2021, Nature Methods; nnunetv2/training/dataloading):
most patches lie anywhere in their case, the last ones of each batch contain a voxel of a class that
is drawn uniformly among those present, so that small structures are seen often enough.

cases = load_cases(source, splits.indices("train", source.subjects))
stream = patches(cases, (64, 64, 64), 2, seed=0, name="train")
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import numpy as np

from medjax.check import in_interval, one_of, require
from medjax.data.grid.shapes import space_of
from medjax.data.seeds import Seed, generator
from medjax.data.streams.epochs import Cases, visits
from medjax.types import IGNORE, Batch, Example, Stream

_VOXELS_A_CLASS = 4096  # positions kept a class and case: 16 KiB


@dataclasses.dataclass(frozen=True, eq=False)
class PatchStream:
  """`stream(step) -> Batch`; use `patches`."""

  cases: Cases
  places: tuple[tuple[np.ndarray, ...], ...]  # of each case, flat voxel positions of each class
  known: tuple[np.ndarray | None, ...]  # of each case, positions that are not IGNORE, None for all
  patch: tuple[int, ...]  # one size per axis of the cases, 1 across slices
  block: tuple[int, ...]  # what is cut around a patch, likewise
  axis: int | None
  batch_size: int
  num_foreground: int
  seed: Seed | jax.Array
  name: str
  shuffle: ClassVar[bool] = True

  def __call__(self, step: int) -> Batch:
    draws = int(step) * self.batch_size + np.arange(self.batch_size)
    rows = visits(draws, len(self.cases.examples), self.seed, self.name)
    first = self.cases.examples[0]
    image = label = None
    if first.image is not None:
      shape = (self.batch_size, *self.block, first.image.shape[-1])
      image = np.zeros(shape, np.float32)
    if first.label is not None:
      label = np.full((self.batch_size, *self.block), IGNORE, np.int32)
    for b, (draw, row) in enumerate(zip(draws.tolist(), rows.tolist(), strict=True)):
      example = self.cases.examples[row]
      is_foreground = b >= self.batch_size - self.num_foreground
      here, there = self._slices(self._corner(draw, row, is_foreground), row)
      if image is not None:
        image[b][there] = example.image[here]
      if label is not None:
        label[b][there] = example.label[here]
    if self.axis is not None:
      image = None if image is None else image.squeeze(1 + self.axis)
      label = None if label is None else label.squeeze(1 + self.axis)
    return Batch(
      image=image,
      label=label,
      domain=self.cases.domain[rows],
      subject=self.cases.subject[rows],
      index=np.array([self.cases.examples[row].index for row in rows], np.int32),
      weight=np.ones(self.batch_size, np.float32),
      draw=(draws % 2**31).astype(np.int32),
    )

  def _corner(self, draw: int, row: int, is_foreground: bool) -> np.ndarray:
    """First voxel of a patch along each axis; 0 where the patch is the larger one."""
    random = generator(self.seed, f"{self.name} corner", draw)
    space = np.asarray(space_of(self.cases.examples[row]))
    last = np.maximum(space - self.patch, 0)
    candidates, classes = self.known[row], self.places[row]
    if is_foreground and classes:
      candidates = classes[random.integers(len(classes))]
    if candidates is None:
      return random.integers(last + 1)
    voxel = np.unravel_index(candidates[random.integers(len(candidates))], space)
    return np.clip(np.asarray(voxel) - np.asarray(self.patch) // 2, 0, last)

  def _slices(self, corner: np.ndarray, row: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a block lies in its case, and where these voxels go in it."""
    here, there = [], []
    space = space_of(self.cases.examples[row])
    for start, patch, block, size in zip(corner, self.patch, self.block, space, strict=True):
      # A patch larger than the case has the case in its middle; a block its patch.
      first = int(start) - max(patch - size, 0) // 2 - (block - patch) // 2
      low, high = max(first, 0), min(first + block, size)
      here.append(slice(low, high))
      there.append(slice(low - first, high - first))
    return tuple(here), tuple(there)


def patches(
  cases: Cases,
  patch: Sequence[int],
  batch_size: int,
  seed: Seed | jax.Array,
  *,
  foreground_fraction: float | int = 1 / 3,
  axis: int | None = None,
  block: Sequence[int] | None = None,
  name: str = "",
) -> Stream:
  """An endless stream of patches in which every epoch takes one patch of every case.

  Args:
    cases: from `streams.load_cases`, with 2 or 3 spatial axes; they stay in host memory.
    patch: voxels per axis; of 3D cases two sizes give 2D patches, slices across `axis`.
    batch_size: patches a batch.
    seed: int or typed key; cases and corners are functions of (seed, name, step).
    foreground_fraction: share of each batch, in [0, 1], whose patches contain a given voxel: a
      class (not background) drawn uniformly among those of the case, then one of its voxels
      uniformly, in the middle of the patch as far as the case reaches. These are the last
      batch_size - round(batch_size * (1 - foreground_fraction)) of the batch as in nnU-Net, and
      at least one unless the fraction is 0. A case without foreground gives any patch.
    axis: 0, 1 or 2 for 2D patches of 3D cases.
    block: shape to cut around each patch, at least `patch` on every axis: what an augmentation
      needs to rotate and shrink without a border (`Augmentation.source_shape`). The patch, its
      middle, is drawn as without. None: the patch itself.
    name: tells the streams of one seed apart.
  Returns:
    Stream of `Batch` with numpy arrays: image [batch, *block, channel], label [batch, *block],
    either None where the cases have none. `index` is that of the case and `draw` the running
    number of the patch, modulo 2**31: a case that occurs twice in a batch gets two keys.
    A case smaller than the patch is padded on both sides: the image by 0, what nnU-Net pads with in
    training and prediction; the label by `IGNORE`, because nobody looked there. In cases with
    `IGNORE` voxels the other patches are centred on voxels that are not, so that none is empty.
  Raises:
    InputError: sizes that do not fit the cases, patches of which more than half would be padding
      in every case, cases some of which lack image or label, or a
      foreground_fraction above 0 without label maps.
  """
  require(batch_size >= 1, "batch_size >= 1", f"{batch_size=}", "pass a positive number")
  in_interval("foreground_fraction", foreground_fraction, 0, 1)
  size = _per_axis(cases.examples, patch, axis)
  around = size if block is None else _per_axis(cases.examples, block, axis)
  require(
    all(b >= p for b, p in zip(around, size, strict=True)),
    f"a block of at least the patch {tuple(patch)}",
    f"{block}",
    "pass block=None, or the augmentation's source_shape",
  )
  has_labels = _all_or_none(cases.examples, "label")
  _all_or_none(cases.examples, "image")
  require(
    has_labels or foreground_fraction == 0,
    "label maps for foreground_fraction > 0",
    f"{foreground_fraction=} and none",
    "pass foreground_fraction=0",
  )
  _reject_padding(cases.examples, size)
  num_foreground = batch_size - round(batch_size * (1 - foreground_fraction))
  found = [_positions(example) for example in cases.examples]
  return PatchStream(
    cases,
    places=tuple(classes for classes, _ in found),
    known=tuple(known for _, known in found),
    patch=size,
    block=around,
    axis=axis,
    batch_size=batch_size,
    num_foreground=max(num_foreground, 1) if foreground_fraction > 0 else 0,
    seed=seed,
    name=name,
  )


def _per_axis(
  examples: Sequence[Example], patch: Sequence[int], axis: int | None
) -> tuple[int, ...]:
  """The patch with size 1 across slices."""
  num_axes = len(patch) + (axis is not None)
  if axis is not None:
    one_of("axis", axis, range(num_axes))
  for example in examples:
    require(
      len(space_of(example)) == num_axes in (2, 3) and min(patch) >= 1,
      f"cases of {num_axes} axes for patches {tuple(patch)} and {axis=}",
      f"{example.name} of shape {space_of(example)}",
      "give one positive size per axis, or two sizes and the axis across the slices",
    )
  size = [int(n) for n in patch]
  return tuple(size if axis is None else [*size[:axis], 1, *size[axis:]])


def _reject_padding(examples: Sequence[Example], size: tuple[int, ...]) -> None:
  """Refuses patches that are padding for the larger part, whichever case is cut."""
  largest = np.max([space_of(example) for example in examples], axis=0)
  filled = np.prod(np.minimum(size, largest) / size)
  require(
    filled >= 0.5,
    f"patches that lie in cases of up to {' x '.join(map(str, largest))} voxels",
    f"{' x '.join(map(str, size))}, of which {1 - filled:.0%} would be padding",
    "choose a smaller patch",
  )


def _all_or_none(examples: Sequence[Example], field: str) -> bool:
  held = [example for example in examples if getattr(example, field) is not None]
  require(
    len(held) in (0, len(examples)),
    f"a {field} in all cases or in none",
    f"{len(held)} of {len(examples)}",
    "make a stream of each kind and zip them",
  )
  return bool(held)


def _positions(example: Example) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
  """Flat positions of each class above 0 and, if some voxels are IGNORE, of the others."""
  if example.label is None:
    return (), None
  flat = example.label.ravel()
  random = generator(0, "foreground voxels", example.index)
  inside = np.flatnonzero(flat > 0)
  order = inside[np.argsort(flat[inside], kind="stable")]
  _, starts = np.unique(flat[order], return_index=True)
  classes = tuple(_some_of(members, random) for members in np.split(order, starts[1:]))
  known = np.flatnonzero(flat != IGNORE)
  known = None if len(known) in (0, len(flat)) else _some_of(known, random)
  return (classes if len(inside) else ()), known


def _some_of(members: np.ndarray, random: np.random.Generator) -> np.ndarray:
  if len(members) > _VOXELS_A_CLASS:
    members = np.sort(random.choice(members, _VOXELS_A_CLASS, replace=False, shuffle=False))
  return members.astype(np.int32 if members[-1:].max(initial=0) < 2**31 else np.int64)
