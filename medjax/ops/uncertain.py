"""Uncertain statistics: an image whose mean and deviation are drawn from those of its siblings.

For the channel means mu_i and deviations sigma_i of the images i of a batch,

  S_mu^2 = 1/B sum_i (mu_i - E[mu])^2,   S_sigma^2 likewise                   (GDD-FL, Eq. 1)
  mu' = mu + e_1 S_mu,   sigma' = sigma + e_2 S_sigma,   e_1, e_2 ~ N(0, I)   (Eq. 2)
  x' = sigma' (x - mu) / sigma + mu'

Li et al., "Uncertainty modeling for out-of-distribution generalization" (2022), have the last line
like this. GDD-FL (Tian et al. 2023) prints mu' (x - mu) / sigma + sigma', with the roles exchanged.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check
from medjax.ops import style

Roles = Literal["corrected", "printed"]


def uncertain_statistics(
  x: Float[Array, "*space channel"],
  noise: Float[Array, "2 channel"],
  axis_name: str,
  roles: Roles = "corrected",
) -> Float[Array, "*space channel"]:
  """One image with statistics that an image of its batch might have had.

  Args:
    x: image or feature map [*space, channel], under a `jax.vmap` over its siblings.
    noise: e_1 and e_2, standard normal numbers of this image; zeros leave it as it is.
    axis_name: of that vmap.
    roles: "corrected": mu' is the new mean. "printed": sigma' is the new mean and mu' the new
      deviation, which makes a dark image a flat one.
  Returns:
    Shape of `x`. In a channel where `x` is constant it is constant.

  >>> images = jnp.array([[[0.0], [2.0]], [[4.0], [6.0]]])  # means 1 and 5, both deviations 1
  >>> noise = jnp.array([[[1.0], [1.0]], [[0.0], [0.0]]])
  >>> one = lambda x, e: uncertain_statistics(x, e, "i")
  >>> jax.vmap(one, axis_name="i")(images, noise)[0].ravel().round(4).tolist()
  [2.0, 4.0]
  """
  check.one_of("roles", roles, get_args(Roles))
  moments = style.moments(x)
  centre = jax.lax.pmean(moments, axis_name)
  variance = jax.lax.pmean(jnp.square(moments - centre), axis_name)
  # The slope of the root at 0, where all siblings agree, is taken to be 0.
  spread = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
  new = moments + noise * spread
  return style.with_moments(x, new[::-1] if roles == "printed" else new)
