"""The Fourier domain in which a scanner measures: filters along one axis, translations among them.

k-space of an image [*space, channel] is its discrete Fourier transform over the spatial axes; the
integer k counts cycles per field of view. One encoded line has one k along the phase axis, so
whatever happens from line to line multiplies along that axis alone:

  y = IFFT_axis(w(k) FFT_axis(x)) = x convolved with IFFT(w) along the axis, cyclically
"""

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from medjax import check


def frequencies(size: int) -> Float[Array, " size"]:
  """k of every sample of a transform, in its order: 0, 1, ..., -2, -1; -size/2 for an even size.

  >>> frequencies(4).tolist()
  [0.0, 1.0, -2.0, -1.0]
  """
  return jnp.round(jnp.fft.fftfreq(size) * size).astype(jnp.float32)


def weight_lines(
  image: Inexact[Array, "*space channel"], weights: Inexact[Array, " lines"], axis: int
) -> Complex[Array, "*space channel"]:
  """Multiplies the k-space lines of one axis by `weights`.

  Args:
    image: [*space, channel], real or complex.
    weights: [image.shape[axis]] in the order of `frequencies`, real or complex.
    axis: spatial axis, 0 or more.
  Returns:
    Complex image; with weights 1 the image, to rounding.
  """
  check.same_shape("weights", weights.shape, "k-space lines", (image.shape[axis],))
  lines = weights.reshape([-1 if a == axis else 1 for a in range(image.ndim)])
  return jnp.fft.ifft(jnp.fft.fft(image, axis=axis) * lines, axis=axis)


def ramp(size: int, shift: Float[Array, ""]) -> Complex[Array, " size"]:
  """Weights that translate by `shift` voxels, cyclically, along an axis of `size`.

  The transform of x(r - shift) is exp(-2 pi i k shift / size) times that of x(r): exact for
  band-limited images and any real shift, and `jnp.roll` for whole ones.
  """
  k = frequencies(size)
  # k = -size/2 is its own mirror image. Its weight must be real, or a real image would not stay so.
  phase = jnp.exp(-2j * jnp.pi * k * shift / size)
  return jnp.where(k == -size / 2, phase.real, phase)


def magnitude(image: Inexact[Array, "*any"]) -> Float[Array, "*any"]:
  """|image|, with slope 0 where it is 0."""
  power = jnp.square(image.real) + jnp.square(image.imag)
  return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)
