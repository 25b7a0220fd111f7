"""What is in a Source: people, shapes, voxel sizes, intensities and labels, site by site."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from medjax.check import positive
from medjax.types import IGNORE, Example, Source


@dataclasses.dataclass(frozen=True)
class SiteSummary:
  """What the cases of a site have in common.

  Attributes:
    name: "" where there is one site.
    cases, people: how many, known without reading; people is None where nobody knows them.
    read: cases that were read; all that follows is about these.
    shapes: smallest and largest size an axis.
    spacings: smallest and largest voxel size an axis, mm.
    intensities: smallest, median of the medians, and largest value; None without images.
    present: class name -> cases that have it.
    share: class name -> its mean share of a case's known voxels; of the cases, for classes.
    unknown: share of the labels that are IGNORE.
    shown: the case to show: of those read, the one with most foreground.
  """

  name: str
  cases: int
  people: int | None
  read: int
  shapes: tuple[tuple[int, ...], tuple[int, ...]]
  spacings: tuple[tuple[float, ...], tuple[float, ...]]
  intensities: tuple[float, float, float] | None
  present: dict[str, int]
  share: dict[str, float]
  unknown: float
  shown: Example


def inspect(
  source: Source,
  *,
  most: int | None = None,
  progress: Callable[[Sequence[str]], Iterable[str]] = lambda names: names,
) -> list[SiteSummary]:
  """Sites in order of their names.

  Args:
    source: what to look at.
    most: read at most so many cases a site, evenly spread; None reads all.
    progress: wraps the sequence of sites that are worked on.
  """
  if most is not None:
    positive("most", most)
  where: dict[str, list[int]] = {}
  for index, site in enumerate(source.domains):
    where.setdefault(site, []).append(index)
  return [_site(source, site, where[site], most) for site in progress(sorted(where))]


def middle(example: Example) -> tuple[np.ndarray, np.ndarray | None]:
  """A picture of a case in [0, 1], [height, width] or [height, width, 3], and its label map if any.

  Volumes are cut across their last axis where the foreground is largest, and turned upright.
  """
  image, label = example.image, example.label
  is_map = label is not None and label.ndim == len(example.spacing)
  array = label if image is None else image
  assert array is not None
  if image is not None and image.shape[-1] != 3:
    array = array[..., 0]
  low, high = float(array.min()), float(array.max())
  array = (array - low) / (high - low if high > low else 1.0)
  if len(example.spacing) < 3:
    return array, label if is_map else None
  depth = array.shape[2] // 2
  if is_map:
    assert label is not None
    area = (label > 0).sum(axis=(0, 1))
    depth = int(area.argmax()) if area.any() else depth
  cut = np.rot90(array[:, :, depth])
  return cut, np.rot90(label[:, :, depth]) if is_map and label is not None else None


def knows_people(source: Source) -> bool:
  """Whether the subjects of a source are people; else they are digests of pixels."""
  return bool(getattr(source, "knows_people", True))


def _site(source: Source, name: str, indices: list[int], most: int | None) -> SiteSummary:
  step = 1 if most is None else max(1, -(-len(indices) // most))
  chosen = indices[::step]
  sizes, spacings, values = [], [], []
  present: Counter[str] = Counter()
  share: dict[str, float] = dict.fromkeys(source.class_names, 0.0)
  unknown, best, shown = 0.0, -1.0, None
  for index in chosen:
    example = source[index]
    array = example.label if example.image is None else example.image[..., 0]
    assert array is not None
    sizes.append(array.shape)
    spacings.append(example.spacing)
    if example.image is not None:
      values.append([example.image.min(), np.median(example.image), example.image.max()])
    shares, missing = _labels(example, len(source.class_names))
    unknown += missing / len(chosen)
    for class_name, value in zip(source.class_names, shares, strict=True):
      present[class_name] += int(value > 0)
      share[class_name] += float(value) / len(chosen)
    foreground = float(sum(shares[1:]))
    if foreground > best:
      best, shown = foreground, example
  assert shown is not None
  intensities = None
  if values:
    lows, medians, highs = np.array(values, np.float64).T
    intensities = (float(lows.min()), float(np.median(medians)), float(highs.max()))
  return SiteSummary(
    name=name,
    cases=len(indices),
    people=len({source.subjects[i] for i in indices}) if knows_people(source) else None,
    read=len(chosen),
    shapes=(_least(sizes), _most(sizes)),
    spacings=(_least(spacings), _most(spacings)),
    intensities=intensities,
    present={c: present[c] for c in source.class_names},
    share=share,
    unknown=unknown,
    shown=shown,
  )


def _labels(example: Example, num_classes: int) -> tuple[np.ndarray, float]:
  """Share of each class and of IGNORE, for a map, for one class and for a vector of findings."""
  label = example.label
  if label is None:
    return np.zeros(num_classes), 0.0
  known = label != IGNORE
  missing = 1 - known.mean()
  if label.ndim == 1 and len(example.spacing) > 1:
    return (label == 1).astype(np.float64), float(missing)
  counts = np.bincount(label[known].ravel(), minlength=num_classes)
  return counts / max(1, counts.sum()), float(missing)


def _least(rows: Sequence[tuple]) -> tuple:
  return tuple(min(column) for column in zip(*rows, strict=True))


def _most(rows: Sequence[tuple]) -> tuple:
  return tuple(max(column) for column in zip(*rows, strict=True))
