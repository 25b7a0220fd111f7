"""Games about the noise itself: how far it reaches, and which numbers it can make at all.

Accountants know a Gaussian. A generator has an end and a grid, and a release beyond the end or off
the grid betrays who was there, whatever the noise's standard deviation (Mironov 2012).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from medjax.privacy.audit.canaries import Planted, in_one_number
from medjax.privacy.audit.games import Game, flat
from medjax.types import Params, PyTree


def tail_game(
  params: Params, examples: PyTree, *, max_norm: float | int, trials: int = 500_000
) -> Game:
  """Canary alone, in one number; a release farther out than any that was seen without it betrays.

  Noise cut at c standard deviations is refuted by trials >> 1 / Q(c - 1 / sigma): half a million
  see a cut at 4 where sigma = 0.6, none sees one at 6. Args as for `gradient_games`.
  """

  worlds = _alone(params, examples, max_norm)
  return Game("tail", *worlds, score=lambda tree: flat(tree)[0], choose=_beyond, trials=trials)


def support_game(
  params: Params,
  examples: PyTree,
  *,
  max_norm: float | int,
  released: Callable[[jax.Array], jax.Array],
) -> Game:
  """Canary alone, in one number; a release that float32 noise of JAX cannot be betrays it.

  Args:
    released: what is released of a parameter in an empty sample where `jax.random.normal` gave z:
      the program's own float32 arithmetic, such as lambda z: sigma * z / L, increasing in z.
    Others as for `gradient_games`.
  """

  def is_impossible(tree: PyTree) -> jax.Array:
    x = flat(tree)[0]
    z = x / (released(jnp.float32(1.0)) - released(jnp.float32(0.0)))
    near = _place(z) + jnp.arange(-24, 25)
    return 1.0 - jnp.any(released(jax_normal(near)) == x)

  worlds = _alone(params, examples, max_norm)
  return Game("support", *worlds, score=is_impossible, threshold=0.5)


_LOWEST = np.nextafter(np.float32(-1), np.float32(0))


def jax_normal(place: jax.Array) -> jax.Array:
  """Value number `place` in [0, 2^23) of `jax.random.normal` in float32, in increasing order.

  >>> ends = jax_normal(jnp.array([0, 2**23 - 1]))
  >>> [round(float(z), 2) for z in ends]
  [-5.42, 5.22]
  """
  # 23 random bits are the digits of a number in [1, 2), from which JAX makes one in (-1, 1).
  unit = jnp.clip(place, 0, 2**23 - 1).astype(jnp.float32) * np.float32(2.0**-23)
  uniform = jnp.maximum(_LOWEST, unit * (np.float32(1) - _LOWEST) + _LOWEST)
  return np.float32(2**0.5) * jax.lax.erf_inv(uniform)


def _place(z: jax.Array) -> jax.Array:
  """Where in that order a number about as large as z stands."""
  uniform = jax.lax.erf(jnp.clip(z, -6, 6) * np.float32(0.5**0.5))
  return jnp.round((uniform + 1) * np.float32(2.0**22)).astype(jnp.int32)


def _beyond(without: np.ndarray, with_canary: np.ndarray) -> tuple[float, float]:
  """The side on which the canary lies, and the last score seen there without it."""
  side = 1.0 if np.median(with_canary) >= np.median(without) else -1.0
  return side, float((side * without).max())


def _alone(params: Params, examples: PyTree, max_norm: float | int) -> tuple[Planted, Planted]:
  """An empty sample, and one of a canary whose gradient is `max_norm` in the first parameter."""
  one = jax.tree.map(lambda x: np.asarray(x)[:1], examples)
  canary = jax.tree.map(lambda g: np.asarray(g, np.float32)[None], in_one_number(params, max_norm))
  yes = np.ones(1, bool)
  worlds = (Planted(one, canary, yes, np.asarray([weight], np.float32)) for weight in (0.0, 1.0))
  without, with_canary = worlds
  return without, with_canary
