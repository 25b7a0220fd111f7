"""Losses against closed forms and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import axes, check, losses
from medjax.types import IGNORE


def numpy_dice(logits, label, smooth, squares, first):
  exp = np.exp(logits - logits.max(-1, keepdims=True))
  p = exp / exp.sum(-1, keepdims=True)
  r = np.eye(logits.shape[-1])[label]
  axes = tuple(range(label.ndim))
  power = 2 if squares else 1
  score = (2 * (p * r).sum(axes) + smooth) / ((p**power).sum(axes) + (r**power).sum(axes) + smooth)
  return 1 - score[first:].mean()


@pytest.fixture
def case():
  random = np.random.default_rng(0)
  return (
    random.normal(size=(5, 6, 3)).astype(np.float32),
    random.integers(0, 3, (5, 6)).astype(np.int32),
  )


@pytest.mark.parametrize("smooth", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("denominator", ["sum", "squares"])
@pytest.mark.parametrize("include_background", [True, False])
def test_soft_dice_equals_numpy(case, smooth, denominator, include_background):
  logits, label = case
  ours = losses.soft_dice(
    jnp.asarray(logits),
    jnp.asarray(label),
    smooth=smooth,
    denominator=denominator,
    include_background=include_background,
  )
  want = numpy_dice(logits, label, smooth, denominator == "squares", int(not include_background))
  np.testing.assert_allclose(ours, want, rtol=1e-5)


@pytest.mark.parametrize("denominator", ["sum", "squares"])
def test_soft_dice_of_a_certain_right_answer_is_zero(case, denominator):
  _, label = case
  logits = 200.0 * jax.nn.one_hot(jnp.asarray(label), 3)
  loss = losses.soft_dice(logits, jnp.asarray(label), denominator=denominator)
  np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_a_class_absent_from_label_and_prediction_costs_nothing():
  label = jnp.zeros((4, 4), jnp.int32)
  logits = jnp.stack([jnp.full((4, 4), 300.0), jnp.zeros((4, 4))], -1)
  assert float(losses.soft_dice(logits, label, smooth=0.0)) == 0.0


def test_batch_coupling_equals_dice_of_the_concatenated_batch(case):
  logits, label = case
  random = np.random.default_rng(1)
  pair = np.stack([logits, random.normal(size=logits.shape).astype(np.float32)])
  labels = np.stack([label, random.integers(0, 3, label.shape).astype(np.int32)])
  coupled = functools.partial(losses.soft_dice, couple_batch=True)
  batched = jax.jit(jax.vmap(coupled, axis_name=axes.BATCH_AXIS))
  ours = batched(jnp.asarray(pair), jnp.asarray(labels))
  whole = losses.soft_dice(jnp.asarray(pair.reshape(10, 6, 3)), jnp.asarray(labels.reshape(10, 6)))
  np.testing.assert_allclose(ours, jnp.full(2, whole), rtol=1e-6)


def test_a_coupled_loss_is_refused_outside_a_batch(case):
  with pytest.raises(check.InputError, match="axis_name"):
    losses.soft_dice(jnp.asarray(case[0]), jnp.asarray(case[1]), couple_batch=True)


def test_cross_entropy_equals_numpy_and_uniform_logits_give_log_k(case):
  logits, label = case
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  want = -np.take_along_axis(log_p, label[..., None], -1).mean()
  np.testing.assert_allclose(
    losses.cross_entropy(jnp.asarray(logits), jnp.asarray(label)), want, rtol=1e-5
  )
  uniform = losses.cross_entropy(jnp.zeros((5, 6, 3)), jnp.asarray(label))
  np.testing.assert_allclose(uniform, np.log(3), rtol=1e-6)
  one_image = losses.cross_entropy(jnp.zeros(3), jnp.asarray(1))
  np.testing.assert_allclose(one_image, np.log(3), rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.soft_dice, losses.cross_entropy])
def test_ignored_voxels_change_neither_value_nor_gradient(case, loss):
  logits, label = case
  known = jnp.asarray(label[:3])
  padded = jnp.asarray(np.where(np.arange(5)[:, None] < 3, label, IGNORE).astype(np.int32))
  both = jax.jit(jax.value_and_grad(loss))
  value, gradient = both(jnp.asarray(logits), padded)
  want, want_gradient = both(jnp.asarray(logits[:3]), known)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  np.testing.assert_allclose(gradient[:3], want_gradient, atol=1e-7)
  assert not np.any(gradient[3:])


def test_weighted_sum_is_the_sum(case):
  logits, label = map(jnp.asarray, case)
  both = losses.weighted_sum((0.4, losses.soft_dice), (0.6, losses.cross_entropy))
  want = 0.4 * losses.soft_dice(logits, label) + 0.6 * losses.cross_entropy(logits, label)
  np.testing.assert_allclose(both(logits, label), want, rtol=1e-6)


def test_deep_supervision_is_the_weighted_mean_over_strided_labels():
  random = np.random.default_rng(3)
  label = jnp.asarray(random.integers(0, 3, (9, 6)))
  logits = tuple(
    jnp.asarray(random.normal(size=(*shape, 3)), jnp.float32) for shape in [(9, 6), (5, 3), (3, 2)]
  )
  one = jax.jit(losses.cross_entropy)
  parts = [one(logits[level], label[:: 2**level, :: 2**level]) for level in range(3)]
  got = jax.jit(losses.deep_supervision(losses.cross_entropy))(logits, label)
  np.testing.assert_allclose(got, (4 * parts[0] + 2 * parts[1] + parts[2]) / 7, rtol=1e-6)
  finest = losses.deep_supervision(losses.cross_entropy, (1.0, 0.0, 0.0))
  only_finest = jax.jit(finest)(logits, label)
  np.testing.assert_allclose(only_finest, parts[0], rtol=1e-6)
  alone = jax.jit(losses.deep_supervision(losses.cross_entropy))(logits[0], label)
  np.testing.assert_array_equal(alone, parts[0])


def test_binary_cross_entropy_is_the_mean_log_loss_of_the_known_findings():
  logits, label = jnp.array([0.3, -2.0, 1.5, 40.0]), jnp.array([1, 0, -1, 0])
  p = 1 / (1 + np.exp(-np.array([0.3, -2.0])))
  expected = (-np.log(p[0]) - np.log(1 - p[1]) + 40.0) / 3  # softplus(40) = 40 + 4e-18
  np.testing.assert_allclose(losses.binary_cross_entropy(logits, label), expected, rtol=1e-6)
  assert losses.binary_cross_entropy(logits, jnp.full(4, -1)) == 0


def test_tversky_is_soft_dice_at_equal_weights_and_weighs_its_errors(case):
  logits, label = (jnp.asarray(x) for x in case)
  even = losses.tversky(logits, label, false_positives=0.5, false_negatives=0.5, smooth=2.0)
  np.testing.assert_allclose(even, losses.soft_dice(logits, label, smooth=4.0), rtol=1e-5)
  p = np.asarray(jax.nn.softmax(logits))
  r = np.eye(3)[case[1]]
  hits, invented, missed = (x.sum((0, 1)) for x in (p * r, p * (1 - r), (1 - p) * r))
  want = 1 - ((hits + 1) / (hits + 0.2 * invented + 0.8 * missed + 1))[1:].mean()
  got = losses.tversky(
    logits,
    label,
    false_positives=0.2,
    false_negatives=0.8,
    smooth=1.0,
    include_background=False,
  )
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_focal_is_weighted_cross_entropy_and_its_gradient_is_finite_where_all_is_right(case):
  logits, label = (jnp.asarray(x) for x in case)
  zero = losses.focal(logits, label, gamma=0.0)
  np.testing.assert_allclose(zero, losses.cross_entropy(logits, label), rtol=1e-5)
  weights = (0.5, 1.0, 2.0)

  def naive(logits):
    p = jnp.take_along_axis(jax.nn.softmax(logits), label[..., None], -1)[..., 0]
    return (-jnp.asarray(weights)[label] * (1 - p) ** 1.5 * jnp.log(p)).mean()

  def ours(logits):
    return losses.focal(logits, label, gamma=1.5, class_weights=weights)

  for one, other in zip(
    jax.jit(jax.value_and_grad(ours))(logits),
    jax.jit(jax.value_and_grad(naive))(logits),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
  certain = 200.0 * jax.nn.one_hot(label, 3)
  steep = functools.partial(losses.focal, gamma=0.5)
  value, gradient = jax.jit(jax.value_and_grad(steep))(certain, label)
  assert value == 0 and np.isfinite(gradient).all()
