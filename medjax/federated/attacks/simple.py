"""Attacks in closed form: signs, negative means, a deviation from the mean, copies.

mu and sigma are mean and standard deviation of the updates that an attack sees.
"""

import jax
import jax.numpy as jnp

from medjax import check
from medjax.federated import rows as matrix
from medjax.federated.attacks.attack import Attack, View, honest_mean


def sign_flip(f: int, scale: float | int = 1.0) -> Attack:
  """Every wrong client sends minus its own honest update, times `scale` > 0."""
  check.positive("scale", scale)
  return Attack(f"sign_flip({scale:g})", f, ("own updates",), lambda view: -scale * view.rows)


def ipm(f: int, eps: float | int = 0.5) -> Attack:
  """Inner product manipulation, -eps mu of the honest updates (Xie et al., UAI 2019).

  Args:
    f: number of wrong clients.
    eps: above 0. Below (n - f) / f the mean keeps its direction; above, it turns round.
  """
  check.positive("eps", eps)

  def make(view: View) -> jax.Array:
    return -eps * matrix.mean(view.rows, view.on & ~view.is_wrong)

  return Attack(f"ipm({eps:g})", f, ("all updates",), make)


def lie(f: int, z: float | int | None = None) -> Attack:
  """A little is enough, mu - z sigma (Baruch et al., NeurIPS 2019).

  z = Phi^-1((n - f - s) / (n - f)),  s = floor(n / 2) + 1 - f,  of the n and f present

  The attack hides where s honest clients lie further from the mean than it does.

  Args:
    f: number of wrong clients.
    z: standard deviations, in place of the paper's; some code fixes it at 1 or 1.5.
  """

  def make(view: View) -> jax.Array:
    factor = _baruch(view) if z is None else z
    return honest_mean(view) - factor * view.deviation(view.on)

  name = "lie" if z is None else f"lie(z={z:g})"
  return Attack(name, f, ("own updates",), make)


def _baruch(view: View) -> jax.Array:
  num_honest = view.num_present - view.num_wrong
  supporters = view.num_present // 2 + 1 - view.num_wrong
  share = (num_honest - supporters) / jnp.maximum(num_honest, 1)
  # Wrong majorities need no supporters: the share is held inside (0, 1).
  return jax.scipy.special.ndtri(jnp.clip(share, 1e-3, 1 - 1e-3))


def mimic(f: int, victim: int | None = None) -> Attack:
  """All copy one honest client, whose data then count f + 1 times (Karimireddy et al., ICLR 2022).

  Args:
    f: number of wrong clients.
    victim: id of the client, at least f; None: the present honest one that lies furthest along the
      direction in which honest clients differ most in this round (the paper estimates it over
      rounds).
  """
  check.require(
    victim is None or victim >= f, f"an honest victim, of id >= {f}", f"{victim}", "or pass None"
  )

  def make(view: View) -> jax.Array:
    honest = view.on & ~view.is_wrong
    if victim is not None:
      chosen = honest & (view.client == victim)
      found = matrix.combine(matrix.shared(chosen.astype(view.rows.dtype), chosen), view.rows)
      return jnp.where(chosen.any(), found, matrix.mean(view.rows, honest))
    centred = matrix.masked(view.rows - matrix.mean(view.rows, honest)[None], honest)
    inner = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    along = jnp.linalg.eigh(inner)[1][:, -1]  # entry i: how far client i lies along the direction
    return view.rows[jnp.argmax(jnp.where(honest, jnp.abs(along), -1))]

  return Attack("mimic", f, ("all updates",), make)


def random_direction(f: int, size: float | int = 1.0) -> Attack:
  """mu plus a random vector as long as `size` times the wrong clients' largest distance.

  Not an attack but the control of one: the same distance, no aim.
  """
  check.positive("size", size)

  def make(view: View) -> jax.Array:
    squared = matrix.squared_distances(view.rows, view.own)
    widest = jnp.sqrt(jnp.where(jnp.isfinite(squared), squared, 0).max())
    drawn = jax.random.normal(view.key, view.rows.shape[1:])
    return honest_mean(view) + size * widest * drawn / jnp.linalg.norm(drawn)

  return Attack(f"random_direction({size:g})", f, ("own updates",), make)
