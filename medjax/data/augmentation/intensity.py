"""Random intensities of an image: noise, blur, brightness, contrast, resolution, gamma.

Each record holds ranges; `draw(key, shape)` gives parameters for an image of `shape` = [*space,
channel] and `apply` uses them. With its probability missed, a component draws the parameters of the
identity (deviation 0, factor 1, ...), which gives the image back bit for bit: no branch, so that a
vmapped batch costs what its examples cost. Order and ranges of nnU-Net: see `presets`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.ops import blur
from medjax.types import Key


@dataclasses.dataclass(frozen=True)
class Noise:
  """Additive Gaussian noise, the same in all channels.

  Attributes:
    std: standard deviation ~ U(low, high), in intensities. nnU-Net calls its range a variance and
      passes it on as a deviation, also to all channels alike.
    probability: of an example.
  """

  std: tuple[float, float] = (0.0, 0.1)
  probability: float = 0.1

  def __post_init__(self):
    _check_range("std", self.std, 0.0)
    _check_probabilities(self)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*space 1"]:
    """The noise itself."""
    std_key, gate_key, values_key = rng.streams(key, "std", "gate", "values")
    std = jax.random.uniform(std_key, minval=self.std[0], maxval=self.std[1])
    std = jnp.where(jax.random.bernoulli(gate_key, self.probability), std, 0.0)
    return std * jax.random.normal(values_key, (*shape[:-1], 1))

  def apply(
    self, noise: Float[Array, "*space 1"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return image + noise


@dataclasses.dataclass(frozen=True)
class Blur:
  """Gaussian blur, its own in every channel and axis.

  Attributes:
    sigma: standard deviation ~ U(low, high), in voxels.
    probability: of an example.
    channel_probability: of each channel of such an example.
  """

  sigma: tuple[float, float] = (0.5, 1.0)
  probability: float = 0.2
  channel_probability: float = 0.5

  def __post_init__(self):
    _check_range("sigma", self.sigma, 0.0)
    _check_probabilities(self)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "channel ndim"]:
    """Standard deviations; 0 where off."""
    *space, channels = shape
    sigma_key, gate_key = rng.streams(key, "sigma", "gate")
    low, high = self.sigma
    sigma = jax.random.uniform(sigma_key, (channels, len(space)), minval=low, maxval=high)
    is_on = _gate(gate_key, channels, self.probability, self.channel_probability)
    return jnp.where(is_on[:, None], sigma, 0.0)

  def apply(
    self, sigma: Float[Array, "channel ndim"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return _by_channel(blur.gaussian_blur, image, sigma)


@dataclasses.dataclass(frozen=True)
class Brightness:
  """x * factor, a factor a channel.

  Attributes:
    factor: (low, high) around 1; from either side of 1 in half of the cases.
    probability: of an example.
  """

  factor: tuple[float, float] = (0.75, 1.25)
  probability: float = 0.15

  def __post_init__(self):
    _check_around_one("factor", self.factor)
    _check_probabilities(self)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " channel"]:
    """Factors; 1 where off."""
    return _around_one(key, shape[-1], self.factor, self.probability)

  def apply(
    self, factor: Float[Array, " channel"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return image * _like(factor, image)


@dataclasses.dataclass(frozen=True)
class Shift:
  """x + shift, a shift a channel.

  Attributes:
    std: the shift ~ N(0, std), in intensities; nnU-Net's trainer "DA5" has 0.5.
    probability: of an example.
    channel_probability: of each channel of such an example.
  """

  std: float = 0.5
  probability: float = 0.1
  channel_probability: float = 0.5

  def __post_init__(self):
    check.non_negative("std", self.std)
    _check_probabilities(self)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " channel"]:
    """Shifts; 0 where off."""
    value_key, gate_key = rng.streams(key, "value", "gate")
    is_on = _gate(gate_key, shape[-1], self.probability, self.channel_probability)
    return jnp.where(is_on, self.std * jax.random.normal(value_key, (shape[-1],)), 0.0)

  def apply(
    self, shift: Float[Array, " channel"], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    return image + _like(shift, image)


@dataclasses.dataclass(frozen=True)
class Contrast:
  """x + (factor - 1) (x - mean), clipped to the range that the image had; by channel.

  Attributes:
    factor: (low, high) around 1; from either side of 1 in half of the cases.
    probability: of an example.
  """

  factor: tuple[float, float] = (0.75, 1.25)
  probability: float = 0.15

  def __post_init__(self):
    _check_around_one("factor", self.factor)
    _check_probabilities(self)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " channel"]:
    """Factors; 1 where off."""
    return _around_one(key, shape[-1], self.factor, self.probability)

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
    probability: of an example.
    channel_probability: of each channel of such an example.
    across: axis that keeps its resolution, see `Spatial`; None is none.
  """

  scale: tuple[float, float] = (0.5, 1.0)
  probability: float = 0.25
  channel_probability: float = 0.5
  across: int | None = None

  def __post_init__(self):
    _check_range("scale", self.scale, 0.0)
    check.positive("scale[0]", self.scale[0])
    check.in_interval("scale[1]", self.scale[1], 0.0, 1.0)
    _check_probabilities(self)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Int[Array, "channel ndim"]:
    """Samples per axis; the length of the axis where off."""
    *space, channels = shape
    scale_key, gate_key = rng.streams(key, "scale", "gate")
    scale = jax.random.uniform(scale_key, (channels,), minval=self.scale[0], maxval=self.scale[1])
    is_on = _gate(gate_key, channels, self.probability, self.channel_probability)
    scale = jnp.where(is_on, scale, 1.0)
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
class Gamma:
  """A power of the image in [0, 1] that keeps its mean and standard deviation, by channel.

    t = (x - min) / (max - min);   y = t ^ g, inverted: -(1 - t) ^ g
    x <- mean(x) + (y - mean(y)) std(x) / std(y)

  Attributes:
    exponent: (low, high) of g around 1; from either side of 1 in half of the cases.
    probability: of an example.
    inverted: powers of the negative image, which stretch its bright end.
  """

  exponent: tuple[float, float] = (0.7, 1.5)
  probability: float = 0.3
  inverted: bool = False

  def __post_init__(self):
    _check_around_one("exponent", self.exponent)
    _check_probabilities(self)

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " channel"]:
    """Exponents; 1 where off."""
    return _around_one(key, shape[-1], self.exponent, self.probability)

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


def _gate(key: Key, channels: int, probability: float, channel_probability: float) -> Array:
  """[channel] bool: the example is chosen, and in it the channel."""
  example_key, channel_key = rng.streams(key, "example", "channel")
  in_example = jax.random.bernoulli(example_key, probability)
  return in_example & jax.random.bernoulli(channel_key, channel_probability, (channels,))


def _around_one(
  key: Key, channels: int, bounds: tuple[float, float], probability: float
) -> Float[Array, " channel"]:
  """U(low, 1) or U(1, high), equally often; 1 in examples that are not chosen."""
  value_key, gate_key = rng.streams(key, "value", "gate")
  unit = jax.random.uniform(value_key, (channels,), minval=-1.0, maxval=1.0)
  value = 1 + jnp.where(unit < 0, unit * (1 - bounds[0]), unit * (bounds[1] - 1))
  return jnp.where(jax.random.bernoulli(gate_key, probability), value, 1.0)


def _by_channel(filter_fn, image: Array, parameters: Array) -> Array:
  """`filter_fn(image [*space, 1], parameters [ndim])` for every channel."""
  return jax.vmap(lambda x, p: filter_fn(x[..., None], p)[..., 0], (-1, 0), -1)(image, parameters)


def _like(values: Float[Array, " channel"], image: Array) -> Array:
  return values.reshape((1,) * (image.ndim - 1) + (-1,))


def _check_range(name: str, bounds: tuple[float, float], low: float) -> None:
  check.ordered(name, bounds)
  check.require(bounds[0] >= low, f"{name} from {low}", f"{bounds}", "raise the lower end")


def _check_around_one(name: str, bounds: tuple[float, float]) -> None:
  low, high = bounds
  fits = 0 < low <= 1 <= high
  check.require(fits, f"{name} as (low, high), 0 < low <= 1 <= high", f"{bounds}", "widen it")


def _check_probabilities(record) -> None:
  for field in dataclasses.fields(record):
    if field.name.endswith("probability"):
      check.in_interval(field.name, getattr(record, field.name), 0.0, 1.0)
