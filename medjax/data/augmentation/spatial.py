"""Rotation, scaling, elastic deformation and mirroring as one sampling of image and label.

A voxel x of the output reads the input at

  y = s R F (x + u(x) - c) + c'

with c and c' the centres of output and input, F a diagonal of signs (mirroring), R a rotation, s a
scaling and u a smooth displacement. All of them off: an exact crop of the middle.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.ops import fields, warp
from medjax.synth import deformation
from medjax.types import IGNORE, Key


class SpatialParameters(NamedTuple):
  """[ndim, ndim] matrix s R F; the elastic draw, None where it is off."""

  matrix: Float[Array, "ndim ndim"]
  elastic: deformation.DeformationParameters | None


@dataclasses.dataclass(frozen=True)
class Spatial:
  """Ranges of a random movement; the defaults are nnU-Net v2's in 3D.

  Attributes:
    rotation_degrees: angles ~ U(-r, r), one in 2D, three in 3D.
    rotation_probability: of any rotation.
    scaling: one factor for all axes ~ U(low, high); above 1 the anatomy shrinks.
    scaling_probability: of any scaling.
    elastic: deviation of the velocity nodes ~ U(low, high), in voxels, one node every 16 voxels.
    elastic_probability: of elastic deformation; 0 leaves the computation out.
    mirror_axes: axes that are mirrored independently of one another; None is all.
    mirror_probability: of mirroring each.
    across: axis of 3D patches that rotation, scaling and elastic deformation leave in place, for
      thick slices (nnU-Net's "dummy 2D"); None is none.
    label_outside: label of what lies outside the input. The image is 0 there, as in nnU-Net and in
      the margins that `data.patches` adds. nnU-Net calls it background; `IGNORE` claims nothing
      about anatomy that nobody saw, and is what `data.patches` puts there.
  """

  rotation_degrees: float = 30.0
  rotation_probability: float = 0.2
  scaling: tuple[float, float] = (0.7, 1.4)
  scaling_probability: float = 0.2
  elastic: tuple[float, float] = (0.0, 3.0)
  elastic_probability: float = 0.0
  mirror_axes: tuple[int, ...] | None = None
  mirror_probability: float = 0.5
  across: int | None = None
  label_outside: int = IGNORE

  def __post_init__(self):
    check.in_interval("rotation_degrees", self.rotation_degrees, 0.0, 180.0)
    check.ordered("scaling", self.scaling, above=0)
    check.ordered("elastic", self.elastic, least=0)
    for name in ("rotation", "scaling", "elastic", "mirror"):
      field = f"{name}_probability"
      check.probability(field, getattr(self, field))

  def draw(self, key: Key, patch: tuple[int, ...]) -> SpatialParameters:
    """A movement for outputs of shape `patch`, 2D or 3D."""
    ndim = len(patch)
    check.one_of("number of axes of patch", ndim, (2, 3))
    if self.across is not None:
      check.one_of("across", self.across, range(3) if ndim == 3 else ())
    mirror_axes = range(ndim) if self.mirror_axes is None else self.mirror_axes
    for axis in mirror_axes:
      check.one_of("mirror axis", axis, range(ndim))
    keys = rng.streams(key, "rotation", "scaling", "elastic", "mirror")
    rotation_key, scaling_key, elastic_key, mirror_key = keys

    angle_key, gate_key = rng.streams(rotation_key, "angle", "gate")
    bound = self.rotation_degrees * jax.random.bernoulli(gate_key, self.rotation_probability)
    angles = jax.random.uniform(angle_key, (2 * ndim - 3,), minval=-bound, maxval=bound)
    factor_key, gate_key = rng.streams(scaling_key, "factor", "gate")
    low, high = self.scaling
    factor = jax.random.uniform(factor_key, minval=low, maxval=high)
    factor = jnp.where(jax.random.bernoulli(gate_key, self.scaling_probability), factor, 1.0)
    factors = jnp.full(ndim, factor)
    if self.across is not None:
      is_across = np.arange(ndim) == self.across
      angles, factors = jnp.where(is_across, angles, 0.0), jnp.where(is_across, 1.0, factors)
    may_flip = np.isin(np.arange(ndim), mirror_axes)
    flipped = jax.random.bernoulli(mirror_key, self.mirror_probability, (ndim,)) & may_flip
    matrix = fields.affine_matrix(angles, factors, jnp.zeros(ndim * (ndim - 1)))
    matrix = matrix * jnp.where(flipped, -1.0, 1.0)[None, :]

    elastic = None
    if self.elastic_probability > 0:
      field_key, gate_key = rng.streams(elastic_key, "field", "gate")
      elastic = self._deformation().draw(field_key, patch)
      is_on = jax.random.bernoulli(gate_key, self.elastic_probability)
      moves = np.arange(ndim) != (ndim if self.across is None else self.across)
      gate = jnp.where(is_on & moves, 1.0, 0.0).reshape((1,) * ndim + (ndim,))
      elastic = elastic._replace(velocity=elastic.velocity * gate)
    return SpatialParameters(matrix, elastic)

  def apply(
    self,
    parameters: SpatialParameters,
    image: Float[Array, "*source channel"],
    label: Int[Array, "*source"] | None,
    patch: tuple[int, ...],
  ) -> tuple[Float[Array, "*patch channel"], Int[Array, "*patch"] | None]:
    """Image by linear interpolation, label by the majority of the same weights."""
    place = warp.identity_coordinates(patch)
    if parameters.elastic is not None:
      place = place + self._deformation().displacement(parameters.elastic, patch)
    # Whole voxels from the patch's centre to the block's, so that the identity is an exact crop.
    start = [(old - new) // 2 for old, new in zip(image.shape, patch, strict=False)]
    place = fields.affine_coordinates(
      parameters.matrix, jnp.asarray(start, jnp.float32), place, patch
    )
    image = warp.sample_linear(image, place, fill=0.0)
    if label is not None:
      label = warp.sample_majority(label, place, fill=self.label_outside)
    return image, label

  def source_shape(self, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Block that covers a patch under the worst rotation about one axis and the worst scaling.

    Not under both at once (4 % of the examples), nor under rotations about several axes: that takes
    13 times the voxels of a cube instead of 2.7, and even so only 0.2 % of an average example comes
    from outside. nnU-Net's initial patch has 4.2 times the voxels in 3D (0.02 % from outside) and
    1.4 times in 2D (1.3 %; here 2.0 times and 0.1 %). Elastic displacement is not counted. Sizes
    keep the parity of the patch's, so that both have one centre.
    """
    bound = math.radians(self.rotation_degrees) if self.rotation_probability else 0.0
    scale = max(self.scaling[1], 1.0) if self.scaling_probability else 1.0
    block = []
    for axis, size in enumerate(patch):
      extent = size
      if axis != self.across:
        others = [other for o, other in enumerate(patch) if o not in (axis, self.across)]
        # max of a cos t + b sin t over t in [0, bound]; the sum peaks at atan(b / a)
        turns = [(min(math.atan2(other, size), bound), other) for other in others]
        turned = [size * math.cos(t) + other * math.sin(t) for t, other in turns]
        extent = max(size * scale, *turned)
      block.append(size + 2 * math.ceil((extent - size) / 2 - 1e-6))
    return tuple(block)

  def _deformation(self) -> deformation.Deformation:
    """Of it only the elastic part is used."""
    return deformation.Deformation(
      rotation_degrees=0.0, scaling=(1.0, 1.0), shear=0.0, elastic=self.elastic, nodes=1 / 16
    )
