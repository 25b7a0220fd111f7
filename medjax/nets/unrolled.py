"""Unrolled reconstruction: a denoiser and data consistency in turn, with weights in common.

  r^j = D(x^j),   x^{j+1} = (A^H A + lambda I)^-1 (A^H k + lambda r^j),   x^0 = A^H k

Aggarwal et al., "MoDL: model-based deep learning architecture for inverse problems" (2019); Eq. 3
of FedAutoMRI (Wu et al. 2023). lambda is learnt and positive.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax import check
from medjax.ops import cartesian


class Unrolled(nn.Module):
  """Complex image [height, width] of what the coils measured.

  Attributes:
    denoiser: module of [height, width, 2] (real and imaginary part), and of the architecture where
      one is given.
    num_unrolls: rounds of denoising and data consistency.
    iterations: of conjugate gradients with several coils.
    is_consistent: False leaves data consistency out: the control, a network of images alone.
    start: of lambda.
  """

  denoiser: nn.Module
  num_unrolls: int = 3
  iterations: int = 8
  is_consistent: bool = True
  start: float = 0.05

  @nn.compact
  def __call__(
    self,
    kspace: jax.Array,
    mask: jax.Array,
    sensitivities: jax.Array | None = None,
    architecture: jax.Array | None = None,
  ) -> jax.Array:
    """Measured k-space [coil, height, width] and mask as for `ops.cartesian.consistent`."""
    check.require(
      kspace.shape[1:] == mask.shape,
      f"a mask {kspace.shape[1:]} like the k-space",
      f"{mask.shape}",
      "masks and pictures of a client are of one size",
    )
    x = cartesian.adjoint(kspace, mask, sensitivities)
    log_weight = self.param("log_weight", lambda key: jnp.log(jnp.float32(self.start)))
    given: tuple[Any, ...] = () if architecture is None else (architecture,)
    for _ in range(self.num_unrolls):
      parts = self.denoiser(jnp.stack([x.real, x.imag], -1), *given)
      x = parts[..., 0] + 1j * parts[..., 1]
      if self.is_consistent:
        weight = jnp.exp(log_weight)
        x = cartesian.consistent(x, kspace, mask, weight, sensitivities, iterations=self.iterations)
    return x
