"""Sliding windows and symmetries: what comes back when the network says nothing new."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from medjax.check import InputError
from medjax.inference import IDENTITY, both, mirrorings, rotations, slide, window


def identity(batch):
  return jax.numpy.asarray(batch)


def image(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
  ("shape", "patch"), [((8, 6), (8, 6)), ((5, 6), (8, 6)), ((5, 3, 4), (6,) * 3)]
)
def test_one_window_gives_the_very_values_of_the_network(shape, patch):
  x = image(*shape, 2)
  np.testing.assert_array_equal(slide(identity, x, patch), x)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_identity_network_survives_blending(overlap, batch_size):
  x = image(19, 7, 11, 2)
  out = slide(identity, x, (8, 8, 5), overlap=overlap, batch_size=batch_size)
  np.testing.assert_allclose(out, x, rtol=1e-5, atol=1e-6)


def test_blending_is_the_gaussian_mean_computed_apart():
  """A network that says which window it saw: compared with a float64 loop over voxels."""
  seen = []

  def numbering(batch):
    seen.append(len(seen))
    return jax.numpy.full((*batch.shape[:-1], 1), float(seen[-1]))

  out = slide(numbering, image(21, 1), (8,), overlap=0.5)[:, 0]
  corners = window.starts(21, 8, 0.5)
  assert corners == [0, 3, 6, 10, 13]
  weight = np.exp(-0.5 * ((np.arange(8) - 3.5) / 1.0) ** 2)
  weight = np.maximum(weight / weight.max(), 1e-3)
  for voxel in range(21):
    inside = [(n, weight[voxel - c]) for n, c in enumerate(corners) if 0 <= voxel - c < 8]
    want = sum(n * w for n, w in inside) / sum(w for _, w in inside)
    np.testing.assert_allclose(out[voxel], want, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 23, 64])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.95])
def test_windows_cover_the_axis_and_overlap_as_asked(size, overlap):
  corners = window.starts(size, 8, overlap)
  assert corners[0] == 0
  assert corners[-1] == max(size - 8, 0)
  steps = np.diff(corners)
  assert (steps <= max(np.ceil(8 * (1 - overlap)), 1)).all()


def test_weights_are_scipys_gaussian_of_a_point():
  point = np.zeros((17, 9))
  point[8, 4] = 1
  want = ndimage.gaussian_filter(point, (17 / 8, 9 / 8), truncate=10)
  got = window.gaussian((17, 9))
  near = got > 0.01
  np.testing.assert_allclose(got[near], (want / want.max())[near], rtol=2e-2)
  assert got.min() == np.float32(1e-3)


def test_bad_windows_are_refused():
  with pytest.raises(InputError, match="2 axes"):
    slide(identity, image(4, 4, 1), (4,))
  with pytest.raises(InputError, match="overlap"):
    slide(identity, image(4, 4, 1), (4, 4), overlap=1.0)


@pytest.mark.parametrize(
  ("moves", "count"),
  [
    (mirrorings(2), 4),
    (mirrorings(3), 8),
    (rotations((4, 4)), 4),
    (rotations((4, 4, 5)), 4),
    (rotations((4, 4, 4), (1.0, 1.0, 3.0)), 4),
    (both(mirrorings(2), rotations((4, 4))), 8),  # the dihedral group of the square
  ],
)
def test_symmetries_are_distinct_and_undone(moves, count):
  assert len(moves) == count
  assert moves[0] == IDENTITY
  x = np.arange(np.prod((4, 4, 5, 2))).reshape(4, 4, 5, 2)
  assert len({move.forward(x).tobytes() for move in moves}) == count
  for move in moves:
    np.testing.assert_array_equal(move.backward(move.forward(x)), x)
