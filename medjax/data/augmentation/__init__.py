"""Random changes of one training example, on the device: image and label move together."""

from medjax.data.augmentation.augmentation import Augmentation
from medjax.data.augmentation.corruptions import CORRUPTIONS, SEVERITIES, Corrupted, Corruption
from medjax.data.augmentation.intensity import (
  Brightness,
  ChannelBlur,
  Contrast,
  GammaRetainingStats,
  LowResolution,
  SharedNoise,
)
from medjax.data.augmentation.presets import mr_artefacts, nnunet
from medjax.data.augmentation.siamese import Cutout, Moved, Translated, siamese
from medjax.data.augmentation.spatial import Spatial

__all__ = [
  "Augmentation",
  "Brightness",
  "CORRUPTIONS",
  "ChannelBlur",
  "Contrast",
  "Corrupted",
  "Corruption",
  "Cutout",
  "GammaRetainingStats",
  "LowResolution",
  "Moved",
  "SEVERITIES",
  "SharedNoise",
  "Spatial",
  "Translated",
  "mr_artefacts",
  "nnunet",
  "siamese",
]
