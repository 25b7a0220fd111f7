"""Receive coils: smooth shading of an image by the sensitivity of elements around the head.

On the axis of a loop of radius a, at distance d, the field of Biot and Savart is
(1 + d^2 / a^2)^(-3/2) of that in its centre; the same falloff with the distance from the centre is
used in all directions. The elements combine as root sum of squares (Roemer et al. 1990):

  S(r) = (sum_j (1 + |r - c_j|^2 / a^2)^-3)^(1/2)
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from medjax import check, rng
from medjax.types import Key


class CoilParameters(NamedTuple):
  """[] angle of the first element in radians, [ndim] place of the head in half fields of view."""

  angle: Float[Array, ""]
  position: Float[Array, " ndim"]


@dataclasses.dataclass(frozen=True)
class Coil:
  """A ring of equal elements around the slice axis; lengths are in half fields of view.

  Attributes:
    num_elements: 8 or more shade radially and evenly, 1 is a surface coil.
    distance: from the centre of the image to an element, 1 is at the border.
    radius: a, of one element; small ones shade steeply.
    shading: how much of the profile is left in the image, in [0, 1]: 1 is raw, 0 is divided out by
      the scanner ("prescan normalise", CLEAR, PURE), which raises the noise where S was low.
    angle: of the first element in degrees, from the first in-plane axis towards the second.
    jitter: standard deviation of the head's position, and of the angle in radians.
  """

  num_elements: int = 8
  distance: float | int = 1.3
  radius: float | int = 0.7
  shading: float | int = 0.3
  angle: float | int = 0.0
  jitter: float | int = 0.05

  def __post_init__(self):
    check.positive("num_elements", self.num_elements)
    check.positive("distance", self.distance)
    check.positive("radius", self.radius)
    check.probability("shading", self.shading)
    check.non_negative("jitter", self.jitter)

  def draw(self, key: Key, shape: tuple[int, ...]) -> CoilParameters:
    """Where one person lies, for an image of `shape` = [*space, channel]."""
    angle_key, position_key = rng.streams(key, "angle", "position")
    return CoilParameters(
      angle=math.radians(self.angle) + self.jitter * jax.random.normal(angle_key),
      position=self.jitter * jax.random.normal(position_key, (len(shape) - 1,)),
    )

  def profile(
    self, parameters: CoilParameters, shape: tuple[int, ...], *, slice_axis: int | None = None
  ) -> Float[Array, "*space 1"]:
    """Sensitivity S, positive, mean 1.

    Args:
      parameters: what `draw` gave.
      shape: [*space] of the image, 2D or 3D.
      slice_axis: axis of the ring, which then lies in the middle slice; None in 2D.
    """
    elements = self._elements(parameters, shape, slice_axis)
    power = sum((square for square, _ in elements), jnp.zeros(shape))
    sensitivity = jnp.sqrt(power)
    return (sensitivity / jnp.mean(sensitivity))[..., None]

  def sensitivities(
    self, parameters: CoilParameters, shape: tuple[int, ...], *, slice_axis: int | None = None
  ) -> Complex[Array, "element ..."]:
    """Complex sensitivity of each element, for what each measures before they are combined.

    The size falls off as in `profile`; the phase is the direction in which the element is seen, as
    that of the transverse field of a loop is. Their squares add up to 1 in every voxel, so that
    `ops.cartesian.adjoint` of everything that was measured is the image.
    """
    found = list(self._elements(parameters, shape, slice_axis))
    power = sum(square for square, _ in found)
    return jnp.stack([jnp.sqrt(square / power) * jnp.exp(1j * angle) for square, angle in found])

  def _elements(
    self, parameters: CoilParameters, shape: tuple[int, ...], slice_axis: int | None
  ) -> Iterator[tuple[Array, Array]]:
    """Of each element the squared falloff and the direction in radians, [*space]."""
    in_plane = [axis for axis in range(len(shape)) if axis != slice_axis]
    check.require(len(in_plane) == 2, "two in-plane axes", f"{in_plane}", "give slice_axis in 3D")
    position = []  # of every voxel along its axis
    for axis, size in enumerate(shape):
      centres = (2 * jnp.arange(size, dtype=jnp.float32) + 1) / size - 1
      lead = [-1 if a == axis else 1 for a in range(len(shape))]
      position.append((centres + parameters.position[axis]).reshape(lead))
    for element in range(self.num_elements):
      angle = parameters.angle + 2 * math.pi * element / self.num_elements
      centre = [jnp.zeros(())] * len(shape)
      centre[in_plane[0]] = self.distance * jnp.cos(angle)
      centre[in_plane[1]] = self.distance * jnp.sin(angle)
      away = [jnp.broadcast_to(x - c, shape) for x, c in zip(position, centre, strict=True)]
      squares = sum((jnp.square(x / self.radius) for x in away), jnp.zeros(shape))
      direction = jnp.arctan2(away[in_plane[1]], away[in_plane[0]])
      yield (1 + squares) ** -3, direction
