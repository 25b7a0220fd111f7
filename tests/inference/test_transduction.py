"""Attention over known samples: nearest neighbours in the limit, and where the paper is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.inference import transduction

NUM, SIZE, CLASSES = 40, 8, 3


@pytest.fixture(scope="module")
def problem():
  random = np.random.default_rng(0)
  known, new = (random.normal(size=(n, SIZE)) for n in (NUM, 25))
  known, new = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (known, new))
  labels = random.integers(0, CLASSES, NUM)
  nearest = labels[np.argmax(new @ known.T, axis=1)]
  with jax.enable_x64(True):
    yield jnp.asarray(known), jnp.asarray(new), labels, nearest


def _rows(known, labels, new):
  """Setup 2: [feature | label], the last row the new sample with a label of zeros."""
  values = jnp.eye(CLASSES)[labels]
  own = jnp.concatenate([new, jnp.zeros(CLASSES)])
  return jnp.concatenate([jnp.concatenate([known, values], 1), own[None]])


def test_a_small_scale_gives_the_nearest_neighbour_and_a_large_one_the_shares_of_classes(problem):
  known, new, labels, nearest = problem
  values = jnp.eye(CLASSES)[labels]
  sharp = transduction.kernel_attention(new, known, values, 1e-5)
  np.testing.assert_allclose(sharp, np.eye(CLASSES)[nearest], atol=1e-9)
  flat = transduction.kernel_attention(new, known, values, 1e9)
  shares = np.bincount(labels) / NUM
  np.testing.assert_allclose(flat, np.tile(shares, (len(new), 1)), atol=1e-8)


def test_self_attention_as_printed_forgets_every_label_and_the_masked_form_reads_the_nearest(
  problem,
):
  known, new, labels, nearest = problem
  layer = jax.jit(transduction.self_attention, static_argnames=("scale", "masked"))
  for sample, label in zip(new, nearest, strict=True):
    rows = _rows(known, labels, sample)
    printed = layer(rows, 1e-3, masked=False)[-1, SIZE:]
    np.testing.assert_allclose(printed, 0, atol=1e-6)
    masked = layer(rows, 1e-5)[-1, SIZE:]
    np.testing.assert_allclose(masked, np.eye(CLASSES)[label], atol=1e-6)


def test_the_printed_form_is_the_masked_one_times_what_the_sample_does_not_give_to_itself(problem):
  known, new, labels, _ = problem
  rows, scale = _rows(known, labels, new[0]), 0.2
  scores = np.exp(np.asarray(rows[-1] @ rows.T) / scale)
  own = scores[-1] / scores.sum()
  printed = transduction.self_attention(rows, scale, masked=False)[-1, SIZE:]
  masked = transduction.self_attention(rows, scale)[-1, SIZE:]
  np.testing.assert_allclose(printed, (1 - own) * masked, rtol=1e-12)


def test_leave_one_out_is_attention_to_all_other_samples(problem):
  known, _, labels, _ = problem
  values = transduction.balanced_values(labels, CLASSES)
  found = transduction.leave_one_out(known, values, 0.1)
  for i in (0, 17, NUM - 1):
    others = np.delete(np.arange(NUM), i)
    alone = transduction.kernel_attention(known[i : i + 1], known[others], values[others], 0.1)
    np.testing.assert_allclose(found[i], alone[0], rtol=1e-10)


def test_representatives_are_the_largest_sums_of_cosines_the_best_last():
  random = np.random.default_rng(1)
  features, labels = random.normal(size=(12, 4)), np.array([0] * 8 + [1] * 4)
  unit = features / np.linalg.norm(features, axis=1, keepdims=True)
  order = np.argsort(-(unit @ unit.T).sum(1))
  plain = transduction.representatives(features, labels, 5, balanced=False)
  np.testing.assert_array_equal(plain, order[:5][::-1])
  chosen = transduction.representatives(features, labels, 6)
  assert labels[chosen].tolist() == [1, 0, 1, 0, 1, 0]
  within = (unit[:8] @ unit[:8].T).sum(1)
  np.testing.assert_array_equal(chosen[1::2], np.argsort(-within)[:3][::-1])
  every = transduction.representatives(features, labels, 12)  # class 1 has no more than four
  assert np.bincount(labels[every]).tolist() == [6, 4] and len(set(every)) == 10
  # The scale of a feature vector does not count.
  scaled = transduction.representatives(features * random.uniform(1, 9, (12, 1)), labels, 6)
  np.testing.assert_array_equal(scaled, chosen)


def test_bad_input_is_named():
  with pytest.raises(InputError, match="scale above 0, got 0"):
    transduction.kernel_attention(jnp.eye(2), jnp.eye(2), jnp.eye(2), 0.0)
  with pytest.raises(InputError, match="two known samples"):
    transduction.leave_one_out(jnp.ones((1, 2)), jnp.ones((1, 2)), 0.1)
  with pytest.raises(InputError, match="1 to 3 samples to show, got 4"):
    transduction.representatives(np.eye(3), np.arange(3), 4)
