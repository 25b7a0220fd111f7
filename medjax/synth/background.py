"""Unlabelled tissue around the labels of a real image: split into classes, or cut away.

A map with 0 for air, skull and skin alike would be synthesised with one flat head. Clustering the
intensities of the image that the map belongs to gives these voxels classes of their own, for
generation only; the targets call them background (SynthSeg and cornucopia do the same with k-means
or EM). Host code, NumPy, run once per image.
"""

import numpy as np

from medjax import check
from medjax.synth import grouping


def split_background(
  image: np.ndarray,
  label: np.ndarray,
  num_clusters: int = 3,
  *,
  first_value: int,
  threshold: float | None = None,
  num_iterations: int = 50,
) -> np.ndarray:
  """Gives unlabelled tissue the values first_value, first_value + 1, ... by intensity.

  One-dimensional k-means (Lloyd) over the voxels of label 0, started at evenly spaced intensities
  up to their 99th percentile: deterministic. Clusters are in order of intensity. Without a
  threshold one more cluster is made and the darkest one, air and compact bone, stays 0: a fixed
  small threshold would label the noise of the air as tissue.

  Args:
    image: [*space] or [*space, 1] real image.
    label: [*space] integer map of the same grid.
    num_clusters: number of extra values.
    first_value: first new value, above all values of the map.
    threshold: voxels of label 0 at or below it stay 0 and are not clustered (0 for images that
      were masked to the head); None finds the dark cluster itself.
    num_iterations: at most this many passes.
  Returns:
    New label map; labelled voxels are unchanged, as are all where no voxel exceeds the threshold.
  """
  if image.ndim == label.ndim + 1 and image.shape[-1] == 1:
    image = image[..., 0]
  check.same_shape("image", image.shape, "label", label.shape)
  check.require(num_clusters > 0, "num_clusters > 0", f"{num_clusters}", "pass 1 or more")
  check.require(
    first_value > int(label.max()),
    f"first_value above the labels' maximum {int(label.max())}",
    f"{first_value}",
    "use the number of classes",
  )
  head = label == 0 if threshold is None else (label == 0) & (image > threshold)
  values = image[head].astype(np.float64)
  result = label.copy()
  if values.size == 0:
    return result
  if threshold is None:
    cluster = _k_means(values, num_clusters + 1, num_iterations)
    result[head] = np.where(cluster == 0, 0, first_value + cluster - 1)
  else:
    result[head] = first_value + _k_means(values, num_clusters, num_iterations)
  return result


def strip_background(
  image: np.ndarray, label: np.ndarray, *, margin: np.ndarray | None = None
) -> np.ndarray:
  """The control: the image with 0 wherever the label is 0, as after skull stripping by the truth.

  It uses the true labels, so it must never be applied to test images of a method under claim.

  Args:
    image: [*space] or [*space, channel].
    label: [*space].
    margin: bool [*space] voxels to keep although unlabelled, e.g. the CSF rim; None keeps none.
  """
  check.same_shape("image", image.shape[: label.ndim], "label", label.shape)
  keep = label != 0 if margin is None else (label != 0) | margin
  return np.where(keep.reshape(keep.shape + (1,) * (image.ndim - keep.ndim)), image, 0)


def with_clusters(base: grouping.Grouping, num_clusters: int) -> grouping.Grouping:
  """`base` with `num_clusters` further values after its last: own intensity, target background."""
  start = len(base.generation)
  extra = np.arange(num_clusters, dtype=np.int32)
  return grouping.Grouping(
    generation=np.concatenate([base.generation, base.num_generation + extra]),
    target=np.concatenate([base.target, np.zeros_like(extra)]),
    mirror=np.concatenate([base.mirror, start + extra]),
    is_listed=np.concatenate([base.is_listed, np.ones(num_clusters, bool)]),
    target_names=base.target_names,
  )


def _k_means(values: np.ndarray, num_clusters: int, num_iterations: int) -> np.ndarray:
  """Cluster of each value, numbered in increasing order of the centres."""
  low, high = values.min(), np.percentile(values, 99)
  centres = low + (np.arange(num_clusters) + 0.5) / num_clusters * (high - low)
  for _ in range(num_iterations):
    cluster = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
    count = np.bincount(cluster, minlength=num_clusters)
    total = np.bincount(cluster, weights=values, minlength=num_clusters)
    moved = np.where(count > 0, total / np.maximum(count, 1), centres)
    if np.array_equal(moved, centres):
      break
    centres = moved
  return np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
