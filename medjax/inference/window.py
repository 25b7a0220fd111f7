"""A network on images larger than its patch: overlapping windows, blended with Gaussian weights.

As in nnU-Net (Isensee et al. 2021): windows at even distances of at most (1 - overlap) patches,
weights of a Gaussian with a standard deviation of an eighth of the patch.
"""

import collections
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from medjax.check import in_interval, require

_IN_FLIGHT = 2  # batches of windows whose results wait on the device
_LEAST_WEIGHT = 1e-3  # of the largest; keeps corners that one window covers well conditioned

Network = Callable[[np.ndarray], jax.Array]
"""[batch, *patch, channel] -> [batch, *patch, k], one shape for all calls."""


def slide(
  network: Network,
  image: np.ndarray,
  patch: Sequence[int],
  *,
  overlap: float = 0.5,
  batch_size: int = 1,
) -> np.ndarray:
  """Weighted mean of what the network says in every window.

  Args:
    network: maps a batch of patches; called with `batch_size` patches each time, the last batch
      filled with zeros, so that it compiles once for all images.
    image: [*space, channel] float32. Axes shorter than the patch are padded with 0 on both sides.
    patch: window, voxels per axis.
    overlap: of neighbouring windows, as a fraction of the patch in [0, 0.95].
    batch_size: windows a call.
  Returns:
    [*space, k] float32 on the host. Where one window covers the image, the network's own values.
  """
  in_interval("overlap", overlap, 0.0, 0.95)
  require(
    len(patch) == image.ndim - 1,
    f"a patch of {image.ndim - 1} axes",
    f"{tuple(patch)}",
    "give one size per spatial axis of the image",
  )
  space = image.shape[:-1]
  margins = [max(p - s, 0) for p, s in zip(patch, space, strict=True)]
  padded = np.pad(image, [(m // 2, m - m // 2) for m in margins] + [(0, 0)])
  corners = list(
    itertools.product(*(starts(s, p, overlap) for s, p in zip(padded.shape, patch, strict=False)))
  )
  inside = tuple(slice(m // 2, m // 2 + s) for m, s in zip(margins, space, strict=True))
  blocks = [tuple(slice(c, c + p) for c, p in zip(cs, patch, strict=True)) for cs in corners]
  weight = gaussian(patch)[..., None]
  total, weights = None, np.zeros((*padded.shape[:-1], 1), np.float32)
  pending: collections.deque[tuple[list[Any], jax.Array]] = collections.deque()

  def collect() -> None:
    nonlocal total
    group, values = pending.popleft()
    found = np.asarray(values)
    if total is None:
      total = np.zeros((*padded.shape[:-1], found.shape[-1]), np.float32)
    for block, value in zip(group, found, strict=False):
      total[block] += weight * value
      weights[block] += weight

  for first in range(0, len(blocks), batch_size):
    group = blocks[first : first + batch_size]
    batch = np.zeros((batch_size, *patch, image.shape[-1]), np.float32)
    for place, block in enumerate(group):
      batch[place] = padded[block]
    pending.append((group, network(batch)))  # dispatched: the device works while windows are cut
    if len(blocks) == 1:
      return np.asarray(pending[0][1])[0][inside]
    if len(pending) > _IN_FLIGHT:
      collect()
  while pending:
    collect()
  assert total is not None
  total /= weights
  return total[inside]


def starts(size: int, patch: int, overlap: float) -> list[int]:
  """First voxels of the windows along one axis, evenly spaced, the last one at the end.

  >>> starts(100, 40, 0.5)
  [0, 20, 40, 60]
  >>> starts(30, 40, 0.5)
  [0]
  """
  room = max(size - patch, 0)
  count = math.ceil(room / max(patch * (1 - overlap), 1)) + 1
  return [round(room * i / max(count - 1, 1)) for i in range(count)]


def gaussian(patch: Sequence[int]) -> np.ndarray:
  """Weights [*patch] float32, 1 in the middle, at least 1e-3."""
  weight = np.ones(())
  for size in patch:
    distance = (np.arange(size) - (size - 1) / 2) / (size / 8)
    weight = weight[..., None] * np.exp(-(distance**2) / 2)
  return np.maximum(weight / weight.max(), _LEAST_WEIGHT).astype(np.float32)
