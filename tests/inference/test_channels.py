"""Channels chosen by points: equal to the enlarged map, and differentiable where it is soft."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check, inference

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.random((4, 6, 5)).astype(np.float32)
LESION, SKIN = RANDOM.integers(0, 12, (7, 2)), RANDOM.integers(0, 12, (7, 2))


def test_reading_a_point_is_reading_the_map_enlarged_by_the_nearest_value():
  enlarged = FEATURES.repeat(3, 0).repeat(3, 1)  # of an image of 12 x 18 pixels
  found = inference.at_points(jnp.asarray(FEATURES), jnp.asarray(LESION), (12, 18))
  np.testing.assert_array_equal(found, enlarged[LESION[:, 0], LESION[:, 1]])


def test_scores_weigh_the_two_kinds_of_points():
  scores = inference.channel_scores(
    jnp.asarray(FEATURES), jnp.asarray(LESION), jnp.asarray(SKIN), size=(12, 18), alpha=0.3
  )
  enlarged = FEATURES.repeat(3, 0).repeat(3, 1)
  liked, disliked = (enlarged[p[:, 0], p[:, 1]].sum(0) for p in (LESION, SKIN))
  np.testing.assert_allclose(scores, 0.3 * liked - 0.7 * disliked, rtol=1e-5)


def test_the_soft_choice_has_the_hard_one_as_its_limit_and_the_slope_of_differences():
  scores = jnp.array([0.3, -1.0, 2.0, 0.1, 0.9])
  np.testing.assert_allclose(
    inference.softly_highest(scores, 0.4, 1e-3), inference.highest(scores, 0.4), atol=1e-6
  )
  np.testing.assert_array_equal(inference.highest(scores, 1.0), np.ones(5))
  with jax.enable_x64(True):
    features, lesion, skin = (jnp.asarray(x) for x in (FEATURES.astype(np.float64), LESION, SKIN))

    def kept(alpha):
      scores = inference.channel_scores(features, lesion, skin, size=(12, 18), alpha=alpha)
      return (inference.softly_highest(scores, 0.4, 0.5) * jnp.arange(5)).sum()

    slope = (kept(0.3 + 1e-6) - kept(0.3 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(kept)(0.3), slope, rtol=1e-6)


@pytest.mark.parametrize("by", ["activity", "slope"])
def test_the_whole_method_is_its_parts_in_turn(by):
  weights = jnp.asarray(RANDOM.normal(size=(5, 3)), jnp.float32)
  head = lambda params, x, image: x.mean((0, 1)) @ params  # noqa: E731
  image = jnp.zeros((12, 18, 1))
  found = inference.select_channels(
    lambda params, image: jnp.asarray(FEATURES), head, weights, image, jnp.asarray(LESION),
    jnp.asarray(SKIN), alpha=0.4, share=0.4, by=by,
  )  # fmt: skip
  ranked = FEATURES
  if by == "slope":  # of log softmax: w_y - sum_k p_k w_k, by the mean over 4 x 6 places
    logits = FEATURES.mean((0, 1)) @ np.asarray(weights)
    p = np.exp(logits) / np.exp(logits).sum()
    slope = (np.asarray(weights)[:, p.argmax()] - np.asarray(weights) @ p) / 24
    ranked = np.maximum(FEATURES * slope, 0)
  enlarged = ranked.repeat(3, 0).repeat(3, 1)
  liked, disliked = (enlarged[q[:, 0], q[:, 1]].sum(0) for q in (LESION, SKIN))
  best = np.argsort(-(0.4 * liked - 0.6 * disliked))[:2]
  mask = np.isin(np.arange(5), best)
  np.testing.assert_allclose(
    found, (FEATURES * mask).mean((0, 1)) @ np.asarray(weights), rtol=1e-5, atol=1e-6
  )


def test_a_kind_without_points_is_refused():
  none = jnp.zeros((0, 2), jnp.int32)
  with pytest.raises(check.InputError, match="negative points, one or more"):
    inference.channel_scores(jnp.asarray(FEATURES), jnp.asarray(LESION), none, size=(12, 18))
  with pytest.raises(check.InputError, match="share in"):
    inference.highest(jnp.zeros(3), 0.0)
