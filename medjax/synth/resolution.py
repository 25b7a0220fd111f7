"""Acquisition resolution: random blur, and thick slices sampled low and interpolated back.

SynthSeg (Billot et al. 2023; lab2im SampleResolution, DynamicGaussianBlur, MimicAcquisition): draw
a resolution r_a and a slice thickness t_a <= r_a per axis, blur with

  sigma_a = 0.75 * min(r_a, t_a) / voxel         (0.5 where that ratio is 1)

sample at spacing r_a (nearest voxel), interpolate back to the grid linearly. All three are linear
and separable: one matrix per axis, so random axes and factors need no branch.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check, rng
from medjax.ops import blur
from medjax.types import Key

_FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a unit Gaussian


@dataclasses.dataclass(frozen=True)
class Blur:
  """Isotropic Gaussian blur of random width.

  Attributes:
    fwhm: full width at half maximum ~ U(low, high), in voxels; cornucopia's "motion" U(0, 3).
  """

  fwhm: tuple[float, float] = (0.0, 3.0)

  def __post_init__(self):
    check.ordered("fwhm", self.fwhm, least=0)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " ndim"]:
    """Standard deviation per axis in voxels, for an image of `shape` = [*space, channel]."""
    fwhm = jax.random.uniform(key, (1,), minval=self.fwhm[0], maxval=self.fwhm[1])
    return jnp.tile(fwhm / _FWHM, len(shape) - 1)

  def apply(
    self, parameters: Float[Array, " ndim"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return blur.gaussian_blur(image, parameters)


class ResolutionParameters(NamedTuple):
  """[ndim] sampling distance and [ndim] slice thickness, in voxels, both at least 1."""

  spacing: Float[Array, " ndim"]
  thickness: Float[Array, " ndim"]


@dataclasses.dataclass(frozen=True)
class Resolution:
  """Random acquisition resolution; the defaults are SynthSeg's at voxels of 1 mm.

  Attributes:
    isotropic: spacing of all axes ~ U(low, high), in mm.
    anisotropic: spacing of one random axis ~ U(low, high), in mm; the others stay.
    isotropic_probability: probability of the first kind.
    unchanged_probability: probability that nothing is resampled (a blur of 0.5 voxels remains, as
      in SynthSeg).
    voxel_mm: size of the (isotropic) voxels; spacings below it count as it.
  """

  isotropic: tuple[float, float] = (1.0, 4.0)
  anisotropic: tuple[float, float] = (1.0, 8.0)
  isotropic_probability: float = 0.1
  unchanged_probability: float = 0.05
  voxel_mm: float = 1.0

  def __post_init__(self):
    check.ordered("isotropic", self.isotropic)
    check.ordered("anisotropic", self.anisotropic)
    check.probability("isotropic_probability", self.isotropic_probability)
    check.probability("unchanged_probability", self.unchanged_probability)
    check.positive("voxel_mm", self.voxel_mm)

  def draw(self, key: Key, shape: tuple[int, ...]) -> ResolutionParameters:
    """Spacing and thickness per axis, for an image of `shape` = [*space, channel]."""
    num_axes = len(shape) - 1
    keys = rng.streams(key, "isotropic", "anisotropic", "axis", "kind", "unchanged", "thickness")
    isotropic_key, anisotropic_key, axis_key, kind_key, unchanged_key, thickness_key = keys
    isotropic = self._spacing(isotropic_key, self.isotropic)
    anisotropic = self._spacing(anisotropic_key, self.anisotropic)
    is_axis = jnp.arange(num_axes) == jax.random.randint(axis_key, (1,), 0, num_axes)
    is_isotropic = jax.random.bernoulli(kind_key, self.isotropic_probability)
    spacing = jnp.where(is_isotropic, isotropic, jnp.where(is_axis, anisotropic, 1.0))
    is_unchanged = jax.random.bernoulli(unchanged_key, self.unchanged_probability)
    spacing = jnp.where(is_unchanged, 1.0, spacing)
    fraction = jax.random.uniform(thickness_key, (num_axes,))
    return ResolutionParameters(spacing, 1 + fraction * (spacing - 1))

  def apply(
    self, parameters: ResolutionParameters, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """Image on its own grid with the detail of the drawn resolution; constants stay constant."""
    matrices = tuple(
      acquisition_matrix(size, parameters.spacing[axis], parameters.thickness[axis])
      for axis, size in enumerate(image.shape[:-1])
    )
    return blur.apply_separable(image, matrices)

  def _spacing(self, key: Key, bounds: tuple[float, float]) -> Array:
    spacing = jax.random.uniform(key, (1,), minval=bounds[0], maxval=bounds[1])
    return jnp.maximum(spacing / self.voxel_mm, 1.0)


def acquisition_matrix(
  size: int, spacing: Float[Array, ""], thickness: Float[Array, ""]
) -> Float[Array, "size size"]:
  """Blur, sampling at `spacing` and linear interpolation back, along one axis.

  Slice j is centred at (j + 1/2) * spacing - 1/2 voxels and takes the blurred value of the voxel
  nearest to it; voxel i blends the two slices around it.

  DEVIATION: SynthSeg truncates its kernel at about 1.2 sigma; here it is the whole Gaussian.

  Args:
    size: length of the axis in voxels.
    spacing: [] distance of slices in voxels, 1 or more; 1 leaves the sampling alone.
    thickness: [] slice thickness in voxels, at least 1.
  """
  ratio = jnp.minimum(spacing, thickness)
  sigma = jnp.where(ratio > 1, 0.75 * ratio, 0.5)
  last = jnp.ceil(size / spacing) - 1
  voxels = jnp.arange(size, dtype=jnp.float32)
  position = jnp.clip((voxels + 0.5) / spacing - 0.5, 0, last)
  lower = jnp.floor(position)
  weight = (position - lower)[:, None]

  def slices(index: Array) -> Array:
    centre = (jnp.minimum(index, last) + 0.5) * spacing - 0.5
    # The small offset keeps rounding of e.g. 2.4999998 the same on all backends.
    nearest = jnp.clip(jnp.floor(centre + 0.5 + 1e-3), 0, size - 1)
    return blur.gaussian_matrix(nearest, sigma, size)

  return (1 - weight) * slices(lower) + weight * slices(lower + 1)
