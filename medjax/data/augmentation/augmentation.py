"""A random movement of image and label, and then transforms of the image, as one function."""

import dataclasses

from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.data.augmentation.spatial import Spatial
from medjax.transforms import Pipeline
from medjax.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """`augmentation(key, image, label) -> (image, label)` of ONE example; vmap adds the batch.

  Attributes:
    patch: voxels per axis of the output, 2 or 3 axes.
    spatial: how image and label move together; None leaves them in place.
    transforms: what happens to the image after that, see `transforms.pipeline`. Adding a step, or
      taking one away, leaves the random numbers of the others as they are.
  """

  patch: tuple[int, ...]
  spatial: Spatial | None = None
  transforms: Pipeline = Pipeline()

  def __post_init__(self):
    fits = len(self.patch) in (2, 3) and min(self.patch) > 0
    check.require(fits, "patch of 2 or 3 sizes above 0", f"{self.patch}", "give one per axis")

  @property
  def source_shape(self) -> tuple[int, ...]:
    """Block that a stream should cut for this patch, see `Spatial.source_shape`."""
    return self.patch if self.spatial is None else self.spatial.source_shape(self.patch)

  def draw(self, key: Key, shape: tuple[int, ...]) -> dict[str, PyTree]:
    """Parameters by name, for an image of `shape` = [*source, channel]; of both parts."""
    drawn = self.transforms.draw(key, (*self.patch, shape[-1]))
    if self.spatial is not None:
      drawn["spatial"] = self.spatial.draw(rng.stream(key, "spatial"), self.patch)
    return drawn

  def apply(
    self,
    parameters: dict[str, PyTree],
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
    if self.spatial is None:
      check.same_shape("image", image.shape[:-1], "patch (without spatial)", self.patch)
    else:
      image, label = self.spatial.apply(parameters["spatial"], image, label, self.patch)
    return self.transforms.apply(parameters, image), label

  def __call__(
    self,
    key: Key,
    image: Float[Array, "*source channel"],
    label: Int[Array, "..."] | None = None,
  ) -> tuple[Float[Array, "*patch channel"], Int[Array, "*patch"] | None]:
    """`apply(draw(key, image.shape), image, label)`.

    Guarantees: a function of (self, key, example) alone. Labels are the same bits under jit, vmap
    and any batch size; images differ by rounding of sums, whose order batching may change.
    """
    return self.apply(self.draw(key, image.shape), image, label)
