"""Cartesian magnetic resonance acquisition: the forward model, its adjoint, and data consistency.

With coil sensitivities S_c, the unitary Fourier transform F and the mask M of sampled positions

  A x = M F (S_c x),        A^H k = sum_c conj(S_c) F^H (M k_c)                (FedAutoMRI, Eq. 1)
  x = argmin |A x - k|^2 + lambda |x - r|^2 = (A^H A + lambda I)^-1 (A^H k + lambda r)   (Eq. 3)

Without coils (one coil of sensitivity 1) A^H A is a mask of frequencies, and the last line is

  F x = (M k + lambda F r) / (M + lambda)

With several coils it is solved by conjugate gradients. Frequencies lie in the order of
`ops.kspace.frequencies`, 0 first; a scanner's file has them shifted, `jnp.fft.ifftshift` undoes it.
Aggarwal et al., "MoDL: model-based deep learning architecture for inverse problems" (2019).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from medjax import check
from medjax.types import Number

_AXES = (-2, -1)


def acquired(
  image: Inexact[Array, "height width"],
  mask: Float[Array, "height width"],
  sensitivities: Inexact[Array, "coil height width"] | None = None,
) -> Complex[Array, "coil height width"]:
  """A x: what each coil measures, 0 where nothing is sampled.

  Args:
    image: real or complex.
    mask: 1 where k-space is sampled, else 0; see `line_mask`.
    sensitivities: of each coil; None: one coil of sensitivity 1.
  """
  own = image[None] if sensitivities is None else sensitivities * image[None]
  return jnp.fft.fft2(own, norm="ortho") * mask[None]


def adjoint(
  kspace: Complex[Array, "coil height width"],
  mask: Float[Array, "height width"],
  sensitivities: Inexact[Array, "coil height width"] | None = None,
) -> Complex[Array, "height width"]:
  """A^H k: the zero-filled image, <A x, k> = <x, A^H k>.

  >>> image = jnp.arange(16.0).reshape(4, 4) + 0j
  >>> full = jnp.ones((4, 4))
  >>> bool(jnp.allclose(adjoint(acquired(image, full), full), image, atol=1e-5))
  True
  """
  own = jnp.fft.ifft2(kspace * mask[None], norm="ortho")
  return own.sum(0) if sensitivities is None else (jnp.conj(sensitivities) * own).sum(0)


def consistent(
  prior: Inexact[Array, "height width"],
  kspace: Complex[Array, "coil height width"],
  mask: Float[Array, "height width"],
  weight: Number,
  sensitivities: Inexact[Array, "coil height width"] | None = None,
  *,
  iterations: int = 10,
) -> Complex[Array, "height width"]:
  """The image between what was measured and what a network believes.

  Args:
    prior: r, the network's image.
    kspace: k, of all coils; of one without sensitivities.
    mask: of sampled positions.
    weight: lambda > 0, how much the network is believed; as it falls to 0 the measured frequencies
      are kept as they are.
    sensitivities: of each coil; None: the closed form for one coil.
    iterations: of conjugate gradients from the prior, at most. Their derivative is that of the
      solution, by a second solution of the same length: exact where they have converged.
  Raises:
    InputError: several coils without sensitivities.
  """
  check.positive("iterations", iterations)
  prior = prior.astype(jnp.result_type(prior, kspace))
  if sensitivities is None:
    check.require(
      kspace.shape[0] == 1, "k-space of one coil", f"{kspace.shape[0]} coils", "pass sensitivities"
    )
    believed = jnp.fft.fft2(prior, norm="ortho")
    joined = (mask * kspace[0] + weight * believed) / (mask + weight)
    return jnp.fft.ifft2(joined, norm="ortho")

  def normal(x: Array) -> Array:
    return adjoint(acquired(x, mask, sensitivities), mask, sensitivities) + weight * x

  # Solved for the step away from the prior, x - r, from 0: the iterates are those of a start at r,
  # but JAX would begin the solution of the derivative at r as well, where no gradient is.
  data = adjoint(kspace, mask, sensitivities)
  away = data - adjoint(acquired(prior, mask, sensitivities), mask, sensitivities)
  step, _ = jax.scipy.sparse.linalg.cg(normal, away, tol=0.0, maxiter=iterations)
  return prior + step


def line_mask(
  shape: tuple[int, int],
  acceleration: float | int,
  random: np.random.Generator,
  *,
  centre_fraction: float = 0.08,
  axis: int = 1,
) -> np.ndarray:
  """Random lines of k-space and all of its middle, as fastMRI samples (Zbontar et al. 2018).

  Args:
    shape: of the image.
    acceleration: lines over lines that are sampled, 1 or more; kept exactly, up to rounding.
    random: draws the lines.
    centre_fraction: share of the lines that are sampled around frequency 0, in [0, 1].
    axis: the phase axis, along which lines are left out.
  Returns:
    [height, width] float32 of 0 and 1, frequency 0 first.
  Raises:
    InputError: an acceleration that leaves no line.

  >>> mask = line_mask((4, 8), 4, np.random.default_rng(0), centre_fraction=0.125)
  >>> mask[0].sum(), mask[:, 0].tolist()
  (np.float32(2.0), [1.0, 1.0, 1.0, 1.0])
  """
  check.in_interval("centre_fraction", centre_fraction, 0.0, 1.0)
  check.one_of("axis", axis, (0, 1))
  check.require(acceleration >= 1, "acceleration of 1 or more", f"{acceleration}", "1 is all lines")
  size = shape[axis]
  number = round(size / acceleration)
  check.require(
    number >= 1, "at least one sampled line", f"{size} lines at {acceleration}", "lower it"
  )
  order = np.argsort(np.abs(np.fft.fftfreq(size)), kind="stable")
  middle = order[: min(round(centre_fraction * size), number)]
  rest = random.permutation(np.setdiff1d(np.arange(size), middle))[: number - len(middle)]
  lines = np.zeros(size, np.float32)
  lines[np.concatenate([middle, rest]).astype(int)] = 1
  return np.broadcast_to(lines[:, None] if axis == 0 else lines, shape).copy()


def checked_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """A mask of one's own, [height, width] float32 of 0 and 1.

  Raises:
    InputError: another shape, other values, or no sampled line.
  """
  own = np.asarray(mask)
  check.same_shape("mask", own.shape, "image", shape)
  check.require(
    bool(np.isin(own, (0, 1)).all()),
    "a mask of 0 and 1",
    f"values from {own.min()} to {own.max()}",
    "1 is sampled",
  )
  check.require(own.any(), "a mask with a sampled line", "none", "sample at least the middle")
  return own.astype(np.float32)
