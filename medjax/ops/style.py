"""Style of an image: level and energies of its wavelet bands, and its transfer to another image.

Adaptive instance normalisation (Huang & Belongie 2017) of every Haar band b and channel c, in place
of the features of a pre-trained network as in WaveCT-AIN (Liu et al. 2020):

  low band:      y_c = std_style * (x_c - mean_c) / std_c + mean_style
  detail bands:  y_bc = rms_style * x_bc / rms_bc

Details are not centred: their mean is the slope of the image over the window, and a change of it
draws a grid into flat regions. The result is affine in the style: an image has one basis, and any
number of styles of it is one product of matrices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check
from medjax.ops import haar

# A channel whose deviation is below this share of its root mean square is constant up to rounding.
_CONSTANT = 1e-5


def moments(x: Float[Array, "*space channel"]) -> Float[Array, "2 channel"]:
  """Mean and standard deviation (over all voxels) of each channel; differentiable, 0 at 0."""
  axes = tuple(range(x.ndim - 1))
  mean = x.mean(axes, keepdims=True)
  return jnp.stack([mean.reshape(-1), _root(jnp.square(x - mean).mean(axes))])


def normalised(x: Float[Array, "*space channel"]) -> Float[Array, "*space channel"]:
  """Mean 0 and deviation 1 of each channel; a constant channel gives zeros."""
  axes = tuple(range(x.ndim - 1))
  mean = x.mean(axes, keepdims=True)
  variance = jnp.square(x - mean).mean(axes, keepdims=True)
  # E[x^2] = variance + mean^2: a deviation below this share of the root mean square is rounding.
  varies = variance > _CONSTANT**2 * (variance + jnp.square(mean))
  return jnp.where(varies, (x - mean) * jax.lax.rsqrt(jnp.where(varies, variance, 1.0)), 0.0)


def with_moments(
  x: Float[Array, "*space channel"], target: Float[Array, "2 channel"]
) -> Float[Array, "*space channel"]:
  """Adaptive instance normalisation: x with the `moments` of another image."""
  mean, std = target.reshape(2, *(1,) * (x.ndim - 1), -1)
  return normalised(x) * std + mean


def size(ndim: int, levels: int) -> int:
  """Numbers a channel: mean and deviation of the low band, and one for each detail band."""
  return 2 + levels * (2**ndim - 1)


def statistics(
  image: Float[Array, "*space channel"], levels: int = 3
) -> Float[Array, "row channel"]:
  """The style: mean and standard deviation of the low band, root mean squares of the details.

  Args:
    image: [*space, channel].
    levels: number of levels of the pyramid; details stand finest first.
  """
  pyramid = haar.analysis(image, levels)
  return jnp.concatenate([moments(pyramid.low), *(_rms(band) for band in pyramid.details)])


def transfer(
  image: Float[Array, "*space channel"],
  style: Float[Array, "row style_channel"],
  levels: int = 3,
) -> Float[Array, "*space channel"]:
  """The image in another style.

  Args:
    image: [*space, channel].
    style: `statistics` of the other image, at the same levels, of as many channels and axes.
    levels: number of levels of the pyramid.
  Returns:
    Shape of `image`. Sides divided by 2^levels: its `statistics` are `style`, but for a constant
    low band, which takes the mean alone, and details that are 0; a constant image is no NaN.
  """
  _check(image, style.shape, levels)
  return _assembled(_normalised_pyramid(image, levels), style, image.shape[:-1])


def basis(
  image: Float[Array, "*space channel"], levels: int = 3
) -> Float[Array, "row *space channel"]:
  """Images whose sum, weighted by the rows of a style, is `transfer`."""
  pyramid = _normalised_pyramid(image, levels)
  # `_assembled` is linear in the style: unit styles, with one row 1 and the others 0, span it.
  rows = jnp.eye(size(image.ndim - 1, levels))
  units = jnp.broadcast_to(rows[..., None], (*rows.shape, image.shape[-1]))
  return jax.vmap(lambda unit: _assembled(pyramid, unit, image.shape[:-1]))(units)


def transfer_many(
  image: Float[Array, "*space channel"],
  styles: Float[Array, "style row style_channel"],
  levels: int = 3,
) -> Float[Array, "style *space channel"]:
  """One image in several styles, as one matrix product: [style, row] x [row, voxels].

  Equals `transfer` with each of them, up to rounding. Pays where styles outnumber rows.
  """
  _check(image, styles.shape[1:], levels)
  images = jnp.moveaxis(basis(image, levels), -1, 0)  # [channel, row, *space]
  rows = images.reshape(*images.shape[:2], -1)
  weights = jnp.moveaxis(styles, -1, 0)
  styled = jnp.matmul(weights, rows, precision=jax.lax.Precision.HIGHEST)
  return jnp.moveaxis(styled.reshape(*styled.shape[:2], *image.shape[:-1]), 0, -1)


def _rms(details: Float[Array, "*grid band channel"]) -> Float[Array, "band channel"]:
  return _root(jnp.square(details).mean(tuple(range(details.ndim - 2))))


def _root(x: Array) -> Array:
  """Square root whose slope at 0 is 0, not infinite."""
  return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _normalised_pyramid(image: Array, levels: int) -> haar.Pyramid:
  pyramid = haar.analysis(image, levels)
  details = []
  for band in pyramid.details:
    rms = _rms(band).reshape(*(1,) * (band.ndim - 2), *band.shape[-2:])
    details.append(jnp.where(rms > 0, band / jnp.where(rms > 0, rms, 1.0), 0.0))
  return haar.Pyramid(normalised(pyramid.low), tuple(details))


def _assembled(pyramid: haar.Pyramid, style: Array, space: tuple[int, ...]) -> Array:
  lead = (1,) * len(space)
  mean, std = style[:2].reshape(2, *lead, -1)
  details, first = [], 2
  for band in pyramid.details:
    rows = style[first : first + band.shape[-2]]
    details.append(band * rows.reshape(*lead, *rows.shape))
    first += band.shape[-2]
  return haar.synthesis(haar.Pyramid(pyramid.low * std + mean, tuple(details)), space)


def _check(image: Array, style: tuple[int, ...], levels: int) -> None:
  wanted = (size(image.ndim - 1, levels), image.shape[-1])
  check.require(
    style == wanted,
    f"a style of shape {wanted} ([row, channel] at {levels} levels) for this image",
    f"{style}",
    "styles need the image's channels and axes, and the same levels",
  )
