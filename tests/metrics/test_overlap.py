"""Dice and Jaccard against set arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np

from medjax import metrics
from medjax.types import IGNORE


def test_dice_and_jaccard_equal_set_arithmetic_in_2d_and_3d():
  random = np.random.default_rng(0)
  for shape in [(9, 7), (5, 4, 6)]:
    prediction = random.integers(0, 4, shape).astype(np.int32)
    target = random.integers(0, 4, shape).astype(np.int32)
    dice = jax.jit(lambda p, t: metrics.dice(p, t, num_classes=4))(prediction, target)
    jaccard = metrics.jaccard(jnp.asarray(prediction), jnp.asarray(target), num_classes=4)
    for k in (1, 2, 3):
      p, t = set(np.flatnonzero(prediction == k)), set(np.flatnonzero(target == k))
      np.testing.assert_allclose(dice[k - 1], 2 * len(p & t) / (len(p) + len(t)), rtol=1e-6)
      np.testing.assert_allclose(jaccard[k - 1], len(p & t) / len(p | t), rtol=1e-6)


def test_dice_and_jaccard_determine_each_other():
  random = np.random.default_rng(1)
  a, b = (jnp.asarray(random.integers(0, 3, (8, 8)).astype(np.int32)) for _ in range(2))
  j = metrics.jaccard(a, b, num_classes=3, include_background=True)
  d = metrics.dice(a, b, num_classes=3, include_background=True)
  np.testing.assert_allclose(d, 2 * j / (1 + j), rtol=1e-6)


def test_absent_from_both_is_nan_and_from_one_is_zero():
  target = jnp.zeros((4, 4), jnp.int32).at[0, 0].set(1)
  scores = metrics.dice(jnp.zeros((4, 4), jnp.int32), target, num_classes=3, spacing=(1.0, 1.0))
  assert scores[0] == 0.0
  assert np.isnan(scores[1])


def test_ignored_voxels_do_not_count():
  target = jnp.array([[1, 1, IGNORE, IGNORE]], jnp.int32)
  prediction = jnp.array([[1, 1, 1, 0]], jnp.int32)
  assert metrics.dice(prediction, target, num_classes=2)[0] == 1.0
