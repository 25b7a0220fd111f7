"""Random deformation of a label map: affine, elastic (diffeomorphic), left-right flip.

SynthSeg (Billot et al. 2023): labels are pulled back through x -> A(x + u(x)), where A is affine
about the centre and u the flow of a stationary velocity field, integrated at half resolution by
scaling and squaring; values come from the nearest voxel.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax import check, rng
from medjax.ops import fields, warp
from medjax.ops.materialise import materialise
from medjax.types import IGNORE, Key


class DeformationParameters(NamedTuple):
  """One drawn deformation.

  Attributes:
    matrix: [ndim, ndim] linear part.
    translation: [ndim] voxels.
    velocity: [*nodes, ndim] voxels, at the nodes.
    num_nodes: [ndim] nodes in use, or None for all.
  """

  matrix: Float[Array, "ndim ndim"]
  translation: Float[Array, " ndim"]
  velocity: Float[Array, "*nodes ndim"]
  num_nodes: Int[Array, " ndim"] | None


@dataclasses.dataclass(frozen=True)
class Deformation:
  """Ranges of a random affine map and elastic field; the defaults are SynthSeg's.

  Attributes:
    rotation_degrees: angles ~ U(-r, r), one in 2D, three in 3D.
    scaling: factor per axis ~ U(low, high); above 1 the anatomy shrinks, as maps are pulled back.
    shear: off-diagonal entries ~ U(-s, s).
    translation_fraction: shift per axis ~ U(-t, t) times the axis length.
    elastic: standard deviation of the node velocities ~ U(low, high), in `elastic_unit`.
    elastic_unit: "voxels", or "extent" (fractions of each axis length).
    nodes: a fraction of the shape (0.04: a node every 25 voxels, at least 2), or (low, high) for a
      random number of nodes per axis, both included.
    steps: squarings; 0 takes the velocity as displacement, which may fold.
  """

  rotation_degrees: float = 15.0
  scaling: tuple[float, float] = (0.8, 1.2)
  shear: float = 0.012
  translation_fraction: float = 0.0
  elastic: tuple[float, float] = (0.0, 4.0)
  elastic_unit: Literal["voxels", "extent"] = "voxels"
  nodes: float | tuple[int, int] = 0.04
  steps: int = 7

  def __post_init__(self):
    check.non_negative("rotation_degrees", self.rotation_degrees)
    check.ordered("scaling", self.scaling, above=0)
    check.non_negative("shear", self.shear)
    check.non_negative("translation_fraction", self.translation_fraction)
    check.ordered("elastic", self.elastic, least=0)
    check.one_of("elastic_unit", self.elastic_unit, ("voxels", "extent"))
    check.require(self.steps >= 0, "steps >= 0", f"{self.steps}", "pass 0 or more")
    if isinstance(self.nodes, tuple):
      low, high = self.nodes
      check.require(1 <= low <= high, "nodes as (low, high), 1 <= low", f"{self.nodes}", "fix them")
    else:
      check.positive("nodes", self.nodes)

  def draw(self, key: Key, shape: tuple[int, ...]) -> DeformationParameters:
    """A deformation for label maps of `shape` = [*space]."""
    ndim = len(shape)
    keys = rng.streams(key, "rotation", "scaling", "shear", "translation", "elastic", "nodes")
    rotation_key, scaling_key, shear_key, translation_key, elastic_key, nodes_key = keys
    extent = jnp.asarray(shape, jnp.float32)
    matrix = fields.affine_matrix(
      _symmetric(rotation_key, 2 * ndim - 3, self.rotation_degrees),
      jax.random.uniform(scaling_key, (ndim,), minval=self.scaling[0], maxval=self.scaling[1]),
      _symmetric(shear_key, ndim * (ndim - 1), self.shear),
    )
    if isinstance(self.nodes, tuple):
      low, high = self.nodes
      nodes = (high,) * ndim
      num_nodes = jnp.tile(jax.random.randint(nodes_key, (1,), low, high + 1), ndim)
    else:
      nodes, num_nodes = tuple(max(2, math.ceil(self.nodes * size)) for size in shape), None
    std_key, values_key = rng.streams(elastic_key, "std", "values")
    std = jax.random.uniform(std_key, minval=self.elastic[0], maxval=self.elastic[1])
    unit = extent if self.elastic_unit == "extent" else jnp.ones(ndim)
    velocity = jax.random.normal(values_key, (*nodes, ndim))
    return DeformationParameters(
      matrix=matrix,
      translation=_symmetric(translation_key, ndim, self.translation_fraction) * extent,
      velocity=velocity * (std * unit).reshape((1,) * ndim + (ndim,)),
      num_nodes=num_nodes,
    )

  def displacement(
    self, parameters: DeformationParameters, shape: tuple[int, ...]
  ) -> Float[Array, "*space ndim"]:
    """Elastic displacement on the grid of `shape`, in its voxels.

    DEVIATION: SynthSeg integrates on the half grid and reads the result as full-grid voxels, which
    halves the field after integration; here units are converted, so `elastic` is in true voxels.
    """
    half = tuple((size + 1) // 2 for size in shape)
    ratio = jnp.asarray([s / h for s, h in zip(shape, half, strict=True)], jnp.float32)
    ratio = ratio.reshape((1,) * len(shape) + (len(shape),))
    nodes = materialise(parameters.velocity)
    velocity = fields.resize_linear(nodes, half, num_nodes=parameters.num_nodes)
    if self.steps:
      velocity = fields.integrate_velocity(velocity / ratio, steps=self.steps) * ratio
    return fields.resize_linear(velocity, shape)

  def apply(
    self, parameters: DeformationParameters, label: Int[Array, "*space"]
  ) -> Int[Array, "*space"]:
    """Warped labels; what enters from outside is background (0)."""
    moved = warp.identity_coordinates(label.shape) + self.displacement(parameters, label.shape)
    coordinates = fields.affine_coordinates(
      parameters.matrix, parameters.translation, moved, label.shape
    )
    return warp.sample_nearest(label, coordinates)


@dataclasses.dataclass(frozen=True)
class Flip:
  """Mirrors left and right with a probability; labels of paired structures swap sides.

  Attributes:
    axis: spatial axis that runs from left to right.
    probability: SynthSeg uses 0.5.
  """

  axis: int = 0
  probability: float = 0.5

  def __post_init__(self):
    check.probability("probability", self.probability)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Bool[Array, ""]:
    """Whether to mirror, for label maps of any shape."""
    del shape
    return jax.random.bernoulli(key, self.probability)

  def apply(
    self, is_flipped: Array, label: Int[Array, "*space"], mirror: Int[Array, " num_labels"]
  ) -> Int[Array, "*space"]:
    """`mirror[v]` is the label of the other side of v, v itself for midline structures.

    `IGNORE` stays `IGNORE`.
    """
    flipped = jnp.flip(label, self.axis)
    swapped = jnp.where(flipped == IGNORE, IGNORE, mirror[jnp.maximum(flipped, 0)])
    return jnp.where(is_flipped, swapped, label)


def _symmetric(key: Key, count: int, bound: float) -> Array:
  return jax.random.uniform(key, (count,), minval=-bound, maxval=bound)
