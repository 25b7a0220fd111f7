"""Losses and metrics agree on what a label is: shape, integer type, range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import labels, losses, metrics
from medjax.check import InputError

RANDOM = np.random.default_rng(0)
LABEL = RANDOM.integers(0, 3, (6, 6))
LOGITS = jnp.asarray(RANDOM.normal(size=(6, 6, 3)), jnp.float32)
PREDICTION = np.asarray(LOGITS.argmax(-1))
PROBABILITY = jax.nn.softmax(LOGITS)


def brier(label):
  return metrics.calibration_sums(PROBABILITY, jnp.asarray(label)).brier


# Every function of a label alone, the others fixed.
MEASURES = {
  "soft_dice": lambda label: losses.soft_dice(LOGITS, jnp.asarray(label)),
  "cross_entropy": lambda label: losses.cross_entropy(LOGITS, jnp.asarray(label)),
  "dice": lambda label: metrics.dice(PREDICTION, label, num_classes=3),
  "jaccard": lambda label: metrics.jaccard(PREDICTION, label, num_classes=3),
  "assd": lambda label: metrics.assd(PREDICTION, label, num_classes=3, spacing=(1.0, 1.0)),
  "calibration_sums": brier,
  "auroc": lambda label: metrics.auroc(
    PROBABILITY.reshape(-1, 3), label.reshape(-1, *label.shape[2:])
  ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_no_label_is_refused_or_under_jit_not_a_number(name):
  measure, jitted = MEASURES[name], jax.jit(MEASURES[name])
  good = measure(LABEL)
  for dtype in (np.uint8, np.int8, np.uint16, np.int64):
    np.testing.assert_array_equal(measure(LABEL.astype(dtype)), good)
  with pytest.raises(InputError, match=r"36, 1|6, 6, 1.*drop the last axis of"):
    measure(LABEL[..., None])
  for value, dtype in ((255, np.uint8), (255, np.int32), (-100, np.int32), (3, np.int8)):
    bad = np.where(np.arange(36).reshape(6, 6) == 7, value, LABEL).astype(dtype)
    with pytest.raises(InputError, match=f"class ids 0..2 or -1 .*values .*{value}"):
      measure(bad)
    if value == 255:
      assert np.isnan(jitted(bad)).all()
  np.testing.assert_allclose(jitted(LABEL), good, rtol=1e-5)


def test_numbers_that_are_no_integers_are_refused():
  with pytest.raises(InputError, match="integers as label, got float32"):
    labels.of_classes("label", LABEL.astype(np.float32), 3)


def test_a_mask_of_0_and_255_is_class_255_in_any_type():
  mask = np.zeros((8, 8), np.uint8)
  mask[2:6, 2:6] = 255
  for dtype in (np.uint8, np.int32, np.uint32):
    found = metrics.dice(jnp.asarray(mask, dtype), jnp.asarray(mask, dtype), num_classes=256)
    assert found[254] == 1.0
    distance = metrics.hausdorff(
      jnp.asarray(mask, dtype), jnp.asarray(mask, dtype), num_classes=256, spacing=(1.0, 1.0)
    )
    assert distance[254] == 0.0
  background = jnp.stack([jnp.full((8, 8), 9.0), jnp.zeros((8, 8))], -1)
  with pytest.raises(InputError, match=r"class ids 0..1 or -1 as label, got values 0..255"):
    losses.cross_entropy(background, jnp.asarray(mask))


def test_findings_are_0_1_or_unknown():
  logits = jnp.array([1.0, -2.0, 3.0])
  for bad in ([[1], [0], [0]], [1, 0, 2], [1, 0, 255]):
    with pytest.raises(InputError, match=r"as label|of the shape of logits"):
      losses.binary_cross_entropy(logits, jnp.array(bad))
  assert np.isnan(jax.jit(losses.binary_cross_entropy)(logits, jnp.array([1, 0, 2])))


def test_a_bad_label_makes_the_gradient_no_number_under_jit():
  gradient = jax.jit(jax.grad(losses.soft_dice))
  assert np.isfinite(gradient(LOGITS, jnp.asarray(LABEL))).all()
  assert np.isnan(gradient(LOGITS, jnp.asarray(LABEL).at[0, 0].set(255))).all()


def test_numbers_beyond_int32_do_not_wrap():
  found = functools.partial(labels.of_classes, "label", num_classes=3)
  with pytest.raises(InputError, match="values 0..4294967295"):
    found(np.array([0, 2**32 - 1], np.uint32))  # -1 in int32
  with pytest.raises(InputError, match="values 0..4294967297"):
    found(np.array([0, 2**32 + 1], np.int64))  # 1 in int32
