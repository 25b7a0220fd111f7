"""Random intensities of an image: noise, blur, brightness, contrast, resolution, gamma.

Each record holds ranges and is a `transforms.Transform`: it changes every image that it is given.
`transforms.Sometimes` makes it a matter of chance; nnU-Net's chances are in `presets`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.ops import blur
from medjax.types import Key


@dataclasses.dataclass(frozen=True)
class SharedNoise:
  """Additive Gaussian noise, the same in all channels.

  Attributes:
    std: standard deviation ~ U(low, high), in intensities. nnU-Net calls its range a variance and
      passes it on as a deviation, also to all channels alike.
  """

  std: tuple[float, float] = (0.0, 0.1)

  def __post_init__(self):
    check.ordered("std", self.std, least=0)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*space 1"]:
    """The noise itself."""
    std_key, values_key = rng.streams(key, "std", "values")
    std = jax.random.uniform(std_key, minval=self.std[0], maxval=self.std[1])
    return std * jax.random.normal(values_key, (*shape[:-1], 1))

  def apply(
    self, noise: Float[Array, "*space 1"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return image + noise


@dataclasses.dataclass(frozen=True)
class ChannelBlur:
  """Gaussian blur, its own in every channel and axis.

  Attributes:
    sigma: standard deviation ~ U(low, high), in voxels.
  """

  sigma: tuple[float, float] = (0.5, 1.0)

  def __post_init__(self):
    check.ordered("sigma", self.sigma, least=0)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "channel ndim"]:
    """Standard deviations."""
    *space, channels = shape
    low, high = self.sigma
    sigma_key = rng.stream(key, "sigma")
    return jax.random.uniform(sigma_key, (channels, len(space)), minval=low, maxval=high)

  def apply(
    self, sigma: Float[Array, "channel ndim"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return _by_channel(blur.gaussian_blur, image, sigma)


@dataclasses.dataclass(frozen=True)
class Brightness:
  """x * factor, a factor a channel.

  Attributes:
    factor: (low, high) around 1; from either side of 1 in half of the cases.
  """

  factor: tuple[float, float] = (0.75, 1.25)

  def __post_init__(self):
    _check_around_one("factor", self.factor)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " channel"]:
    """Factors."""
    return _around_one(key, shape[-1], self.factor)

  def apply(
    self, factor: Float[Array, " channel"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return image * _like(factor, image)


@dataclasses.dataclass(frozen=True)
class Contrast:
  """x + (factor - 1) (x - mean), clipped to the range that the image had; by channel.

  Attributes:
    factor: (low, high) around 1; from either side of 1 in half of the cases.
  """

  factor: tuple[float, float] = (0.75, 1.25)

  def __post_init__(self):
    _check_around_one("factor", self.factor)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " channel"]:
    """Factors."""
    return _around_one(key, shape[-1], self.factor)

  def apply(
    self, factor: Float[Array, " channel"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    space = tuple(range(image.ndim - 1))
    mean = jnp.mean(image, space, keepdims=True)
    low, high = jnp.min(image, space, keepdims=True), jnp.max(image, space, keepdims=True)
    # In this form a factor of 1 adds exactly 0.
    return jnp.clip(image + (_like(factor, image) - 1) * (image - mean), low, high)


@dataclasses.dataclass(frozen=True)
class LowResolution:
  """Sampled on a coarser grid (nearest voxel) and interpolated back (linearly), by channel.

  Attributes:
    scale: samples per voxel ~ U(low, high) in (0, 1], one for all axes of a channel.
    across: axis that keeps its resolution, see `Spatial`; None is none.
  """

  scale: tuple[float, float] = (0.5, 1.0)
  across: int | None = None

  def __post_init__(self):
    check.ordered("scale", self.scale, above=0, most=1)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Int[Array, "channel ndim"]:
    """Samples per axis, at most its length."""
    *space, channels = shape
    low, high = self.scale
    scale = jax.random.uniform(rng.stream(key, "scale"), (channels,), minval=low, maxval=high)
    counts = [
      jnp.full(channels, size)
      if axis == self.across
      else jnp.maximum(jnp.round(scale * size), 1.0).astype(jnp.int32)
      for axis, size in enumerate(space)
    ]
    return jnp.stack(counts, axis=-1)

  def apply(
    self, num_samples: Int[Array, "channel ndim"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return _by_channel(blur.low_resolution, image, num_samples)


@dataclasses.dataclass(frozen=True)
class GammaRetainingStats:
  """A power of the image in [0, 1] that keeps its mean and standard deviation, by channel.

    t = (x - min) / (max - min);   y = t ^ g, inverted: -(1 - t) ^ g
    x <- mean(x) + (y - mean(y)) std(x) / std(y)

  Attributes:
    exponent: (low, high) of g around 1; from either side of 1 in half of the cases.
    inverted: powers of the negative image, which stretch its bright end.
  """

  exponent: tuple[float, float] = (0.7, 1.5)
  inverted: bool = False

  def __post_init__(self):
    _check_around_one("exponent", self.exponent)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " channel"]:
    """Exponents."""
    return _around_one(key, shape[-1], self.exponent)

  def apply(
    self, exponent: Float[Array, " channel"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """A constant channel stays."""
    space = tuple(range(image.ndim - 1))
    low, high = jnp.min(image, space, keepdims=True), jnp.max(image, space, keepdims=True)
    # Clipped, because XLA may recompute the image beside its minimum with other rounding, and
    # powers of -1e-8 are NaN.
    unit = jnp.clip((image - low) / jnp.where(high > low, high - low, 1.0), 0, 1)
    exponent = _like(exponent, image)
    power = -jnp.power(1 - unit, exponent) if self.inverted else jnp.power(unit, exponent)
    spread = jnp.std(power, space, keepdims=True)
    gain = jnp.where(spread > 0, jnp.std(image, space, keepdims=True) / spread, 0.0)
    mean = jnp.mean(image, space, keepdims=True)
    changed = mean + gain * (power - jnp.mean(power, space, keepdims=True))
    return jnp.where(exponent == 1, image, changed)


def _around_one(key: Key, channels: int, bounds: tuple[float, float]) -> Float[Array, " channel"]:
  """U(low, 1) or U(1, high), equally often."""
  unit = jax.random.uniform(rng.stream(key, "value"), (channels,), minval=-1.0, maxval=1.0)
  return 1 + jnp.where(unit < 0, unit * (1 - bounds[0]), unit * (bounds[1] - 1))


def _by_channel(
  filter_fn: Callable[[Array, Array], Array], image: Array, parameters: Array
) -> Array:
  """`filter_fn(image [*space, 1], parameters [ndim])` for every channel."""
  return jax.vmap(lambda x, p: filter_fn(x[..., None], p)[..., 0], (-1, 0), -1)(image, parameters)


def _like(values: Float[Array, " channel"], image: Array) -> Array:
  return values.reshape((1,) * (image.ndim - 1) + (-1,))


def _check_around_one(name: str, bounds: tuple[float, float]) -> None:
  low, high = bounds
  fits = 0 < low <= 1 <= high
  check.require(fits, f"{name} as (low, high), 0 < low <= 1 <= high", f"{bounds}", "widen it")
