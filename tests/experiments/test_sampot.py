"""SAMPOT's parts: level sets from too small to too large, Dice, and a circle that holds a climb."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import prompt_climbs, sampot
from medjax import nets


def test_level_sets_grow_around_the_mask():
  mask = np.zeros((64, 64), bool)
  mask[20:44, 24:40] = True
  sets = prompt_climbs.level_sets(mask, 5)
  assert all((small <= large).all() for small, large in zip(sets[:-1], sets[1:], strict=True))
  assert sets[0].any() and (sets[0] < mask).any() and not (sets[0] & ~mask).any()
  assert (sets[-1] >= mask).all() and sets[-1].sum() > mask.sum()
  dice = prompt_climbs.dice_of(np.where(sets, 1.0, -1.0), np.stack([mask] * 5))
  wanted = [2 * (s & mask).sum() / (s.sum() + mask.sum()) for s in sets]
  np.testing.assert_allclose(dice, wanted)


class _Task:
  """A score whose best click is known: the point (10, 50)."""

  config = sampot.Config(num_moves=25, move_rate=4.0)
  side, each = 64, staticmethod(jax.vmap)

  def worth(self, both, image, embedding, point):
    score = -jnp.square(point - jnp.array([10.0, 50.0])).sum()
    return score, -score, jnp.zeros((64, 64))


def test_a_climb_reaches_the_best_click_and_a_circle_keeps_it_near():
  store = {name: np.zeros((2, 3)) for name in ("mask", "image", "embedding")}
  start = np.full((2, 2), 31.5)
  free = prompt_climbs.climb(_Task(), None, store, start, 0, 200.0)
  np.testing.assert_allclose(free, [[10, 50]] * 2, atol=3)
  near = prompt_climbs.climb(_Task(), None, store, start, 0, 8.0)
  toward = np.array([10, 50]) - 31.5
  wanted = 31.5 + 8 * toward / np.linalg.norm(toward)  # the point of the circle nearest to the best
  np.testing.assert_allclose(near, [wanted] * 2, atol=1.5)


def test_corners_of_a_box_may_cross_and_boxes_begin_near_the_object():
  config = sampot.Config(weights="some file", start_fraction=0.1)
  task = prompt_climbs.Task(config, nets.mini_promptable(num_masks=1), 64, 1)
  crossed, plain = (task.asked(jnp.array(x)) for x in ([9.0, 2, 3, 8], [3.0, 2, 9, 8]))
  np.testing.assert_array_equal(crossed.coordinates, plain.coordinates)
  mask = np.zeros((1, 64, 64), bool)
  mask[0, 20:40, 5:30] = True
  found = prompt_climbs.starts(task, mask, 0)[0]
  assert (np.abs(found - [5, 20, 29, 39]) <= 6.4).all() and not (found == [5, 20, 29, 39]).any()
  middle = prompt_climbs.Task(sampot.Config(), nets.mini_promptable(num_masks=1), 64, 1)
  np.testing.assert_array_equal(prompt_climbs.starts(middle, mask, 0), [[31.5, 31.5]])


def test_correlation_is_that_of_numpy_and_0_for_a_constant():
  a, b = np.random.default_rng(0).normal(size=(2, 9))
  np.testing.assert_allclose(prompt_climbs.correlation(a, b), np.corrcoef(a, b)[0, 1])
  assert prompt_climbs.correlation(a, np.ones(9)) == 0
