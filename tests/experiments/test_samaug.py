"""Prior maps of known masks, rules of tests, and the way from classes to numbered nuclei."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prior_maps, prior_sets
from experiments.prior_maps import Masks


def squares():
  """A dark square of 8 x 8 and a darker one of 6 x 6 on a bright ground without noise."""
  picture = np.full((32, 32, 3), 0.9)
  picture[4:12, 4:12], picture[20:26, 18:24] = 0.5, 0.1
  return picture


def test_priors_sum_stability_and_mark_both_sides_of_every_border():
  oracle = pytest.importorskip("skimage.segmentation")
  random = np.random.default_rng(0)
  masks = random.random((3, 9, 11)) < 0.5
  stability = np.array([0.5, 0.75, 1.0])
  prior = prior_maps.maps(Masks(masks, stability))
  np.testing.assert_allclose(prior[..., 0], np.einsum("n,nyx->yx", stability, masks), rtol=1e-6)
  thick = [oracle.find_boundaries(mask, mode="thick") for mask in masks]
  np.testing.assert_array_equal(prior[..., 1], np.any(thick, 0))


def test_thresholds_find_squares_and_trust_the_sharper_ones():
  found = prior_maps.of_thresholds(squares())
  for rows, columns in ((slice(4, 12), slice(4, 12)), (slice(20, 26), slice(18, 24))):
    truth = np.zeros((32, 32), bool)
    truth[rows, columns] = True
    overlap = [(m & truth).sum() / (m | truth).sum() for m in found.mask]
    assert max(overlap) > 0.8
  assert ((found.stability > 0.5) & (found.stability <= 1)).all()
  assert not len(prior_maps.of_thresholds(np.full((16, 16, 3), 0.5)).mask)  # nothing is there


def test_superpixels_cover_a_picture_and_none_is_more_than_certain():
  pytest.importorskip("skimage")
  found = prior_maps.of_superpixels(squares(), 16)
  np.testing.assert_array_equal(found.mask.sum(0), 1)
  assert ((found.stability > 0) & (found.stability <= 1 + 1e-12)).all()


def test_the_edge_control_marks_as_many_pixels_as_it_is_told():
  prior = prior_maps.edges(squares(), 0.125)
  assert prior[..., 1].mean() == 0.125 and prior[..., 0].max() == 1
  assert prior[..., 0][prior[..., 1] > 0].min() >= prior[..., 0][prior[..., 1] == 0].max()


def test_no_picture_keeps_its_own_prior():
  prior = np.arange(7.0)[:, None, None, None]
  for seed in range(5):
    found = prior_maps.of_others(prior, np.random.default_rng(seed))
    assert sorted(found.ravel()) == sorted(prior.ravel()) and (found != prior).all()


def test_priors_go_to_green_and_blue_or_beside_them():
  image, prior = np.full((1, 2, 2, 3), 0.25), np.ones((1, 2, 2, 2)) * [1.5, 1.0]
  added = prior_maps.joined(image, prior, "added")
  np.testing.assert_array_equal(added[0, 0, 0], [0.25, 1.75, 1.25])
  np.testing.assert_array_equal(prior_maps.joined(image, 0 * prior, "added"), image)
  assert prior_maps.joined(image, prior, "stacked").shape == (1, 2, 2, 5)


def test_the_surer_answer_is_chosen_for_the_whole_picture():
  sure, unsure = jnp.array([[[4.0, 0.0], [0.0, 4.0]]]), jnp.array([[[0.0, 0.1], [0.0, 5.0]]])
  answer = lambda rule, *both: prior_maps.answered(rule, *both).tolist()  # noqa: E731
  assert answer("entropy", sure, unsure) == answer("entropy", unsure, sure) == [[0, 1]]
  assert answer("augmented", sure, unsure) == [[1, 1]] == answer("plain", unsure, sure)
  assert answer("sum", sure, 50 * unsure) == [[1, 1]]


def test_nuclei_come_back_from_their_classes_even_where_they_touch():
  number = np.zeros((20, 20), np.int32)
  number[2:10, 2:9], number[2:10, 9:16], number[13:18, 4:12] = 4, 2, 7
  found = prior_sets.objects(prior_sets.classes(number))
  for name in (4, 2, 7):
    own = np.unique(found[number == name])
    assert len(own) == 1 and own[0] > 0
    np.testing.assert_array_equal(found == own[0], number == name)


def test_a_box_asks_for_the_shape_that_it_meets():
  own = prior_sets.shapes(12, 64, 0)
  for box, mask in zip(own["box"], own["mask"], strict=True):
    if mask.any():
      rows, columns = np.nonzero(mask)
      assert columns.min() <= box[2] and box[0] <= columns.max()
      assert rows.min() <= box[3] and box[1] <= rows.max()
  assert 0 < own["mask"].any((1, 2)).mean() < 1
  assert own["image"].min() == 0 and own["image"].max() == 1
