"""Sizes of surface elements: closed forms, symmetry, and the surface of a ball."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics import surfels

sizes = jax.jit(lambda mask, spacing: surfels.surfel_sizes(mask, spacing=spacing))


def test_a_box_has_faces_bevelled_edges_and_cut_corners():
  """(a - 1) voxels between the first and last of a side; an edge is half a diagonal wide."""
  mask = np.zeros((6, 7, 8), bool)
  mask[1:4, 2:6, 1:7] = True  # 3 x 4 x 6
  a, b, c = spacing = (1.5, 0.5, 2.0)
  x, y, z = 2 * a, 3 * b, 5 * c
  faces = 2 * (x * y + y * z + z * x)
  edges = 4 * (x * np.hypot(b, c) + y * np.hypot(a, c) + z * np.hypot(a, b)) / 2
  corner = np.linalg.norm([b * c, a * c, a * b]) / 8  # triangle of three edge midpoints
  assert sizes(mask, np.float32(spacing)).sum() == pytest.approx(faces + edges + 8 * corner)
  flat = np.zeros((6, 7), bool)
  flat[1:4, 2:6] = True
  length = 2 * (2 * a + 3 * b) + 4 * np.hypot(a, b) / 2
  assert sizes(flat, np.float32(spacing[:2])).sum() == pytest.approx(length)


def test_a_mask_that_fills_the_image_ends_at_its_border():
  mask = np.zeros((5, 6), bool)
  mask[1:4, 1:5] = True
  spacing = np.float32([1.0, 2.0])
  whole = sizes(np.ones((3, 4), bool), spacing)
  np.testing.assert_allclose(whole, sizes(mask, spacing)[1:5, 1:6], rtol=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_sizes_follow_the_symmetries_of_the_corners(axes):
  """Mirrored, turned and complementary corners have the size of the mirrored, turned spacing."""
  spacing = np.array([0.7, 1.1, 2.3])[:axes]
  corners = list(itertools.product((0, 1), repeat=axes))
  table = np.asarray(surfels.sizes_by_code(axes, spacing))
  np.testing.assert_allclose(table, table[::-1], rtol=1e-6)
  assert (table[1:-1] > 0).all() and table[0] == 0

  def bit(corner):
    return len(corners) - 1 - corners.index(corner)

  for order in itertools.permutations(range(axes)):
    turned = np.asarray(surfels.sizes_by_code(axes, spacing[list(order)]))
    for flip in itertools.product((0, 1), repeat=axes):
      image = [tuple(c[order[i]] ^ flip[i] for i in range(axes)) for c in corners]
      for code in range(len(table)):
        moved = sum((code >> bit(c) & 1) << bit(m) for c, m in zip(corners, image, strict=True))
        assert turned[moved] == pytest.approx(table[code], rel=1e-5)


def test_surface_of_a_ball():
  """A surface of voxels in steps of 45 degrees is 7.3 % too large at most, far from the 50 % of
  voxel faces."""
  grid = np.stack(np.meshgrid(*[np.arange(40.0)] * 3, indexing="ij"), -1)
  mask = ((grid - 19.6) ** 2).sum(-1) < 15**2
  area = float(sizes(mask, np.float32([1, 1, 1])).sum())
  assert 4 * np.pi * 15**2 < area < 1.1 * 4 * np.pi * 15**2


def test_other_than_two_or_three_axes_are_refused():
  with pytest.raises(InputError, match="masks of 2 or 3 axes"):
    surfels.surfel_sizes(jnp.ones(4, bool), spacing=(1.0,))
