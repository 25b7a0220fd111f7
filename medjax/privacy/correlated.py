"""Noise that later steps take back in part: banded matrix factorisation with cyclic sampling.

DP-SGD adds independent noise to every sum of gradients. What matters to the parameters is the noise
of the sums of gradients over many steps, and that can be made smaller at the same privacy by noise
that is correlated over steps (DP-BandMF, Choquette-Choo et al., "(Amplified) Banded Matrix
Factorization", NeurIPS 2023). With a lower triangular matrix C of `bands` bands,

  release_t = S_t + n_t,     C n = sigma |c| z,   z independent standard normal numbers
  n_t = N_t - sum_{0 < k < bands} c_k n_{t-k},    N_t = sigma |c| z_t,   c_0 = 1

so that the releases are a function of C S + sigma |c| z. A unit that takes part in step t moves
rows t .. t + bands - 1 of C S, by at most C_norm |c|. Steps in which one unit may take part lie
`bands` apart (cyclic sampling), so that no two of its moves share a row: T steps cost a unit what
ceil(T / bands) independent releases of noise multiplier sigma do. Units are put into `bands` parts
at random, each by itself; step t draws from part t mod bands alone, with probability bands L / N.

Two things differ from the paper. The matrix starts anew every `window` steps (it is block diagonal,
and still banded), so that n_t is made of the draws of one window, again from their keys: past noise
lies in no state and no checkpoint, whose reader could take it off. And the arithmetic is that of
whole numbers: c_k are multiples of 2^-10, n_t is computed exactly and rounded down, so that what a
release adds to is a whole number of grids, as `privacy.noise` needs.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.types import Key

_PLACES = 10  # binary places of the coefficients
_ONE = 2**_PLACES


class BandedNoise(NamedTuple):
  """Correlated noise for `DPPlan(mechanism=...)`; `bands=1` is DP-SGD.

  Attributes:
    bands: steps over which a unit's part is spread, and steps between two in which it may take
      part. More bands, less noise in long sums, and less amplification by sampling; at most
      N / L.
    window: steps after which the noise starts anew; default 4 * bands. A step draws up to `window`
      noises, half of it on average.
    coefficients: c_1 / c_0 .. of the matrix, each in [0, 1], so `bands` - 1 of them; default those
      that jax_privacy finds best for the mean squared error of sums over all steps (needs the extra
      `correlated`).
  """

  bands: int
  window: int | None = None
  coefficients: tuple[float, ...] | None = None

  def factor(self, num_steps: int) -> "Factor":
    """The matrix for a training of so many steps.

    Raises:
      InputError: numbers out of range, or jax_privacy is needed and not installed.
    """
    check.positive("bands", self.bands)
    window = 4 * self.bands if self.window is None else self.window
    window = 1 if self.bands == 1 else min(window, num_steps)
    check.require(
      self.bands <= window <= 4096,
      f"a window and a training of {self.bands} to 4096 steps, as many as bands at least",
      f"a window of {window} steps",
      "take fewer bands",
    )
    found = self.coefficients
    if found is None:
      found = () if self.bands == 1 else _optimal(self.bands, num_steps)
    check.require(
      len(found) == self.bands - 1 and all(0 <= c <= 1 for c in found),
      f"{self.bands - 1} coefficients in [0, 1], that of the present step left out",
      f"{found}",
      "divide by the first coefficient",
    )
    return Factor(tuple(round(c * _ONE) for c in found), window)


class Factor(NamedTuple):
  """The matrix C in whole numbers.

  Attributes:
    subdiagonals: 2^10 c_1, 2^10 c_2 ..
    window: steps after which it starts anew.
  """

  subdiagonals: tuple[int, ...]
  window: int

  @property
  def bands(self) -> int:
    """Rows of C S that one participation moves."""
    return len(self.subdiagonals) + 1

  @property
  def norm(self) -> float:
    """|c|, the largest norm of a column of C, with c_0 = 1; what a unit's move is multiplied by."""
    return math.sqrt(1 + sum((a / _ONE) ** 2 for a in self.subdiagonals))

  @property
  def rounding(self) -> float:
    """How much larger rounding's share of a move is, next to |c|, than without correlation.

    The rounded sum moves by a grid at most, in `bands` rows by |c| grids; each row but the first
    is rounded down once more.
    """
    return 1 + math.sqrt(self.bands - 1) / self.norm

  @property
  def spare_digits(self) -> int:
    """Binary digits by which n may exceed N."""
    return math.ceil(math.log2(np.abs(self.inverse()).sum(1).max()))

  def matrix(self) -> np.ndarray:
    """C of one window, [window, window]."""
    c = np.eye(self.window)
    for k, a in enumerate(self.subdiagonals, 1):
      c += np.diag(np.full(self.window - k, a / _ONE), -k)
    return c

  def inverse(self) -> np.ndarray:
    """C^-1 of one window: n = C^-1 N."""
    return np.linalg.inv(self.matrix())

  def describe(self) -> str:
    """For ledgers and manifests: two trainings with other texts are two trainings."""
    parts = " ".join(str(a) for a in (_ONE, *self.subdiagonals))
    return f"banded {parts} / {_ONE}, window {self.window}"

  def past(self, keys: Key, draw: Callable[[Key], jax.Array]) -> jax.Array:
    """n_t - N_t int32, in grids: what the earlier draws of the window add to step t.

    Args:
      keys: [window] noise keys of steps t, t - 1, ..; from the start of the window on they repeat
        the first one.
      draw: `draw(key) -> N` [*shape] int32, in grids; at most 2^31 / |C^-1|_inf.
    """
    data = jax.random.key_data(keys)
    num_past = (data != data[:1]).any(axis=1).sum()
    weights = jnp.asarray(self.subdiagonals, jnp.int32)

    def combined(last: jax.Array) -> jax.Array:
      # floor(sum_k a_k n_{t-k} / 2^10), in two parts so that no product leaves int32; wrapping
      # sums are exact since the result fits.
      high = jnp.tensordot(weights, last >> _PLACES, 1)
      low = jnp.tensordot(weights, last & (_ONE - 1), 1)
      return high + (low >> _PLACES)

    def after(i: jax.Array, last: jax.Array) -> jax.Array:
      n = draw(keys[num_past - i]) - combined(last)
      return jnp.concatenate([n[None], last[:-1]])

    shape = jax.eval_shape(draw, keys[0]).shape
    if self.bands == 1:
      return jnp.zeros(shape, jnp.int32)
    last = jnp.zeros((self.bands - 1, *shape), jnp.int32)  # n_{t-1}, n_{t-2}, ..
    return -combined(jax.lax.fori_loop(0, num_past, after, last))


@functools.lru_cache(maxsize=32)
def _optimal(bands: int, num_steps: int) -> tuple[float, ...]:
  """c_1 / c_0 .. of jax_privacy's banded Toeplitz matrix, for sums of `num_steps` gradients."""
  try:
    from jax_privacy.matrix_factorization import toeplitz
  except ImportError as error:
    raise check.InputError(
      "jax_privacy, which finds the coefficients of correlated noise",
      "none",
      "pip install 'medjax[correlated]', or pass BandedNoise(coefficients=...)",
    ) from error
  found = np.asarray(toeplitz.optimize_banded_toeplitz(n=num_steps, bands=bands), np.float64)
  return tuple(float(c) for c in np.clip(found[1:] / found[0], 0.0, 1.0))
