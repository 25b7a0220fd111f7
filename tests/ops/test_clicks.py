"""Connected components against SciPy's; clicks against the released protocol in NumPy."""

import functools

import jax
import numpy as np
import pytest
from scipy import ndimage

from medjax import check, nets, ops

SIDE = 17
components = {
  c: jax.jit(functools.partial(ops.connected_components, corners=c)) for c in (False, True)
}
clicked_next = jax.jit(ops.next_click)
largest = jax.jit(ops.largest_component)
draw = jax.jit(ops.random_click)
largest_next = jax.jit(functools.partial(ops.next_click, largest=True))
drawn_next = jax.jit(lambda found, truth, key: ops.next_click(found, truth, key=key))


def masks(share=0.55):
  random = np.random.default_rng(3)
  return [random.random((SIDE, SIDE)) < share for _ in range(4)]


def snake():
  """One component that winds through the picture: the longest way that a label can have."""
  mask = np.zeros((SIDE, SIDE), bool)
  mask[::2] = True
  mask[1::4, -1] = mask[3::4, 0] = True
  return mask


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mask", [*masks(), snake(), np.zeros((SIDE, SIDE), bool)])
def test_components_are_those_of_scipy(mask, corners):
  found = np.asarray(components[corners](mask))
  wanted, number = ndimage.label(mask, ndimage.generate_binary_structure(2, 2 if corners else 1))
  places = np.where(mask, np.arange(mask.size).reshape(mask.shape), mask.size)
  lowest = ndimage.minimum(places, wanted, np.arange(number + 1))
  np.testing.assert_array_equal(found, np.where(mask, np.asarray(lowest)[wanted] + 1, 0))


def test_the_largest_component_is_the_one_of_most_pixels():
  mask = masks(0.45)[0]
  wanted, _ = ndimage.label(mask)
  sizes = np.bincount(wanted.ravel())
  found = np.asarray(largest(mask))
  np.testing.assert_array_equal(found, wanted == 1 + np.argmax(sizes[1:]))
  assert not np.any(largest(np.zeros((SIDE, SIDE), bool)))


def deepest(found, truth, clicked):
  """The released Clicker: padded distance maps of both kinds, without what was clicked."""
  maps = []
  for error in (truth & ~found, found & ~truth):
    maps.append(ndimage.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1] * ~clicked)
  return maps


def test_the_click_of_a_test_is_the_deepest_error():
  random = np.random.default_rng(5)
  for found, truth in zip(masks(0.6), masks(0.6)[::-1], strict=True):
    truth, found = ndimage.binary_opening(truth), ndimage.binary_dilation(found & truth)
    clicked = random.random(found.shape) < 0.1
    missed, invented = deepest(found, truth, clicked)
    place, label = clicked_next(found, truth, clicked=clicked)
    x, y = np.asarray(place, int)
    own = missed if label == 1 else invented
    assert own[y, x] == max(missed.max(), invented.max()) > 0
    assert (truth if label == 1 else found)[y, x] and found[y, x] != truth[y, x]


def test_a_click_of_a_training_is_more_than_half_as_deep_and_reaches_all_such_pixels():
  truth = np.zeros((SIDE, SIDE), bool)
  truth[2:9, 3:12] = True
  found = np.zeros((SIDE, SIDE), bool)
  found[12:16, 2:6] = True  # invented, and less deep
  missed, _ = deepest(found, truth, np.zeros_like(truth))
  wanted = set(zip(*np.nonzero(missed > missed.max() / 2), strict=True))
  keys = jax.random.split(jax.random.key(0), 400)
  places, labels = jax.vmap(functools.partial(drawn_next, found, truth))(keys)
  assert set(np.asarray(labels).tolist()) == {1}
  assert {(int(y), int(x)) for x, y in np.asarray(places)} == wanted


def test_the_largest_region_may_be_shallower_than_a_small_round_one():
  truth = np.zeros((SIDE, SIDE), bool)
  truth[1:3, :] = True  # 34 pixels, 1 deep
  truth[8:13, 5:10] = True  # 25 pixels, 3 deep
  empty = np.zeros_like(truth)
  assert np.asarray(clicked_next(empty, truth, clicked=empty).place).tolist() == [7, 10]
  place, label = largest_next(empty, truth)
  assert place[1] in (1, 2) and label == 1


def test_nothing_is_clicked_where_nothing_is_wrong_or_nothing_is_there():
  empty = np.zeros((SIDE, SIDE), bool)
  key = jax.random.key(1)
  clicks = [
    clicked_next(empty, empty, clicked=empty), clicked_next(snake(), snake(), clicked=empty),
    drawn_next(empty, empty, key), largest_next(empty, empty), draw(empty, key),
  ]  # fmt: skip
  for place, label in clicks:
    assert label == ops.NO_CLICK == nets.IGNORED and not np.any(place)


def test_a_random_click_reaches_every_pixel_of_the_object_alone():
  truth = np.zeros((5, 4), bool)
  truth[1:3, 2:4] = True
  keys = jax.random.split(jax.random.key(0), 100)
  places, labels = jax.jit(jax.vmap(functools.partial(ops.random_click, truth)))(keys)
  assert {(int(x), int(y)) for x, y in np.asarray(places)} == {(2, 1), (3, 1), (2, 2), (3, 2)}
  assert np.all(labels == 1)


def test_masks_of_two_shapes_are_refused():
  with pytest.raises(check.InputError, match="found and truth of one shape"):
    ops.next_click(np.zeros((3, 4), bool), np.zeros((4, 3), bool))
