"""Intensity normalisation of one image, channel by channel, on the host."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from medjax.check import one_of

Normaliser: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Maps one channel [*space] float32 to an array of the same shape."""


def zscore(channel: np.ndarray) -> np.ndarray:
  """Mean 0 and standard deviation 1 over all voxels."""
  return _scaled(channel, channel.mean(dtype=np.float64), channel.std(dtype=np.float64))


def masked_zscore(channel: np.ndarray) -> np.ndarray:
  """Mean 0 and standard deviation 1 over the voxels that are not 0; the others stay 0.

  For skull-stripped scans, whose background is exactly 0.
  """
  mask = channel != 0
  if not mask.any():
    return np.zeros_like(channel, np.float32)
  inside = channel[mask]
  result = _scaled(channel, inside.mean(dtype=np.float64), inside.std(dtype=np.float64))
  return np.where(mask, result, np.float32(0))


def percentile(channel: np.ndarray) -> np.ndarray:
  """The 1st and 99th percentile go to 0 and 1, clipped to [0, 1]."""
  low, high = np.percentile(channel, (1.0, 99.0))
  return np.clip(_scaled(channel, low, high - low), 0.0, 1.0)


def minmax(channel: np.ndarray) -> np.ndarray:
  """The smallest value goes to 0 and the largest to 1."""
  low, high = float(channel.min()), float(channel.max())
  return _scaled(channel, low, high - low)


def none(channel: np.ndarray) -> np.ndarray:
  """Values as they are in the file."""
  return channel.astype(np.float32)


NORMALISERS: dict[str, Normaliser] = {
  "zscore": zscore,
  "masked_zscore": masked_zscore,
  "percentile": percentile,
  "minmax": minmax,
  "none": none,
}


def normalise(image: np.ndarray, how: str | Normaliser = "zscore") -> np.ndarray:
  """Normalises each channel of an image on its own.

  Args:
    image: [*space, channel], real.
    how: a name of `NORMALISERS`, or a function of one channel.
  Returns:
    [*space, channel] float32. A constant channel becomes 0 under every name but "none".
  Raises:
    InputError: an unknown name.
  """
  if isinstance(how, str):
    one_of("normalise", how, NORMALISERS)
    function = NORMALISERS[how]
  else:
    function = how
  channels = [
    np.asarray(function(np.asarray(image[..., c], np.float32)), np.float32)
    for c in range(image.shape[-1])
  ]
  return np.stack(channels, axis=-1)


def _scaled(channel: np.ndarray, centre: float, scale: float) -> np.ndarray:
  """(channel - centre) / scale, and 0 where the scale is nothing but rounding."""
  largest = float(np.abs(channel).max(initial=0.0))
  if not scale > 1e-7 * largest:  # float32 resolves 6e-8 of its value
    return np.zeros(channel.shape, np.float32)
  return ((channel - centre) / scale).astype(np.float32)
