"""Losses of rare classes against their formulas in NumPy and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from medjax import losses
from medjax.check import InputError

COUNTS = np.array([50.0, 5.0, 1.0, 0.0])
LOGITS = np.random.default_rng(0).normal(size=4).astype(np.float32)


@pytest.mark.parametrize("tau", (0.0, 1.0, 0.5))
def test_shifted_logits_are_the_papers(tau):
  there = LOGITS[:3].astype(np.float64)  # the last class is nowhere: it leaves the softmax
  adjusted = scipy.special.log_softmax(there + tau * np.log(COUNTS[:3]))
  calibrated = scipy.special.log_softmax(there - tau * COUNTS[:3] ** -0.25)
  for loss, expected in (
    (losses.logit_adjusted, adjusted),
    (losses.margin_calibrated, calibrated),
  ):
    value = jax.jit(lambda z, n, loss=loss: loss(z, jnp.int32(2), n, tau=tau))(LOGITS, COUNTS)
    np.testing.assert_allclose(value, -expected[2], rtol=1e-5)
  slope = jax.grad(lambda z: losses.logit_adjusted(z, jnp.int32(2), COUNTS))(LOGITS)
  assert slope[3] == 0 and np.isfinite(slope).all()


def test_equal_counts_change_nothing():
  logits, label = jnp.asarray(LOGITS), jnp.int32(1)
  plain = losses.cross_entropy(logits, label)
  for loss in (losses.logit_adjusted, losses.margin_calibrated):
    np.testing.assert_allclose(loss(logits, label, np.full(4, 7.0)), plain, rtol=1e-6)


def test_the_best_logits_of_the_balanced_softmax_do_not_know_how_common_a_class_is():
  """At the shares of the counts the expected loss has no slope at equal logits."""
  counts = COUNTS[:3]

  def risk(z):
    each = jnp.stack([losses.logit_adjusted(z, jnp.int32(k), counts) for k in range(3)])
    return (each * counts).sum() / counts.sum()

  np.testing.assert_allclose(jax.grad(risk)(jnp.zeros(3)), 0, atol=1e-6)


@pytest.mark.parametrize(
  ("counts", "tau", "message"),
  (
    (np.array([1.0, -1.0, 2.0, 0.0]), 1.0, "counts of 0 or more"),
    (np.zeros(4), 1.0, "one above 0"),
    (np.ones(3), 1.0, "counts"),
    (np.ones(4), -1.0, "tau >= 0"),
  ),
)
def test_bad_input_is_one_clear_line(counts, tau, message):
  with pytest.raises(InputError, match=message):
    losses.logit_adjusted(jnp.asarray(LOGITS), jnp.int32(1), counts, tau=tau)
