"""A clipping norm that follows a quantile of the gradient norms (Andrew et al. 2021).

  b_i = 1 if |g_i| <= C else 0
  share = (sum_i (b_i - 1/2) + noise) / L + 1/2,      C <- C exp(-rate (share - quantile))

Centred, the bit of one unit moves the sum by 1/2. The sum is one more noisy release of the sample,
which the plan pays for; all that follows from it is public.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from medjax import check
from medjax.privacy import noise
from medjax.types import Key

SENSITIVITY = 0.5
LEAST_NORM, LARGEST_NORM = 1e-10, 1e10
"""Clipping norms between which squares of gradients neither underflow nor overflow in float32."""


_MOST_UNITS = 32  # of expected samples; counts up to this size are released without a cut


class QuantileClipping(NamedTuple):
  """How the clipping norm of a plan moves; `max_norm` of the plan is where it starts.

  Attributes:
    quantile: share of the gradients that shall lie within the norm, in [0, 1].
    rate: of the steps of log C, positive; 0.2 in the paper.
    noise_ratio: noise multiplier of the count over that of the gradient. 10 costs half a percent
      of the gradient's multiplier.
  """

  quantile: float | int = 0.5
  rate: float | int = 0.2
  noise_ratio: float | int = 10.0

  def check(self) -> None:
    """Raises InputError for numbers out of range."""
    check.in_interval("quantile", self.quantile, 0, 1)
    check.positive("rate", self.rate)
    check.positive("noise_ratio", self.noise_ratio)


def centred_bits(norms: jax.Array, weights: jax.Array, max_norm: jax.Array) -> jax.Array:
  """sum_i w_i (b_i - 1/2); no entry beyond 1/2, also where a norm is NaN.

  Args:
    norms: [batch] of unclipped gradients.
    weights: [batch] in [0, 1], 0 for padding.
    max_norm: C.
  """
  return (weights * jnp.where(norms <= max_norm, SENSITIVITY, -SENSITIVITY)).sum()


def next_norm(
  rule: QuantileClipping,
  max_norm: jax.Array,
  total: jax.Array,
  key: Key,
  *,
  multiplier: float,
  sample_size: int,
) -> jax.Array:
  """The next clipping norm.

  Args:
    rule: quantile and rate.
    max_norm: C that `total` was counted with.
    total: `centred_bits` of a whole sample.
    key: key of this release alone.
    multiplier: noise std over the sensitivity 1/2.
    sample_size: L, fixed and public.
  DEVIATION: the released share is cut to [0, 1], so that one noisy count moves C by no more than
    a factor exp(rate), and C stays within [LEAST_NORM, LARGEST_NORM].
  """
  if multiplier > 0:
    total = noise.added(
      key,
      total,
      multiplier=multiplier,
      sensitivity=SENSITIVITY,
      magnitude=_MOST_UNITS * sample_size * SENSITIVITY,
    )
  share = jnp.clip(total / sample_size + 0.5, 0.0, 1.0)
  moved = max_norm * jnp.exp(-rule.rate * (share - rule.quantile))
  return jnp.clip(moved, LEAST_NORM, LARGEST_NORM)
