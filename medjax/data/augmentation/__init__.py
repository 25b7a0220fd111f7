"""Random changes of one training example, on the device: image and label move together."""

from medjax.data.augmentation.intensity import (
  Blur,
  Brightness,
  Contrast,
  Gamma,
  LowResolution,
  Noise,
  Shift,
)
from medjax.data.augmentation.pipeline import Augmentation
from medjax.data.augmentation.presets import nnunet
from medjax.data.augmentation.spatial import Spatial

__all__ = [
  "Augmentation",
  "Blur",
  "Brightness",
  "Contrast",
  "Gamma",
  "LowResolution",
  "Noise",
  "Shift",
  "Spatial",
  "nnunet",
]
