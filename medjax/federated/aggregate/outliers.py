"""Weights from outlier scores of the distances between clients (DOS, Alkhunaizi et al. 2022).

r = COPOD(cosine distances) + COPOD(Euclidean distances),   weights = softmax(alpha r)
"""

import jax
import jax.numpy as jnp

from medjax.federated import rows as matrix
from medjax.federated.aggregate.rule import Rule


def dos(alpha: float | int = -1.0) -> Rule:
  """Distance-based outlier suppression: nobody is left out, outliers weigh less.

  Args:
    alpha: below 0. The released code adds the two scores with -1; papers that cite it write their
      mean, which is alpha = -0.5.
  """

  def join(rows: jax.Array, weight: jax.Array, on: jax.Array, **others: object):
    euclidean = jnp.sqrt(matrix.squared_distances(rows, on))
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / jnp.maximum(norms, 1e-30)
    # |a - b|^2 / 2 = 1 - <a, b> of unit vectors, without the cancellation of the right-hand side.
    cosine = matrix.squared_distances(unit, on) / 2
    score = copod(cosine, on) + copod(euclidean, on)
    weights = jax.nn.softmax(jnp.where(on, alpha * score, -jnp.inf))
    weights = jnp.where(on.any(), weights, 0)
    return matrix.combine(weights, rows), weights

  return Rule(f"dos(alpha={alpha:g})", join)


def copod(values: jax.Array, on: jax.Array) -> jax.Array:
  """[clients] outlier scores of the rows of a square matrix (COPOD, Li et al., ICDM 2020).

  With L and R the shares of present rows that are at most, and at least, as large in a column:
  score = sum over columns of max(tail, (-log L - log R) / 2), where the tail is -log L in columns
  skewed to the left, -log R in those skewed to the right, and their sum in symmetric ones (as in
  PyOD). Columns and rows of the absent are left out; their own scores are 0.
  """
  num = jnp.maximum(on.sum(), 1).astype(values.dtype)
  x = jnp.where(on[:, None] & on[None], values, 0)
  counted = on[None, :, None]  # [row, other row, column]
  at_most = ((x[None] <= x[:, None]) & counted).sum(1) / num
  at_least = ((x[None] >= x[:, None]) & counted).sum(1) / num
  left, right = -jnp.log(jnp.maximum(at_most, 1e-9)), -jnp.log(jnp.maximum(at_least, 1e-9))
  centre = x.sum(0) / num
  skew = jnp.sign(jnp.where(on[:, None], (x - centre[None]) ** 3, 0).sum(0))[None]
  tail = jnp.where(skew < 0, left, jnp.where(skew > 0, right, left + right))
  each = jnp.maximum(tail, (left + right) / 2)
  return jnp.where(on, jnp.where(on[None], each, 0).sum(1), 0)
