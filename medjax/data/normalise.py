"""Intensity normalisation of one image, channel by channel, on the host.

A normaliser is a function of one channel. Those of `NORMALISERS` and `ForegroundPercentiles` have a
JSON form (`to_spec`, `from_spec`), so that a trained model carries its preprocessing along.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from medjax.check import InputError, one_of, require
from medjax.data.seeds import generator
from medjax.types import Indices, Json, Source

Normaliser: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Maps one channel [*space] float32 to an array of the same shape."""


def zscore(channel: np.ndarray) -> np.ndarray:
  """Mean 0 and standard deviation 1 over all voxels."""
  return _scaled(channel, channel.mean(dtype=np.float64), channel.std(dtype=np.float64))


def masked_zscore(channel: np.ndarray) -> np.ndarray:
  """Mean 0 and standard deviation 1 over the voxels that are not 0; the others stay 0.

  For skull-stripped scans, whose background is exactly 0.
  """
  return _masked(channel, channel != 0)


def filled_zscore(channel: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
  """nnU-Net's masked z-score: mean 0 and deviation 1 inside `mask`, 0 outside.

  Args:
    channel: [*space] float32.
    mask: [*space] bool; None takes `nonzero_mask` of this channel. `normalise` passes the mask of
      the whole image, which all channels share.
  """
  return _masked(channel, nonzero_mask(channel[..., None]) if mask is None else mask)


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


def eight_bit(channel: np.ndarray) -> np.ndarray:
  """Values 0..255 go to [0, 1]: the scale of an RGB file, the same for every image.

  Raises:
    InputError: values outside 0..255.
  """
  low, high = float(channel.min(initial=0)), float(channel.max(initial=0))
  require(
    low >= 0 and high <= 255, "values in 0..255", f"{low:g}..{high:g}", 'normalise by "minmax"'
  )
  return channel.astype(np.float32) / np.float32(255)


NORMALISERS: dict[str, Normaliser] = {
  "zscore": zscore,
  "masked_zscore": masked_zscore,
  "filled_zscore": filled_zscore,
  "percentile": percentile,
  "minmax": minmax,
  "eight_bit": eight_bit,
  "none": none,
}


@dataclasses.dataclass(frozen=True)
class ForegroundPercentiles:
  """nnU-Net's scheme for CT, whose values mean the same in every scan.

  y = (clip(x, low, high) - mean) / std             (Isensee et al. 2021, Nature Methods, Methods)

  Attributes:
    low, high: 0.5th and 99.5th percentile of the foreground voxels of the training cases.
    mean, std: of the same voxels, before clipping; in the units of the file.
  """

  low: float | int
  high: float | int
  mean: float | int
  std: float | int

  def __post_init__(self):
    values = dataclasses.astuple(self)
    require(
      all(math.isfinite(v) for v in values) and self.low <= self.high and self.std > 0,
      "finite low <= high, mean and std > 0 of the foreground",
      f"{values}",
      "compute them with foreground_statistics",
    )

  def __call__(self, channel: np.ndarray) -> np.ndarray:
    clipped = np.clip(channel.astype(np.float32), np.float32(self.low), np.float32(self.high))
    return (clipped - np.float32(self.mean)) / np.float32(self.std)


def foreground_statistics(
  source: Source, indices: Indices, channel: int = 0, *, num_voxels: int = 1_000_000
) -> ForegroundPercentiles:
  """Measures the foreground (label > 0) of the training cases.

  Args:
    source: cases with raw intensities (`normalise="none"`) and label maps.
    indices: the training cases; no other case is read.
    channel: which channel.
    num_voxels: voxels kept in memory over all cases. Each case gives the same number, drawn with
      replacement, so that large structures of one case do not outweigh the others; one million
      puts the 0.5th percentile within 0.014 percent of rank (two standard errors).
  Returns:
    A normaliser that depends on the cases only, not on their order.
  Raises:
    InputError: no cases, a case without image or label map, or no foreground in any.
  """
  require(len(indices) > 0, "training cases", "none", "check the split")
  one_of("channel", channel, range(len(source.channel_names)))
  quota = max(1, num_voxels // len(indices))
  drawn = []
  for index in indices:
    example = source[int(index)]
    if example.image is None or example.label is None or example.label.ndim == 0:
      raise InputError("an image and a label map", f"case {example.name}", "use labelled cases")
    inside = example.image[..., channel][example.label > 0]
    if inside.size:
      drawn.append(generator(0, "foreground statistics", int(index)).choice(inside, quota))
  require(drawn, "foreground in a training case", "none", "check the labels")
  values = np.concatenate(drawn).astype(np.float64)
  low, high = np.percentile(values, (0.5, 99.5))
  return ForegroundPercentiles(float(low), float(high), float(values.mean()), float(values.std()))


def nonzero_mask(image: np.ndarray) -> np.ndarray:
  """Where an image has anything: some channel is not 0, with enclosed holes filled.

  The mask that nnU-Net crops to and normalises in. DEVIATION: nnU-Net adds labelled voxels outside
  it; at prediction there are none, so we leave them out in training as well.

  Args:
    image: [*space, channel].
  Returns:
    [*space] bool.
  """
  from scipy import ndimage

  return ndimage.binary_fill_holes((image != 0).any(axis=-1))


def normalise(
  image: np.ndarray, how: str | Normaliser | Sequence[str | Normaliser] = "zscore"
) -> np.ndarray:
  """Normalises each channel of an image on its own.

  Args:
    image: [*space, channel], real.
    how: a name of `NORMALISERS`, a function of one channel, or one of these per channel.
  Returns:
    [*space, channel] float32. A constant channel becomes 0 under every name but "none" and
    "eight_bit".
  Raises:
    InputError: an unknown name, or a sequence of another length than the channels.
  """
  num_channels = image.shape[-1]
  each = [how] * num_channels if isinstance(how, str) or callable(how) else list(how)
  require(
    len(each) == num_channels,
    f"one normaliser or {num_channels}, one a channel",
    f"{len(each)}",
    "give as many as there are channels",
  )
  functions = [from_spec({"name": f}) if isinstance(f, str) else f for f in each]
  mask = nonzero_mask(image) if filled_zscore in functions else None
  channels = []
  for c, function in enumerate(functions):
    channel = np.asarray(image[..., c], np.float32)
    done = filled_zscore(channel, mask) if function is filled_zscore else function(channel)
    channels.append(np.asarray(done, np.float32))
  return np.stack(channels, axis=-1)


def to_spec(normaliser: str | Normaliser) -> dict[str, Json]:
  """The JSON form of a normaliser, for example {"name": "zscore"}.

  >>> to_spec(ForegroundPercentiles(-100.0, 300.0, 60.0, 40.0))
  {'name': 'ct', 'low': -100.0, 'high': 300.0, 'mean': 60.0, 'std': 40.0}

  Raises:
    InputError: a function that `NORMALISERS` does not hold: nobody could read it back.
  """
  if isinstance(normaliser, ForegroundPercentiles):
    return {"name": "ct", **dataclasses.asdict(normaliser)}
  for name, function in NORMALISERS.items():
    if normaliser == name or normaliser is function:
      return {"name": name}
  raise InputError(
    f"a normaliser among {', '.join(NORMALISERS)} or ForegroundPercentiles",
    f"{normaliser!r}",
    "own functions cannot be saved with a model",
  )


def from_spec(spec: Mapping[str, Json]) -> Normaliser:
  """The normaliser of a JSON form; undoes `to_spec`.

  Raises:
    InputError: an unknown name, missing or superfluous fields.
  """
  settings = dict(spec)
  name = settings.pop("name", None)
  one_of("normalise", name, (*NORMALISERS, "ct"))
  wanted = [field.name for field in dataclasses.fields(ForegroundPercentiles)]
  wanted = wanted if name == "ct" else []
  require(
    sorted(settings) == sorted(wanted) and all(_is_number(v) for v in settings.values()),
    f"numbers {', '.join(wanted) or '(none)'} beside the name {name!r}",
    f"{settings}",
    "correct the specification; foreground_statistics measures those of 'ct'",
  )
  if name == "ct":
    return ForegroundPercentiles(**{key: float(value) for key, value in settings.items()})
  return NORMALISERS[str(name)]


def _is_number(value: object) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _masked(channel: np.ndarray, mask: np.ndarray) -> np.ndarray:
  if not mask.any():
    return np.zeros(channel.shape, np.float32)
  inside = channel[mask]
  result = np.zeros(channel.shape, np.float32)
  result[mask] = _scaled(inside, inside.mean(dtype=np.float64), inside.std(dtype=np.float64))
  return result


def _scaled(channel: np.ndarray, centre: float, scale: float) -> np.ndarray:
  """(channel - centre) / scale, and 0 where the scale is nothing but rounding."""
  largest = float(np.abs(channel).max(initial=0.0))
  if not scale > 1e-7 * largest:  # float32 resolves 6e-8 of its value
    return np.zeros(channel.shape, np.float32)
  return ((channel - centre) / scale).astype(np.float32)
