"""What each tile and each feature adds to a linear score of an attention-weighted sum, exactly.

  f = w' z + c,  z = sum_k a_k h_k:      phi_kd = a_k w_d (h_kd - m_d),      phi_d = w_d (z_d - m_d)

With m the mean of z over a background, phi_d are the SHAP values of f over the features of z
(Lundberg and Lee 2017: a linear function's are its weights times the distance from the mean), and
sum to f less its mean. As the attentions of a bag sum to 1, phi_kd parts them exactly over tiles.
The attention is taken as it is: what a feature does to it is not in these parts, see
`explain.expected_gradients` for that.
"""

from typing import NamedTuple

from medjax import check
from medjax.types import Array


class LinearParts(NamedTuple):
  """Parts of the score of one bag, in its units.

  Attributes:
    tiles: [tile, feature].
    features: [feature], the sum of `tiles` over the tiles.
  """

  tiles: Array
  features: Array


def linear_parts(features: Array, attention: Array, weights: Array, mean: Array) -> LinearParts:
  """The parts of ONE bag; `jax.vmap` gives those of several.

  >>> import jax.numpy as jnp
  >>> tiles, attention = jnp.array([[1.0, 0.0], [3.0, 4.0]]), jnp.array([0.5, 0.5])
  >>> found = linear_parts(tiles, attention, jnp.array([2.0, 1.0]), jnp.array([1.0, 1.0]))
  >>> found.features.tolist()  # 2 (2 - 1) and 1 (2 - 1)
  [2.0, 1.0]

  Args:
    features: [tile, feature] h, finite; padding has an attention of 0.
    attention: [tile] a, which sums to 1.
    weights: [feature] w of the linear head, of one class.
    mean: [feature] m, the mean of z over the background.
  Raises:
    InputError: shapes that do not fit.
  """
  check.same_shape("attention", attention.shape, "tiles", features.shape[:1])
  check.same_shape("weights", weights.shape, "features", features.shape[1:])
  check.same_shape("mean", mean.shape, "features", features.shape[1:])
  tiles = attention[:, None] * weights[None] * (features - mean[None])
  return LinearParts(tiles, tiles.sum(0))


def cell_parts(
  cells: Array, is_cell: Array, attention: Array, weights: Array, mean: Array
) -> Array:
  """What each cell of a tile adds, where a tile's features are means over its cells.

    h_k = mean_i x_ki:      phi_kid = a_k w_d (x_kid - m_d) / n_k

  The parts of a tile's cells sum to those of the tile, exactly: a map finer than tiles. Features of
  a tile that are no means, such as a deviation or a density, have no parts of cells.

  >>> import jax.numpy as jnp
  >>> cells = jnp.array([[[1.0], [5.0]], [[2.0], [9.0]]])  # two tiles, two cells, one feature
  >>> is_cell = jnp.array([[True, True], [True, False]])
  >>> half, one = jnp.array([0.5, 0.5]), jnp.ones(1)
  >>> cell_parts(cells, is_cell, half, one, 0 * one)[..., 0].tolist()
  [[0.25, 1.25], [1.0, 0.0]]

  Args:
    cells: [tile, cell, feature] x.
    is_cell: [tile, cell], False for padding.
    attention: [tile] a, which sums to 1.
    weights: [feature] w of the linear head, of one class.
    mean: [feature] m, the mean of z over the background.
  Returns:
    [tile, cell, feature], 0 in padding.
  Raises:
    InputError: shapes that do not fit.
  """
  check.same_shape("is_cell", is_cell.shape, "cells", cells.shape[:2])
  check.same_shape("attention", attention.shape, "tiles", cells.shape[:1])
  check.same_shape("weights", weights.shape, "features", cells.shape[2:])
  check.same_shape("mean", mean.shape, "features", cells.shape[2:])
  share = attention[:, None] * is_cell / is_cell.sum(1, keepdims=True).clip(1)
  return share[..., None] * weights[None, None] * (cells - mean[None, None])
