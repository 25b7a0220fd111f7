"""All components in order, as one function of a key and an example."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.data.augmentation import intensity
from medjax.data.augmentation.spatial import Spatial
from medjax.types import Key


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """`augmentation(key, image, label) -> (image, label)` of ONE example; vmap adds the batch.

  Components run in the order of the attributes; None switches one off and leaves the numbers of the
  others as they are.

  Attributes:
    patch: voxels per axis of the output, 2 or 3 axes.
    spatial, noise, ...: see their classes.
  """

  patch: tuple[int, ...]
  spatial: Spatial | None = None
  noise: intensity.Noise | None = None
  blur: intensity.Blur | None = None
  brightness: intensity.Brightness | None = None
  shift: intensity.Shift | None = None
  contrast: intensity.Contrast | None = None
  low_resolution: intensity.LowResolution | None = None
  inverted_gamma: intensity.Gamma | None = None
  gamma: intensity.Gamma | None = None

  def __post_init__(self):
    fits = len(self.patch) in (2, 3) and min(self.patch) > 0
    check.require(fits, "patch of 2 or 3 sizes above 0", f"{self.patch}", "give one per axis")

  @property
  def source_shape(self) -> tuple[int, ...]:
    """Block that a stream should cut for this patch, see `Spatial.source_shape`."""
    return self.patch if self.spatial is None else self.spatial.source_shape(self.patch)

  def draw(self, key: Key, num_channels: int) -> dict[str, Any]:
    """Parameters of one example, by component; components that are off are missing."""
    shape = (*self.patch, num_channels)
    drawn = {
      name: component.draw(rng.stream(key, name), shape)
      for name, component in self._intensities().items()
    }
    if self.spatial is not None:
      drawn["spatial"] = self.spatial.draw(rng.stream(key, "spatial"), self.patch)
    return drawn

  def apply(
    self,
    parameters: dict[str, Any],
    image: Float[Array, "*source channel"],
    label: Int[Array, "..."] | None = None,
  ) -> tuple[Float[Array, "*patch channel"], Int[Array, "*patch"] | None]:
    """Changes one example by what `draw` gave.

    Args:
      parameters: from `draw`, or any change of it.
      image: [*source, channel], best of shape `source_shape`; the patch is its middle. Where a
        smaller one ends, the image is 0.
      label: [*source] class ids and `IGNORE`, or None.
    Returns:
      (image [*patch, channel], label [*patch] or None).
    """
    check.require(
      image.ndim == len(self.patch) + 1,
      f"an image of {len(self.patch)} axes and channels for {self.patch=}",
      f"shape {image.shape}",
      "pass one example, without a batch axis",
    )
    if label is not None:
      check.same_shape("label", label.shape, "image", image.shape[:-1])
    spatial = self.spatial
    if spatial is None:
      check.same_shape("image", image.shape[:-1], "patch (without spatial)", self.patch)
    else:
      image, label = spatial.apply(parameters["spatial"], image, label, self.patch)
    for name, component in self._intensities().items():
      image = component.apply(parameters[name], image)
    return image, label

  def __call__(
    self,
    key: Key,
    image: Float[Array, "*source channel"],
    label: Int[Array, "..."] | None = None,
  ) -> tuple[Float[Array, "*patch channel"], Int[Array, "*patch"] | None]:
    """`apply(draw(key, channels), image, label)`.

    Guarantees: a function of (self, key, example) alone. Labels are the same bits under jit, vmap
    and any batch size; images differ by rounding of sums, whose order batching may change.
    """
    return self.apply(self.draw(key, image.shape[-1]), image, label)

  def _intensities(self) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(self)][2:]
    return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
