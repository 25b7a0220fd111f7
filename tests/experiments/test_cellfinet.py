"""Bags that cannot be judged are refused; planted tiles and parts are what the text says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bags, nuclei, tile_networks
from medjax import explain
from medjax.check import InputError
from tests.data import folders

RANDOM = np.random.default_rng(0)
NAMES = [f"s{i}" for i in range(20)]
ARRAYS = {
  "feature": RANDOM.normal(size=(60, 3)), "bag": np.repeat(NAMES, 3), "name": NAMES,
  "label": np.arange(20) % 2, "feature_names": ["area", "hue", "peaks"],
}  # fmt: skip


def saved(path, **changes):
  np.savez(path, **{k: v for k, v in (ARRAYS | changes).items() if v is not None})
  return path


def test_a_file_gives_every_slide_its_tiles(tmp_path):
  order = RANDOM.permutation(60)[:50]  # in any order, slides of different size
  found = bags.from_file(
    saved(tmp_path / "own.npz", feature=ARRAYS["feature"][order], bag=ARRAYS["bag"][order])
  )
  for i, name in enumerate(NAMES):
    want = ARRAYS["feature"][order][ARRAYS["bag"][order] == name]
    np.testing.assert_allclose(found.feature[i][found.is_tile[i]], want, rtol=1e-6)
  assert (found.feature[~found.is_tile] == 0).all() and found.names[1] == "hue"
  moved = found.standardised()
  train = list(found.parts["train"])
  tiles = moved[train][found.is_tile[train]]
  np.testing.assert_allclose([tiles.mean(0), tiles.std(0)], [[0] * 3, [1] * 3], atol=1e-5)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"bag": np.repeat(["s1", *NAMES[1:]], 3)}, "a tile or more in every slide, got none of .'s0"),
    ({"bag": np.repeat(["s99", *NAMES[1:]], 3)}, "tiles of the slides, got one of .'s99'."),
    ({"label": None}, "the array label"),
    ({"label": np.arange(20) % 3}, "labels 0 and 1"),
    ({"name": ["s1", *NAMES[1:]]}, "each slide once"),
    ({"feature": np.full((60, 3), np.nan)}, "finite features"),
  ],
)  # fmt: skip
def test_what_is_no_bag_ends_in_one_line(tmp_path, changes, said):
  with pytest.raises(InputError, match=said):
    bags.from_file(saved(tmp_path / "own.npz", **changes))


def test_a_constant_feature_is_named(tmp_path):
  flat = ARRAYS["feature"].copy()
  flat[:, 1] = 2.0
  with pytest.raises(InputError, match="got hue the same in all"):
    bags.from_file(saved(tmp_path / "own.npz", feature=flat)).standardised()


def test_a_planted_label_shows_in_three_features_of_the_tiles_that_matter():
  held = bags.planted(600)
  own = held.is_informative
  for i, name in enumerate(held.names):
    means = [held.feature[held.label == k][own[held.label == k]][:, i].mean() for k in (0, 1)]
    rest = [held.feature[held.label == k][(held.is_tile & ~own)[held.label == k]][:, i].mean()
            for k in (0, 1)]  # fmt: skip
    assert abs(means[1] - means[0] - (name in held.planted)) < 0.2, name
    assert abs(rest[1] - rest[0]) < 0.2, name
    assert abs(means[0] - rest[0] - 2 * (i == 0)) < 0.2, name
  assert own.any(1).all() and not (own & ~held.is_tile).any()


def test_real_masses_stand_on_one_side_and_make_the_labels():
  pytest.importorskip("sklearn")
  held = bags.of_masses(30, most=20)
  rows = {part: held.feature[list(own)].reshape(-1, 30) for part, own in held.parts.items()}
  for part, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
    assert not {x.tobytes() for x in rows[part]} & {x.tobytes() for x in rows[other]}
  assert held.is_informative.sum(1).tolist() == np.where(held.label == 1, 6, 2).tolist()


def test_parts_of_a_slide_sum_to_its_log_odds_less_their_mean():
  """A linear head to 1e-5; the parts of a linear head are also its expected gradients."""
  feature = RANDOM.normal(size=(12, 5, 4)).astype(np.float32)
  is_tile = np.arange(5) < RANDOM.integers(1, 6, 12)[:, None]
  task = tile_networks.Task(6, is_linear=True, is_uniform=False)
  params = jax.jit(task.net.init)(jax.random.key(0), feature[0], is_tile[0])
  found = task.predict(params, feature, is_tile)
  odds = np.asarray(found.logits[:, 1] - found.logits[:, 0])
  values, gap = task.parts(params, found.bag[:4], found.bag[4:])
  np.testing.assert_allclose(values.sum(1), odds[:4] - odds[4:].mean(), atol=1e-5)
  assert np.abs(gap).max() < 1e-5
  other = tile_networks.Task(6, is_linear=True, is_uniform=False)
  other.is_linear = False  # the same network, explained as any other
  expected, _ = other.parts(params, found.bag[:4], found.bag[4:])
  np.testing.assert_allclose(values, expected, atol=1e-5)


def test_parts_of_nuclei_sum_to_those_of_their_tiles():
  """A tile's features are means of its nuclei; padding has no part."""
  cells, counts = RANDOM.normal(size=(3, 4, 2)), np.array([4, 1, 2])
  is_cell = np.arange(4) < counts[:, None]
  tiles = np.stack([own[:n].mean(0) for own, n in zip(cells, counts, strict=True)])
  attention, weights, mean = np.array([0.5, 0.2, 0.3]), np.array([2.0, -1.0]), np.array([0.1, 0.4])
  given = [jnp.asarray(x, jnp.float32) for x in (attention, weights, mean)]
  parts = explain.cell_parts(jnp.asarray(cells, jnp.float32), jnp.asarray(is_cell), *given)
  want = explain.linear_parts(jnp.asarray(tiles, jnp.float32), *given).tiles
  np.testing.assert_allclose(parts.sum(1), want, atol=1e-6)
  assert (np.asarray(parts)[~is_cell] == 0).all()


def test_nuclei_are_measured_from_their_masks():
  """A square of 5 x 5 pixels and a line of 1 x 8; colours are means within each."""
  pytest.importorskip("skimage")
  instances, image = np.zeros((16, 16), int), np.zeros((16, 16, 3))
  instances[1:6, 1:6], instances[10, 2:10] = 3, 7
  image[1:6, 1:6, 0], image[10, 2:6, 2] = 0.5, 1.0
  found = nuclei.measured(image, instances)
  np.testing.assert_allclose(found[:, 0], [25, 8])
  np.testing.assert_allclose(found[:, 1:3], [[0, 1], [1, 1]], atol=0.01)
  np.testing.assert_allclose(found[:, 3:6], [[0.5, 0, 0], [0, 0, 0.5]])
  np.testing.assert_allclose(found[:, 6:], [[3, 3], [10, 5.5]])


@pytest.mark.slow  # 52 crops
def test_the_label_shows_in_half_of_the_nuclei_of_real_tiles_and_nowhere_else():
  pytest.importorskip("skimage")
  held = nuclei.tiles_of(folders.real_set("monuseg_crops"))
  assert len(set(held.subjects)) == 13 and len(held.image) > 150
  before, marked, shown = np.moveaxis(held.cells, 1, 0)
  dark, rest = held.is_dark & held.is_cell, ~held.is_dark & held.is_cell
  np.testing.assert_allclose(shown[dark][:, 3], 0.7 * before[dark][:, 3], rtol=1e-4)
  np.testing.assert_array_equal(shown[rest], marked[rest])
  np.testing.assert_allclose(marked[..., 5], 0.8 * before[..., 5], rtol=1e-4)
  np.testing.assert_array_equal(marked[..., :5], before[..., :5])
