"""Attacks that go as far as a bound allows: Min-Max, Min-Sum, and Fang's against Krum.

m = mu + gamma p  with the largest gamma within the bound     (Shejwalkar & Houmansadr, NDSS 2021)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from medjax import check
from medjax.federated import rows as matrix
from medjax.federated.aggregate.krum import scores as krum_scores
from medjax.federated.attacks.attack import Attack, Sight, View, honest_mean

Direction = Callable[[jax.Array, jax.Array], jax.Array]
"""`direction(mu, sigma) -> p`, all [parameters]."""
_HALVINGS = 40


def unit(mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """p = -mu / |mu|."""
  return -mean / jnp.maximum(jnp.linalg.norm(mean), 1e-30)


def sign(mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """p = -sign(mu)."""
  return -jnp.sign(mean)


def std(mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """p = -sigma."""
  return -deviation


def min_max(f: int, direction: Direction = unit, *, sees_all: bool = False) -> Attack:
  """Largest gamma with max_i |m - v_i| <= max_ij |v_i - v_j| over the updates that it sees.

  Args:
    f: number of wrong clients.
    direction: `unit`, `sign` or `std`.
    sees_all: the updates of all clients, the paper's strongest attacker; else its own alone.
  """

  def make(view: View) -> jax.Array:
    squared = _between(view)
    return _furthest(view, direction, lambda far: far.max() <= squared.max())

  return Attack(f"min_max({direction.__name__})", f, _sight(sees_all), make)


def min_sum(
  f: int, direction: Direction = unit, *, sees_all: bool = False, bound: str = "max"
) -> Attack:
  """Largest gamma with sum_i |m - v_i|^2 <= max_i sum_j |v_i - v_j|^2.

  Args:
    f: number of wrong clients.
    direction: `unit`, `sign` or `std`.
    sees_all: the updates of all clients; else its own alone.
    bound: "max" over i as the paper has it; "min" as its authors' notebook, a tighter bound.
  """
  check.one_of("bound", bound, ("max", "min"))

  def make(view: View) -> jax.Array:
    sums = _between(view).sum(1)
    least = jnp.where(view.on, sums, jnp.inf).min()
    limit = sums.max() if bound == "max" else jnp.where(view.on.any(), least, 0)
    return _furthest(view, direction, lambda far: far.sum() <= limit)

  name = f"min_sum({direction.__name__})" + ("" if bound == "max" else "-notebook")
  return Attack(name, f, _sight(sees_all), make)


def fang(f: int) -> Attack:
  """-lambda sign(mu), the largest lambda for which Krum chooses it (Fang et al., USENIX 2020).

  lambda is halved from the paper's upper bound until Krum(f) of the honest updates and f copies
  picks a copy; below 1e-5 it stays there, as in the released code.
  """

  def make(view: View) -> jax.Array:
    honest = view.on & ~view.is_wrong
    mean = matrix.mean(view.rows, view.on)
    squared = matrix.squared_distances(view.rows, honest)
    near = jnp.where(jnp.eye(len(squared), dtype=bool), jnp.inf, squared)
    num, size = view.num_present, view.rows.shape[1]
    kept = jnp.arange(len(near)) < num - view.num_wrong - 2
    least = jnp.where(kept[None], jnp.sort(near, 1), 0).sum(1)
    least = jnp.where(honest & jnp.isfinite(least), least, jnp.inf).min()
    finite = jnp.where(jnp.isfinite(least), least, 0)
    norms = matrix.distances_to(jnp.zeros_like(mean), view.rows, honest)
    # The paper's bound: sqrt(least / ((n - 2f - 1) d)) + max |v_i| / sqrt(d).
    divisor = jnp.maximum(num - 2 * view.num_wrong - 1, 1) * size
    start = jnp.sqrt(finite / divisor) + norms.max() / jnp.sqrt(size * 1.0)

    def wins(scale: jax.Array) -> jax.Array:
      rows = jnp.where(view.is_wrong[:, None], (-scale * jnp.sign(mean))[None], view.rows)
      score = krum_scores(rows, view.on, f)
      return view.is_wrong[jnp.argmin(score)]

    def goes_on(scale: jax.Array) -> jax.Array:
      return ~wins(scale) & (scale > 1e-5)

    scale = jax.lax.while_loop(goes_on, lambda scale: scale / 2, start)
    return -scale * jnp.sign(mean)

  return Attack("fang", f, ("all updates", "rule"), make)


def _between(view: View) -> jax.Array:
  """Squared distances among the rows that are seen, 0 to the others."""
  squared = matrix.squared_distances(view.rows, view.on)
  return jnp.where(jnp.isfinite(squared), squared, 0)


def _sight(sees_all: bool) -> tuple[Sight, ...]:
  return ("all updates",) if sees_all else ("own updates",)


def _furthest(
  view: View, direction: Direction, fits: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """mu + gamma p with the largest gamma, to 2^-40 of where it surely fails, that fits."""
  mean = honest_mean(view)
  towards = direction(mean, view.deviation(view.on))

  def vector(gamma: jax.Array) -> jax.Array:
    return mean + gamma * towards

  def is_near(gamma: jax.Array) -> jax.Array:
    far = jnp.where(view.on, ((view.rows - vector(gamma)[None]) ** 2).sum(1), 0)
    return fits(far)

  # Beyond twice the sum of all distances over |p|, m lies outside every bound used here.
  length = jnp.maximum(jnp.linalg.norm(towards), 1e-30)
  bounds = jnp.zeros(()), 2 * jnp.sqrt(_between(view).sum()) / length

  def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = bounds
    middle = (low + high) / 2
    near = is_near(middle)
    return jnp.where(near, middle, low), jnp.where(near, high, middle)

  return vector(jax.lax.fori_loop(0, _HALVINGS, halve, bounds)[0])
