"""Rows and their pieces."""

import jax.numpy as jnp
import numpy as np

from medjax.federated.aggregate import mean, median
from medjax.federated.parts import Layout, Part


def test_pieces_are_the_row_cut_part_after_part():
  tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([7.0]), "c": jnp.array(9.0)}
  layout = Layout(tree, [Part("last", lambda path: path == "c", median())], mean())
  row = layout.row(tree)
  np.testing.assert_array_equal(row, [9, 0, 1, 2, 3, 4, 5, 7])  # the part comes first
  for ours, cut in zip(layout.pieces(tree), layout.cut(row), strict=True):
    np.testing.assert_array_equal(ours, cut)
  for name, _, where in layout.slices:
    pieces = layout.cut(row)[layout.pieces_of[name]]
    np.testing.assert_array_equal(np.concatenate(pieces), row[where])
