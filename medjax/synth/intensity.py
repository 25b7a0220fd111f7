"""Intensities of a synthetic image: Gaussian mixture over classes, bias field, gamma, rescaling.

SynthSeg (Billot et al. 2023), domain randomisation: every class draws its own mean and deviation,

  x ~ N(mean_class, std_class)  per voxel;   x <- x * exp(b), b smooth;   x <- x ^ exp(g), g normal
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.ops import fields
from medjax.ops.materialise import materialise
from medjax.types import Key


class MixtureParameters(NamedTuple):
  """[num_classes] means and standard deviations, [*space] standard normal noise."""

  means: Float[Array, " class"]
  stds: Float[Array, " class"]
  noise: Float[Array, "*space"]


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Gaussian mixture model; the defaults are SynthSeg's, in its intensity units (0 to 250).

  Attributes:
    mean: class means ~ U(low, high): one range for all classes, which randomises the contrast, or
      one range per class, which is the prior of one contrast (SynthSeg's `prior_means`).
    std: class standard deviations ~ U(low, high), 0 or more.
    zero_background: probability that class 0 is exactly 0.
    dark_background: probability that class 0 is dark: mean and std from the two ranges below.
    dark_mean: range of the dark background's mean.
    dark_std: range of the dark background's standard deviation.
  """

  mean: tuple[float, float] | tuple[tuple[float, float], ...] = (0.0, 250.0)
  std: tuple[float, float] = (0.0, 30.0)
  zero_background: float = 0.05
  dark_background: float = 0.25
  dark_mean: tuple[float, float] = (0.0, 15.0)
  dark_std: tuple[float, float] = (0.0, 5.0)

  def __post_init__(self):
    for bounds in self.mean if isinstance(self.mean[0], tuple) else (self.mean,):
      check.ordered("mean", bounds)
    check.ordered("dark_mean", self.dark_mean)
    for name in ("std", "dark_std"):
      check.ordered(name, getattr(self, name), least=0)
    check.in_interval(
      "zero + dark background", self.zero_background + self.dark_background, 0.0, 1.0
    )

  def draw(self, key: Key, shape: tuple[int, ...]) -> MixtureParameters:
    """Class statistics and noise, for maps of `shape` = [*space, class]."""
    *space, num_classes = shape
    keys = rng.streams(key, "means", "stds", "background", "dark", "noise")
    means_key, stds_key, background_key, dark_key, noise_key = keys
    low, high = np.asarray(self.mean, np.float32).T
    if low.ndim == 1:
      check.same_shape("Mixture.mean", low.shape, "generation classes", (num_classes,))
    unit = jax.random.uniform(means_key, (num_classes,))
    means = jnp.asarray(low) + unit * jnp.asarray(high - low)
    stds = _uniform(stds_key, (num_classes,), self.std)
    dark_mean_key, dark_std_key = rng.streams(dark_key, "mean", "std")
    choice = jax.random.uniform(background_key)
    is_zero = choice < self.zero_background
    is_dark = choice < self.zero_background + self.dark_background

    def background(drawn: Array, dark: Array) -> Array:
      value = jnp.where(is_zero, 0.0, jnp.where(is_dark, dark, drawn[0]))
      return drawn.at[0].set(value)

    return MixtureParameters(
      means=background(means, _uniform(dark_mean_key, (), self.dark_mean)),
      stds=background(stds, _uniform(dark_std_key, (), self.dark_std)),
      noise=jax.random.normal(noise_key, space),
    )

  def apply(
    self, parameters: MixtureParameters, classes: Int[Array, "*space"]
  ) -> Float[Array, "*space 1"]:
    """Image of one channel in the units of `mean`; differentiable in the parameters."""
    # x = mean_k + std_k eps, where k is the class of the voxel.
    table = materialise(jnp.stack([parameters.means, parameters.stds], axis=-1))
    return (table[:, 0][classes] + table[:, 1][classes] * parameters.noise)[..., None]


@dataclasses.dataclass(frozen=True)
class BiasField:
  """Multiplicative intensity non-uniformity exp(sum of smooth random fields).

  Attributes:
    strength: standard deviation of the node values of each scale ~ U(low, high), unitless (natural
      logarithm of a factor).
    nodes: one entry per scale: a fraction of the shape (SynthSeg 0.025, at least 2 nodes per axis)
      or a number of nodes per axis.
  """

  strength: tuple[float, float] = (0.0, 0.7)
  nodes: tuple[float | int, ...] = (0.025,)

  def __post_init__(self):
    check.ordered("strength", self.strength, least=0)
    check.require(len(self.nodes) > 0, "at least one scale", "none", "use bias=None to switch off")
    for nodes in self.nodes:
      check.positive("nodes", float(nodes))

  def draw(self, key: Key, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Node values of each scale, [*nodes, 1], for an image of `shape` = [*space, channel]."""
    values = []
    for scale, nodes in enumerate(self.nodes):
      std_key, node_key = rng.streams(jax.random.fold_in(key, scale), "std", "nodes")
      grid = tuple(
        nodes if isinstance(nodes, int) else max(2, math.ceil(nodes * size)) for size in shape[:-1]
      )
      std = _uniform(std_key, (), self.strength)
      values.append(std * jax.random.normal(node_key, (*grid, 1)))
    return tuple(values)

  def apply(
    self, parameters: tuple[Array, ...], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """Multiplied image; all channels share the field. Node values 0 give the image back."""
    space = image.shape[:-1]
    log_field = sum(fields.interpolate_nodes(nodes, space) for nodes in parameters)
    return image * jnp.exp(log_field)


@dataclasses.dataclass(frozen=True)
class Gamma:
  """x ^ exp(g), g ~ N(0, std): random contrast of an image in [0, 1].

  Attributes:
    std: standard deviation of the logarithm of the exponent; SynthSeg 0.5, cornucopia 0.6.
  """

  std: float = 0.5

  def __post_init__(self):
    check.non_negative("std", self.std)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, ""]:
    """g, for an image of any shape."""
    del shape
    return self.std * jax.random.normal(key)

  def apply(self, parameters: Array, image: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Image in [0, 1]; g = 0 gives it back (0 becomes 1e-6)."""
    # 0 ^ p has an infinite slope for p < 1; the floor keeps gradients finite.
    return jnp.maximum(image, 1e-6) ** jnp.exp(parameters)


def rescale(
  image: Float[Array, "*any"],
  quantiles: tuple[float, float] = (0.0, 1.0),
  *,
  max_samples: int = 2**14,
) -> Float[Array, "*any"]:
  """Maps two quantiles of the image to 0 and 1 and clips; (0, 1) is min-max.

  Args:
    image: any shape; all voxels together.
    quantiles: (low, high) in [0, 1].
    max_samples: quantiles inside (0, 1) are taken over at most this many evenly spaced voxels,
      because sorting a volume costs more than making it.
  Returns:
    Image in [0, 1]; a constant image becomes 0.
  """
  flat = image.reshape(-1)
  if quantiles == (0.0, 1.0):
    low, high = jnp.min(flat), jnp.max(flat)
  else:
    stride = -(-flat.size // max_samples) | 1  # odd, or it would visit few columns only
    low, high = jnp.quantile(flat[::stride], jnp.asarray(quantiles))
  span = high - low
  return jnp.clip(jnp.where(span > 0, (image - low) / jnp.where(span > 0, span, 1.0), 0.0), 0, 1)


def _uniform(key: Key, shape: tuple[int, ...], bounds: tuple[float, float]) -> Array:
  return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])
