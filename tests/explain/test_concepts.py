"""Greedy choices against brute force, concept scores against NumPy and their limits."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import explain
from medjax.check import InputError

RANDOM = np.random.default_rng(0)


def value(chosen, values, similarity, coverage):
  return values[list(chosen)].sum() + coverage * similarity[:, list(chosen)].max(1).sum()


@functools.cache
def chosen_by_greed():
  """Ten lists of 9 items, one program."""
  run = jax.vmap(lambda m, phi, b: explain.greedy_choice(m, phi, 3, coverage=b))
  return jax.jit(run)


def problems():
  values = RANDOM.uniform(0, 1, (10, 9)) * np.linspace(0, 3, 10)[:, None]
  vectors = np.abs(RANDOM.normal(size=(10, 9, 3)))
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  return values, vectors @ vectors.transpose(0, 2, 1), np.linspace(0.2, 2, 10)


def test_greed_reaches_its_share_of_the_best_choice_and_its_gains_are_its_value():
  values, similarity, coverage = problems()
  found = chosen_by_greed()(*(jnp.asarray(x) for x in (values, similarity, coverage)))
  shares = []
  for i in range(10):
    best = max(
      value(s, values[i], similarity[i], coverage[i]) for s in itertools.combinations(range(9), 3)
    )
    items = np.asarray(found.items[i])
    assert len(set(items.tolist())) == 3
    own = value(items, values[i], similarity[i], coverage[i])
    shares.append(own / best)
    np.testing.assert_allclose(found.gains[i].sum(), own, rtol=1e-5)
    assert (np.diff(found.gains[i]) <= 1e-5).all()  # submodular: each adds less
    # each step is the best one by NumPy
    so_far = []
    for item in items:
      gain = [value([*so_far, c], values[i], similarity[i], coverage[i]) for c in range(9)]
      open_ = [c for c in range(9) if c not in so_far]
      assert item == max(open_, key=lambda c: gain[c])  # noqa: B023
      so_far.append(int(item))
  assert min(shares) >= 1 - 1 / math.e and max(shares) <= 1 + 1e-6


def test_a_constant_on_all_values_changes_no_choice_and_padding_is_never_chosen():
  values, similarity, coverage = (jnp.asarray(x[0], jnp.float32) for x in problems())
  plain = explain.greedy_choice(values, similarity, 4, coverage=coverage)
  moved = explain.greedy_choice(values - 5, similarity, 4, coverage=coverage)
  np.testing.assert_array_equal(plain.items, moved.items)
  padded = explain.greedy_choice(
    jnp.pad(values, (0, 2), constant_values=9.0),
    jnp.pad(similarity, (0, 2)),
    4,
    coverage=coverage,
    allowed=jnp.arange(11) < 9,
  )
  np.testing.assert_array_equal(plain.items, padded.items)
  with pytest.raises(InputError, match="num_chosen"):
    explain.greedy_choice(values, similarity, 10)


def test_scores_and_visual_activation_do_not_know_the_length_of_a_vector():
  images, text = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=(5, 4))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
  scores = explain.concept_scores(jnp.asarray(images), jnp.asarray(text))
  np.testing.assert_allclose(scores, unit(images) @ unit(text).T, atol=1e-6)
  longer = explain.concept_scores(
    jnp.asarray(7 * images), jnp.asarray(text * np.arange(1, 6)[:, None])
  )
  np.testing.assert_allclose(explain.visual_activation(longer), scores.std(0), atol=1e-6)
  with pytest.raises(InputError, match="one joint embedding"):
    explain.concept_scores(jnp.ones((2, 3)), jnp.ones((2, 4)))


def test_discriminability_is_the_divergence_from_the_even_distribution():
  scores, labels = RANDOM.uniform(0.1, 1, (8, 3)), np.array([0, 1, 2, 0, 1, 2, 0, 0])
  means = np.stack([scores[labels == k].mean(0) for k in range(3)])
  shares = means / means.sum(0)
  want = (shares * np.log(shares * 3)).sum(0)  # Kullback and Leibler against 1/3
  got = explain.discriminability(jnp.asarray(scores), jnp.asarray(labels), 3)
  np.testing.assert_allclose(got, want, atol=1e-6)
  with pytest.raises(InputError, match="cosines of 0 or more"):
    explain.check_scores(jnp.array([0.1, -0.2]))
  with pytest.raises(InputError, match="nan"):
    explain.check_scores(jnp.array([0.1, jnp.nan]))


def test_influences_are_the_parts_of_logits_on_either_axis():
  scores, weights = (
    jnp.asarray(RANDOM.uniform(size=(4, 6))),
    jnp.asarray(RANDOM.normal(size=(3, 6))),
  )
  for axis in (0, 1):
    e = np.exp(np.asarray(weights))
    shares = e / e.sum(axis, keepdims=True)
    logits = explain.concept_logits(scores, weights, axis=axis)
    np.testing.assert_allclose(logits, 100 * np.asarray(scores) @ shares.T, rtol=1e-5)
    parts = explain.concept_influence(scores, weights, axis=axis)
    np.testing.assert_allclose(100 * parts.sum(-1), logits, rtol=1e-5)
