"""Learnable augmentation of a synthetic image with a handful of parameters.

Learn2Synth (Hu et al., ICCV 2025, arXiv 2411.16719), "Parametric Augmentation Model":

  x <- x * prod_k alpha_k ^ c_k        INU: K random fields, learnable exponents c
  x <- x + sigma * eps                 eps ~ N(0, 1) per voxel, learnable sigma

Each alpha_k interpolates a coarse grid of U[0.5, 2]. theta lives in an unconstrained space.
"""

import dataclasses
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check, rng
from medjax.ops import fields
from medjax.types import Key, Leaf, PyTree


@runtime_checkable
class LearnableAugmentation(Protocol):
  """What a training method needs: `augmentation(theta, key, image)` on ONE example.

  `draw` makes all randomness, `apply` is deterministic and differentiable in theta and image.
  """

  def draw(self, key: Key, shape: tuple[int, ...]) -> PyTree: ...

  def apply(self, theta: PyTree, draws: PyTree, image: Array) -> Array: ...

  def __call__(self, theta: PyTree, key: Key, image: Array) -> Array: ...

  def describe(self, theta: PyTree) -> dict[str, Array]: ...


class Theta(NamedTuple):
  """Unconstrained parameters; None where the component is off.

  Attributes:
    exponents: [num_fields] or None.
    sigma: [] ("fixed", "modulated"), [2] ("ranged") or None.
  """

  exponents: Leaf
  sigma: Leaf


class Draws(NamedTuple):
  """The randomness of one example; None where the component is off.

  Attributes:
    log_fields: tuple of num_fields arrays [*space], log alpha_k, or None.
    level: [] the draw that sets this example's noise level: 1 ("fixed"), U(0, 1) ("ranged"),
      N(0, 1) ("modulated"), or None.
    eps: [*space, channel] standard normal, or None.
  """

  log_fields: Leaf
  level: Leaf
  eps: Leaf


@dataclasses.dataclass(frozen=True)
class ParametricAugmentation:
  """Intensity non-uniformity and noise with learnable strength (Learn2Synth, parametric model).

  Parametrisation of sigma. "softplus" uses sigma = s * softplus(raw / s) with s = `sigma_scale`:
  positive, and d sigma / d raw = 1 - exp(-sigma / s), that is about 1 for sigma above 3 s and
  sigma / s below s, so it approaches 0 ever more slowly. "identity" is the released code's
  unconstrained sigma; its sign means nothing (noise is symmetric) and it goes through 0 at full
  speed. Noise being symmetric, the expected loss is even in sigma and has no slope at 0 in any
  parametrisation. Adam (learning rate 1e-3, loss sigma^2, from 0.1) reaches after 500 and 2000
  steps: 0.067 and 0.033 with s = 1 (plain softplus), 0.0049 and 0.0013 with s = 0.02, 0.0026 and
  0.0007 with s = 0.01, below 1e-5 with "identity". A much smaller s makes a dead zone: once raw is
  below -10 s, nothing brings sigma back.

  Exponents are real by default. "sigmoid" is the released code's c = sigmoid(w), which cannot reach
  0 or 1.

  DEVIATION: the released code shares one field per batch; here every example draws its own. To
  share, vmap `apply` over the images with one `draw`.
  DEVIATION: the released default doubles the image (x + A(x) with A already returning the image);
  here A(x) replaces x unless `residual` asks for the former.

  Attributes:
    noise: "fixed" (one level), "ranged" (sigma ~ U(low, high) per example, the released code's
      variant), "modulated" (sigma * s, s ~ N(0, 1) per example, the paper's) or "none".
    bias: whether to multiply by the random fields.
    grids: nodes per axis of each field, low to high frequency; the paper's K = 3.
    field_range: bounds of the uniform node values, unitless factors.
    exponents: "real" or "sigmoid".
    sigma: "softplus" or "identity".
    sigma_scale: s above, in image intensities.
    residual: whether the image is added once more, as in the released code.
  """

  noise: Literal["fixed", "ranged", "modulated", "none"] = "fixed"
  bias: bool = True
  grids: tuple[int, ...] = (2, 4, 8)
  field_range: tuple[float, float] = (0.5, 2.0)
  exponents: Literal["real", "sigmoid"] = "real"
  sigma: Literal["softplus", "identity"] = "softplus"
  sigma_scale: float = 0.01
  residual: bool = False

  def __post_init__(self):
    check.one_of("noise", self.noise, ("fixed", "ranged", "modulated", "none"))
    check.one_of("exponents", self.exponents, ("real", "sigmoid"))
    check.one_of("sigma", self.sigma, ("softplus", "identity"))
    check.positive("sigma_scale", self.sigma_scale)
    check.ordered("field_range", self.field_range, above=0)
    check.require(
      self.bias or self.noise != "none", "something to learn", "bias=False, noise='none'", "use one"
    )

  def init(
    self,
    *,
    sigma: float | tuple[float, float] = 0.05,
    exponents: int | float | tuple[int | float, ...] = 0.5,
  ) -> Theta:
    """theta of given natural parameters, to float32 rounding.

    Args:
      sigma: noise level in image intensities, above 0 with "softplus"; (low, high) with
        0 < low < high if "ranged" (a number v means (v / 2, v)).
      exponents: one number for all fields or one per field; inside (0, 1) with "sigmoid".
    Raises:
      InputError: values outside these ranges.
    """
    return Theta(
      exponents=self._init_exponents(exponents) if self.bias else None,
      sigma=self._init_sigma(sigma) if self.noise != "none" else None,
    )

  def draw(self, key: Key, shape: tuple[int, ...]) -> Draws:
    """Randomness for an image of `shape` = [*space, channel]; independent of theta."""
    field_key, level_key, eps_key = rng.streams(key, "fields", "level", "eps")
    log_fields = level = eps = None
    if self.bias:
      low, high = self.field_range
      keys = jax.random.split(field_key, len(self.grids))
      space = shape[:-1]
      # A tuple and not a stack: XLA:CPU takes twice as long to write them into one array.
      log_fields = tuple(
        jnp.log(
          fields.random_field(
            keys[k],
            space,
            (nodes,) * len(space),
            sampler=lambda key, shape: jax.random.uniform(key, shape, minval=low, maxval=high),
          )[..., 0]
        )
        for k, nodes in enumerate(self.grids)
      )
    if self.noise != "none":
      level = {
        "fixed": lambda: jnp.ones(()),
        "ranged": lambda: jax.random.uniform(level_key),
        "modulated": lambda: jax.random.normal(level_key),
      }[self.noise]()
      eps = jax.random.normal(eps_key, shape)
    return Draws(log_fields, level, eps)

  def apply(
    self, theta: Theta, draws: Draws, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """Augmented image; INU first, then noise. All channels share the field, none the noise.

    Guarantees: exponents 0 and sigma 0 give the image back (twice the image with `residual`);
    d output / d sigma = level * eps ("fixed" and "modulated").
    """
    given = image
    if self.bias:
      exponents = self._natural_exponents(theta)
      log_field = sum(exponents[k] * draws.log_fields[k] for k in range(len(self.grids)))
      image = image * jnp.exp(log_field)[..., None]  # x * prod_k alpha_k ^ c_k
    if self.noise != "none":
      image = image + self._noise_level(theta, draws.level) * draws.eps
    return given + image if self.residual else image

  def __call__(
    self, theta: Theta, key: Key, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """`apply(theta, draw(key, image.shape), image)`."""
    return self.apply(theta, self.draw(key, image.shape), image)

  def describe(self, theta: Theta) -> dict[str, Array]:
    """Natural parameters by name: exponent_<nodes>, and sigma or sigma_low and sigma_high.

    sigma is a size, 0 or more; the ends of an unconstrained range ("identity") keep their signs.
    """
    named = {}
    if self.bias:
      exponents = self._natural_exponents(theta)
      named |= {f"exponent_{nodes}": exponents[k] for k, nodes in enumerate(self.grids)}
    if self.noise == "ranged":
      named["sigma_low"], named["sigma_high"] = self._noise_range(theta)
    elif self.noise != "none":
      named["sigma"] = jnp.abs(self._natural_sigma(theta.sigma))
    return named

  def _noise_level(self, theta: Theta, level: Array) -> Array:
    if self.noise == "ranged":
      low, high = self._noise_range(theta)
      return low + level * (high - low)
    return self._natural_sigma(theta.sigma) * level

  def _noise_range(self, theta: Theta) -> tuple[Array, Array]:
    """Ends of the range; "softplus" learns the lower end and a positive width: always in order."""
    low = self._natural_sigma(theta.sigma[0])
    if self.sigma == "identity":
      return low, theta.sigma[1]
    return low, low + self._natural_sigma(theta.sigma[1])

  def _natural_sigma(self, raw: Array) -> Array:
    if self.sigma == "identity":
      return raw
    return self.sigma_scale * jax.nn.softplus(raw / self.sigma_scale)

  def _natural_exponents(self, theta: Theta) -> Array:
    return jax.nn.sigmoid(theta.exponents) if self.exponents == "sigmoid" else theta.exponents

  def _init_exponents(self, exponents: int | float | tuple[int | float, ...]) -> Array:
    values = jnp.broadcast_to(jnp.asarray(exponents, jnp.float32), (len(self.grids),))
    if self.exponents == "real":
      return values
    for value in values.tolist():
      check.require(0 < value < 1, "exponents inside (0, 1)", f"{value}", "use exponents='real'")
    return jnp.log(values) - jnp.log1p(-values)

  def _init_sigma(self, sigma: float | tuple[float, float]) -> Array:
    if self.noise != "ranged":
      if isinstance(sigma, tuple):
        raise check.InputError("one noise level", f"sigma={sigma}", "use noise='ranged'")
      return self._raw(sigma)
    low, high = sigma if isinstance(sigma, tuple) else (sigma / 2, sigma)
    check.require(low < high, "sigma as (low, high), low < high", f"{(low, high)}", "widen it")
    second = high if self.sigma == "identity" else high - low
    return jnp.stack([self._raw(low), self._raw(second)])

  def _raw(self, value: float) -> Array:
    """Inverse of `_natural_sigma`: s * log(exp(v / s) - 1), without overflow."""
    if self.sigma == "identity":
      return jnp.asarray(value, jnp.float32)
    check.positive("sigma", value, "start above 0, e.g. 1e-3; softplus reaches 0 only in the limit")
    ratio = jnp.asarray(value / self.sigma_scale, jnp.float32)
    return self.sigma_scale * (ratio + jnp.log(-jnp.expm1(-ratio)))
