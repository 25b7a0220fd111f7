"""Effects that no synthesiser here trains on: motion, ghosting, ringing, a label-free curve.

They need an image and no labels. The first three happen in k-space (`medjax.ops.kspace`), between
lines of one phase-encoding axis, and end in a magnitude image: images in are 0 or more.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.ops import fields, kspace, warp
from medjax.types import Key


class MotionParameters(NamedTuple):
  """[event] times in [0, 1], [event + 1, ndim] shifts in mm, [event + 1, num_angles] degrees."""

  times: Float[Array, " event"]
  translation_mm: Float[Array, "pose ndim"]
  rotation_degrees: Float[Array, "pose angle"]


@dataclasses.dataclass(frozen=True)
class Motion:
  """Rigid motion between the lines of k-space.

  Lines are measured in the order of k, from -size/2 up. Between events the head rests in one pose,
  and every line comes from the image in the pose of its time: translated by a phase ramp, rotated
  by linear interpolation. Poses are relative to the one in which the centre of k-space, and with it
  most of the picture, was measured: labels stay in place.

  Attributes:
    num_events: how often the head moves.
    translation_mm: components of each pose ~ U(-t, t), in mm.
    rotation_degrees: angles of each pose ~ U(-r, r), in degrees.
    spacing: voxel size in mm, one per axis; None is 1 mm along all axes.
    axis: phase-encoding axis.
  """

  num_events: int = 3
  translation_mm: float | int = 4.0
  rotation_degrees: float | int = 4.0
  spacing: tuple[float | int, ...] | None = None
  axis: int = 0

  def __post_init__(self):
    check.positive("num_events", self.num_events)
    check.non_negative("translation_mm", self.translation_mm)
    check.non_negative("rotation_degrees", self.rotation_degrees)

  def draw(self, key: Key, shape: tuple[int, ...]) -> MotionParameters:
    """Times and poses for an image of `shape` = [*space, channel], 2D or 3D."""
    num_axes = len(shape) - 1
    times_key, shift_key, angle_key = rng.streams(key, "times", "translation", "rotation")
    times = jnp.sort(jax.random.uniform(times_key, (self.num_events,)))
    is_moved = jnp.arange(self.num_events + 1) != jnp.sum(times < 0.5)  # k = 0 is at time 1/2
    limits = {"minval": -1.0, "maxval": 1.0}
    shifts = jax.random.uniform(shift_key, (self.num_events + 1, num_axes), **limits)
    angles = jax.random.uniform(angle_key, (self.num_events + 1, 2 * num_axes - 3), **limits)
    return MotionParameters(
      times=times,
      translation_mm=jnp.where(is_moved[:, None], self.translation_mm * shifts, 0.0),
      rotation_degrees=jnp.where(is_moved[:, None], self.rotation_degrees * angles, 0.0),
    )

  def apply(
    self, parameters: MotionParameters, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """Image with motion, 0 or more; poses 0 give it back, one pose in all lines moves it."""
    space = image.shape[:-1]
    spacing = (1.0,) * len(space) if self.spacing is None else self.spacing
    check.same_shape("axes of spacing", (len(spacing),), "axes of image", (len(space),))
    size = space[self.axis]
    time = 0.5 + kspace.frequencies(size) / size  # of every line, in [0, 1)
    segment = jnp.sum(parameters.times[:, None] < time[None, :], axis=0)
    # The scan is the sum over poses of the image in that pose, seen through the lines of its time.
    result = jnp.zeros(image.shape, jnp.complex64)
    for index in range(self.num_events + 1):
      moved = image
      if self.rotation_degrees > 0:
        moved = _rotate(image, parameters.rotation_degrees[index], spacing)
      shift = parameters.translation_mm[index] / jnp.asarray(spacing, jnp.float32)
      for other, length in enumerate(space):
        weights = kspace.ramp(length, shift[other])
        if other == self.axis:
          weights = weights * (segment == index)
        moved = kspace.weight_lines(moved, weights, other)
      result = result + moved
    return kspace.magnitude(result)


class GhostingParameters(NamedTuple):
  """[] every how many lines, [] amplitude of a ghost, [] its phase in radians."""

  period: Int[Array, ""]
  amplitude: Float[Array, ""]
  phase: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Ghosting:
  """Ghosts: every n-th line differs in amplitude and phase (pulsation, breathing, echo trains).

  Lines with k divisible by n are multiplied by 1 + n a exp(i phi). The comb over k is a sum of n
  shifts in space, so with an axis of N voxels

    y(r) = x(r) + a exp(i phi) sum_{j=0..n-1} x(r - j N / n)

  Attributes:
    period: n ~ uniform over the whole numbers low..high.
    amplitude: a ~ U(low, high): of each ghost, relative to the image.
    axis: phase-encoding axis.
  """

  period: tuple[int, int] = (2, 5)
  amplitude: tuple[float, float] = (0.05, 0.2)
  axis: int = 0

  def __post_init__(self):
    check.ordered("period", self.period, least=2)
    check.ordered("amplitude", self.amplitude, least=0)

  def draw(self, key: Key, shape: tuple[int, ...]) -> GhostingParameters:
    """Ghosts of an image of any shape."""
    del shape
    period_key, amplitude_key, phase_key = rng.streams(key, "period", "amplitude", "phase")
    low, high = self.amplitude
    return GhostingParameters(
      period=jax.random.randint(period_key, (), self.period[0], self.period[1] + 1),
      amplitude=jax.random.uniform(amplitude_key, minval=low, maxval=high),
      phase=jax.random.uniform(phase_key, maxval=2 * jnp.pi),
    )

  def apply(
    self, parameters: GhostingParameters, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """Image with ghosts along the phase-encoding axis, 0 or more; amplitude 0 gives it back."""
    period, amplitude, phase = parameters
    is_hit = jnp.mod(kspace.frequencies(image.shape[self.axis]), period) == 0
    factor = 1 + period * amplitude * jnp.exp(1j * phase)
    weights = jnp.where(is_hit, factor, 1.0)
    return kspace.magnitude(kspace.weight_lines(image, weights, self.axis))


@dataclasses.dataclass(frozen=True)
class Ringing:
  """Gibbs ringing: high frequencies were never measured, and the image was padded with zeros.

  Lines with |k| above a fraction f of size/2 are 0. Edges overshoot by 8.95 % of their jump
  (Wilbraham, Gibbs) and ring with a period of 2 / f voxels.

  Attributes:
    kept: f ~ U(low, high), in (0, 1], the same on all `axes`.
    axes: that ring; None is all.
  """

  kept: tuple[float, float] = (0.35, 0.55)
  axes: tuple[int, ...] | None = None

  def __post_init__(self):
    check.ordered("kept", self.kept, above=0, most=1)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, ""]:
    """The fraction f, for an image of any shape."""
    del shape
    return jax.random.uniform(key, minval=self.kept[0], maxval=self.kept[1])

  def apply(
    self, parameters: Float[Array, ""], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """Image that rings along `axes`, 0 or more; f = 1 gives it back."""
    result = image
    for axis in range(image.ndim - 1) if self.axes is None else self.axes:
      size = image.shape[axis]
      is_kept = jnp.abs(kspace.frequencies(size)) <= parameters * size / 2
      result = kspace.weight_lines(result, is_kept.astype(jnp.float32), axis)
    return kspace.magnitude(result)


@dataclasses.dataclass(frozen=True)
class IntensityCurve:
  """Random increasing contrast curve: a Bernstein polynomial with increasing coefficients.

    f(x) = sum_i c_i B_{i,n}(x),  c_0 = 0 <= c_1 <= ... <= c_n = 1

  f rises from f(0) = 0 to f(1) = 1, since f' is a sum of B_{i,n-1} with weights
  n (c_{i+1} - c_i) >= 0. The increments are (1 - s) / n + s d with d uniform on the simplex.

  Attributes:
    strength: s in [0, 1]; 0 is the identity.
    degree: n, at least 2.
  """

  strength: float | int = 0.9
  degree: int = 5

  def __post_init__(self):
    check.probability("strength", self.strength)
    check.require(self.degree >= 2, "degree >= 2", f"{self.degree}", "pass 2 or more")

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " degree"]:
    """Increments c_{i+1} - c_i, sum 1, for an image of any shape."""
    del shape
    random = jax.random.dirichlet(key, jnp.ones(self.degree))
    return (1 - self.strength) / self.degree + self.strength * random

  def apply(
    self, parameters: Float[Array, " degree"], image: Float[Array, "*any"]
  ) -> Float[Array, "*any"]:
    """f of every value; below 0 and above 1 it goes on along its tangent, so nothing is clipped."""
    inside = jnp.clip(image, 0.0, 1.0)
    ordinates = [jnp.zeros_like(image)]
    for step in range(self.degree):
      ordinates.append(ordinates[-1] + parameters[step])
    while len(ordinates) > 1:  # de Casteljau
      ordinates = [
        (1 - inside) * left + inside * right
        for left, right in zip(ordinates, ordinates[1:], strict=False)
      ]
    # f'(0) = n c_1 and f'(1) = n (1 - c_{n-1}), n times the first and the last increment.
    slope = self.degree * jnp.where(image > 1, parameters[-1], parameters[0])
    return ordinates[0] + slope * (image - inside)


def _rotate(
  image: Float[Array, "*space channel"],
  rotation_degrees: Float[Array, " num_angles"],
  spacing: tuple[float | int, ...],
) -> Float[Array, "*space channel"]:
  """Rotated about the centre in millimetres, 0 from outside."""
  ndim = len(spacing)
  size = jnp.asarray(spacing, jnp.float32)
  rotation = fields.affine_matrix(rotation_degrees, jnp.ones(ndim), jnp.zeros(ndim * (ndim - 1)))
  # A rotation R of millimetres is D^-1 R D of voxels, with D the diagonal of their sizes.
  in_voxels = rotation * size[None, :] / size[:, None]
  grid = warp.identity_coordinates(image.shape[:-1])
  coordinates = fields.affine_coordinates(in_voxels, jnp.zeros(ndim), grid, image.shape[:-1])
  return warp.sample_linear(image, coordinates, fill=0.0)
