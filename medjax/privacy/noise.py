"""Gaussian noise whose law is the one that is accounted for, in the tails and in the last digit.

A float32 normal number as libraries draw it ends at 5.4 standard deviations and takes 2^23 values.
A release beyond that end, or between those values, is impossible without the one person who was
there, so that no delta below its probability is true (Mironov 2012). Two things are done about it.

  tail   z = +- Q^-1(u / 2) from 87 random bits u, of which floating point keeps the leading ones:
         the law is cut where 2 Q(z) = 2^-88, at |z| = 10.8.
  grid   The sum and the noise are whole multiples of one public power of two, about 2^-27 of the
         noise's size, and are added as whole numbers:
             release = grid (round(sum / grid) + round(std z / grid) + U_1 + U_2 - 2^20).
         What is added to a whole number is rounded the same whatever that number is, so that the
         release is made of an exact Gaussian release of the rounded sum. U_1 and U_2, uniform on
         [0, 2^20), spread each of the float32 values of z over more than the gap to the next.

Rounding moves the sum by up to grid / 2 in each of d coordinates, and two sums apart by up to
grid sqrt(d): the noise is made larger in that proportion.

A million numbers cost 22 ns each on one CPU core where `jax.random.normal` costs 12, and compile in
about the same time: both are mostly Threefry, of which this takes two calls a number, not one.
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

from medjax.privacy.correlated import Factor
from medjax.types import Key, PyTree

_DIGITS = 27  # binary digits of the noise above the grid: std / grid is in [2^26, 2^27)
_RANGE = 50  # binary digits of the largest sum above the grid
_LIMB = 20  # sums are two int32: high * 2^20 + low
_DITHER = 20  # binary digits of U_1 and of U_2
_WORD = 2.0**-32
CUT = 2.0**-88
"""P(|Z| > LARGEST) of the ideal law: the smallest u that is drawn."""
LARGEST = -statistics.NormalDist().inv_cdf(CUT / 2)
"""The largest |z| that is drawn."""


def added(
  key: Key,
  total: PyTree,
  *,
  multiplier: float | jax.Array,
  sensitivity: float | jax.Array,
  magnitude: float | jax.Array,
  num_released: int | None = None,
  factor: Factor | None = None,
) -> PyTree:
  """`total` plus Gaussian noise of std multiplier * sensitivity, float32 whatever `total` is.

  Args:
    key: key of this release alone; every leaf has a stream of its own. With `factor` a [window] of
      them, see `Factor.past`; a single one begins a window.
    total: tree of arrays; two neighbouring ones differ by at most `sensitivity` in L2 norm.
    multiplier: noise std over the sensitivity, positive.
    sensitivity: positive, a normal float32 number.
    magnitude: public; entries beyond 2^50 grids, at least this much, are cut.
    num_released: numbers that are released together; default the size of `total`.
    factor: of noise that is correlated with that of earlier steps. std is then multiplier *
      sensitivity * factor.norm, of what is new in it.
  """
  leaves, structure = jax.tree.flatten(total)
  count = sum(x.size for x in leaves) if num_released is None else num_released
  spare, rounding = 0, 1.0
  if factor is not None:
    multiplier, spare, rounding = multiplier * factor.norm, factor.spare_digits, factor.rounding
  size = multiplier * sensitivity
  std = jnp.asarray(size, jnp.float32)
  exponent = jnp.maximum(
    jnp.frexp(std)[1] - (_DIGITS - spare),
    jnp.frexp(jnp.asarray(magnitude, jnp.float32))[1] - _RANGE,
  )
  grid, per_grid = (jnp.ldexp(jnp.float32(1), e) for e in (exponent, -exponent))
  std = std * (1 + grid / sensitivity * (math.sqrt(count) * rounding))

  def one(number: int, x: jax.Array) -> jax.Array:
    if factor is None:
      own = jax.random.fold_in(key, number)
      return _call(x.shape)(own, x, size, std * per_grid, grid, per_grid)
    keys = jax.vmap(jax.random.fold_in, (0, None))(jnp.atleast_1d(key), number)
    past = factor.past(keys, lambda k: draws(k, x.shape, std * per_grid))
    return _added(keys[0], x, std * per_grid, grid, per_grid, past)

  noisy = [one(i, x) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(structure, noisy)


@functools.cache
def _call(shape: tuple[int, ...]) -> Callable[..., jax.Array]:
  """`_added` as one operation of a program, by whose name `check_update` finds it.

  Its third argument is the standard deviation that is accounted for, which only the name's reader
  looks at. The name holds the shape of the sum: a call that vmap changed has another one.
  """

  def call(
    key: Key,
    total: jax.Array,
    size: jax.Array,
    std_in_grids: jax.Array,
    grid: jax.Array,
    per_grid: jax.Array,
  ) -> jax.Array:
    del size
    return _added(key, total, std_in_grids, grid, per_grid)

  call.__name__ = call_name(shape)
  return jax.jit(call)


def call_name(shape: tuple[int, ...]) -> str:
  """Name in a program of the call that adds noise to an array of this shape; no identifier."""
  return f"medjax.privacy.noise.added: {shape}"


def draws(key: Key, shape: tuple[int, ...], std_in_grids: jax.Array) -> jax.Array:
  """The noise of one release [*shape] int32, in grids."""
  z, dither = _draw(key, shape)
  return jnp.round(z * std_in_grids).astype(jnp.int32) + dither


def _added(
  key: Key,
  total: jax.Array,
  std_in_grids: jax.Array,
  grid: jax.Array,
  per_grid: jax.Array,
  past: jax.Array | None = None,
) -> jax.Array:
  noise = draws(key, total.shape, std_in_grids)
  if past is not None:
    noise = noise + past
  # A power of two times a float32 number is exact: only the rounding to whole grids rounds.
  x = jnp.clip(total.astype(jnp.float32) * per_grid, -(2.0**_RANGE), 2.0**_RANGE)
  x = jnp.where(jnp.isnan(x), 0.0, jnp.round(x))
  high = jnp.floor(x * 2.0**-_LIMB)
  low = (x - high * 2.0**_LIMB).astype(jnp.int32) + (noise & (2**_LIMB - 1))
  high = high.astype(jnp.int32) + (noise >> _LIMB) + (low >> _LIMB)
  low = low & (2**_LIMB - 1)
  # (high, low) is one whole number, however it came about: what follows sees nothing else.
  return (high.astype(jnp.float32) * 2.0**_LIMB + low.astype(jnp.float32)) * grid


def excess(
  multipliers: Sequence[float],
  *,
  num_released: int,
  num_samples: int,
  reach: float = 1.0,
  epsilon: float = math.inf,
) -> float:
  """What the cut tail adds to delta, of releases that are accounted for as if it were whole.

  Where the noise of d numbers is cut at +- Z standard deviations, two neighbouring releases have
  densities in the ratio of the whole law, but for the values that only one of them can take. Those
  lie beyond Z - |move_i| in some number i, where `move` is how far one unit moves the sum in
  standard deviations. Their probability, P(|z_i + move_i| > Z) summed over i, is a convex function
  of the squares move_i^2, of which the sum is at most `reach` / multiplier: it is largest where all
  of the move is in one number. The other bound is that of two laws at a total variation distance t
  from the whole one, (1 + e^epsilon) t; the smaller one counts.

  >>> excess([1.0], num_released=10**6, num_samples=10**4) < 1e-16
  True

  Args:
    multipliers: noise std over C of each release of a sample.
    num_released: numbers in a release.
    num_samples: how often a sample was released.
    reach: how far one unit moves a sum, over C.
    epsilon: that the whole law is claimed for.
  """
  beyond, distance = 0.0, 0.0
  for sigma in multipliers:
    if sigma == 0:
      continue
    move = reach / sigma
    is_convex = move < LARGEST - 2 / LARGEST
    alone = _beyond(LARGEST - move) + _beyond(LARGEST + move) if is_convex else 1.0
    beyond += num_samples * (alone + (num_released - 1) * CUT)
    distance += num_samples * num_released * CUT
  factor = 1 + math.exp(epsilon) if epsilon < 700 else math.inf
  return min(beyond, factor * distance, 1.0)


def _beyond(z: float) -> float:
  """P(Z > z)."""
  return math.erfc(z / math.sqrt(2)) / 2


def standard_normal(key: Key, shape: tuple[int, ...]) -> jax.Array:
  """Normal numbers [*shape] float32 with the tail of this module; for what is not released."""
  return _draw(key, shape)[0]


def normal_like(key: Key, tree: PyTree) -> PyTree:
  """`standard_normal` for every leaf, each with a stream of its own."""
  leaves, structure = jax.tree.flatten(tree)
  drawn = [standard_normal(jax.random.fold_in(key, i), x.shape) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(structure, drawn)


def of_bits(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(z, U_1 + U_2 - 2^20) from four uint32 words of any shape.

  Bits of u: 32 of a, 32 of b, the upper 23 of c. Sign: one of d. Dither: the other 40.
  """
  parts = (a.astype(jnp.float32), b.astype(jnp.float32), ((c >> 9) << 9).astype(jnp.float32))
  # Added from the small end; where a has leading zeros, the digits of b and c come to bear. The
  # last term is half the distance between two values of u, so that u > 0.
  u = (((parts[2] + 2.0**8) * _WORD + parts[1]) * _WORD + parts[0]) * _WORD
  # 1 - u from the inverted bits, for its leading digits where u is near 1.
  inverted = ((~b).astype(jnp.float32) * _WORD + (~a).astype(jnp.float32)) * _WORD
  rest = jnp.where(u > 0.5, inverted, 1 - u)
  size = _quantile(u, rest)
  z = jnp.where((d >> 31) == 1, size, -size)
  first = d & (2**_DITHER - 1)
  second = (((d >> _DITHER) & (2**11 - 1)) << 9) | (c & (2**9 - 1))
  return z, (first + second).astype(jnp.int32) - 2**_DITHER


def _quantile(u: jax.Array, rest: jax.Array) -> jax.Array:
  """|z| with P(|Z| > |z|) = u; `rest` is 1 - u. Relative error about 2^-22.

  Rational functions of Wichura, "Algorithm AS 241" (1988), single precision.
  """
  q = rest / 2
  r = 0.180625 - q * q
  middle = q * _ratio(
    r,
    (3.3871327179, 50.434271938, 159.29113202, 59.109374720),
    (1.0, 17.895169469, 78.757757664, 67.187563600),
  )
  r = jnp.sqrt(-jnp.log(u / 2))
  near = _ratio(
    r - 1.6,
    (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103),
    (1.0, 0.73700164250, 0.12021132975),
  )
  far = _ratio(
    r - 5.0,
    (6.6579051150, 3.0812263860, 0.42868294337, 0.017337203997),
    (1.0, 0.24197894225, 0.012258202635),
  )
  return jnp.where(q <= 0.425, middle, jnp.where(r <= 5.0, near, far))


def _ratio(x: jax.Array, above: tuple[float, ...], below: tuple[float, ...]) -> jax.Array:
  """Polynomials in x, lowest coefficient first, one over the other."""

  def polynomial(coefficients: tuple[float, ...]) -> jax.Array:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
      value = value * x + coefficient
    return value

  return polynomial(above) / polynomial(below)


def _draw(key: Key, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """128 bits a number from two calls of Threefry, and what `of_bits` makes of them.

  The bits of an entry depend on the key and on the place of the entry in its array, so that the
  number of devices changes nothing.
  """
  first, second = jax.random.bits(key, (2,), jnp.uint32)
  place = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    place = place + jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    stride *= shape[axis]
  if stride > 2**32:
    raise ValueError(f"expected at most 2^32 entries in an array, got {stride}")
  words = [
    word
    for call in (0, 1)
    for word in threefry2x32_p.bind(first, second, jnp.full_like(place, call), place)
  ]
  return of_bits(*words)
