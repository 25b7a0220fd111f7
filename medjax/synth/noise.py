"""Noise of a magnitude image: Gaussian or Rician.

  Gaussian:  y = x + n
  Rician:    y = |x + n_1 + i n_2|,  E[y^2] = x^2 + 2 sigma^2          (Gudbjartsson & Patz 1995)

with n ~ N(0, sigma^2) per voxel. At high signal both agree; in air Rician noise is Rayleigh.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medjax import check, rng
from medjax.types import Key


class NoiseParameters(NamedTuple):
  """[] standard deviation, [] bool Rician, [2, *space, channel] standard normal parts."""

  std: Float[Array, ""]
  is_rician: Bool[Array, ""]
  parts: Float[Array, "part *space channel"]


@dataclasses.dataclass(frozen=True)
class Noise:
  """Additive noise of random strength.

  Attributes:
    std: standard deviation ~ U(low, high), in intensities of an image in [0, 1].
    rician_probability: probability that an image gets Rician instead of Gaussian noise.
  """

  std: tuple[float, float] = (0.0, 0.1)
  rician_probability: float = 0.0

  def __post_init__(self):
    check.ordered("std", self.std, least=0)
    check.probability("rician_probability", self.rician_probability)

  def draw(self, key: Key, shape: tuple[int, ...]) -> NoiseParameters:
    """Noise for an image of `shape` = [*space, channel]."""
    std_key, kind_key, parts_key = rng.streams(key, "std", "kind", "parts")
    return NoiseParameters(
      std=jax.random.uniform(std_key, minval=self.std[0], maxval=self.std[1]),
      is_rician=jax.random.bernoulli(kind_key, self.rician_probability),
      parts=jax.random.normal(parts_key, (2 if self.rician_probability else 1, *shape)),
    )

  def apply(
    self, parameters: NoiseParameters, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """Noisy image, not clipped; at deviation 0 the image (Rician: its magnitude)."""
    real = image + parameters.std * parameters.parts[0]
    if not self.rician_probability:
      return real
    imaginary = parameters.std * parameters.parts[1]
    power = jnp.square(real) + jnp.square(imaginary)
    # sqrt has no slope at 0; the inner where keeps the gradient of the outer one finite.
    magnitude = jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)
    return jnp.where(parameters.is_rician, magnitude, real)
