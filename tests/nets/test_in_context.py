"""A network that reads known samples: who sees whom, and that it learns Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import data, methods, nets
from medjax.check import InputError
from medjax.methods import in_context


@pytest.fixture(scope="module")
def problem():
  random = np.random.default_rng(0)
  features = random.normal(size=(9, 3)).astype(np.float32)
  return features, np.array([0, 1, 1, 0, 1, 0, -1, -1, -1], np.int32)


def _network(problem, **options):
  net = nets.InContext(num_classes=2, width=8, num_layers=1, num_heads=2, **options)
  return jax.jit(net.apply), jax.jit(net.init)(jax.random.key(0), *problem)


@pytest.mark.parametrize("ordered", [False, True])
def test_new_samples_do_not_see_each_other_and_their_company_does_not_count(problem, ordered):
  features, labels = problem
  apply, params = _network(problem, ordered=ordered)
  together = apply(params, features, labels)
  other = features.copy()
  other[7:] += 10
  np.testing.assert_allclose(apply(params, other, labels)[6], together[6], atol=1e-6)
  reader = in_context.ContextReader(apply, params, chunk=2)
  alone = reader(features[:6], labels[:6], features[6:])
  np.testing.assert_allclose(alone, together[6:], atol=1e-5)
  # The known samples do count.
  other = features.copy()
  other[2] += 10
  assert np.abs(apply(params, other, labels)[6] - together[6]).max() > 1e-4


def test_a_set_has_no_order_and_a_sequence_has_one(problem):
  features, labels = problem
  order = np.array([3, 5, 0, 2, 1, 4, 6, 7, 8])
  for ordered in (False, True):
    apply, params = _network(problem, ordered=ordered)
    first, second = (apply(params, features[o], labels[o]) for o in (np.arange(9), order))
    moved = float(jnp.abs(first[6:] - second[6:]).max())
    assert (moved > 1e-3) if ordered else (moved < 1e-5)


def test_a_sequence_reads_forwards(problem):
  features, labels = problem
  apply, params = _network(problem, ordered=True)
  later = features.copy()
  later[5] += 10  # the last known sample
  first, second = (apply(params, x, labels) for x in (features, later))
  np.testing.assert_allclose(first[:5], second[:5], atol=1e-6)
  assert np.abs(first[6:] - second[6:]).max() > 1e-4


def test_hidden_rows_alone_are_judged(problem):
  features, labels = problem
  labels = np.abs(labels)
  seen = []

  def apply(params, features, given):
    seen.append(given)
    return jnp.zeros((9, 2)) + params

  loss_fn = in_context.reading_loss(apply, fewest=2)
  example = {"features": features, "labels": labels}
  # Equal logits cost log 2 a row, whichever are hidden.
  for seed in range(3):
    loss = loss_fn(jnp.zeros(()), example, jax.random.key(seed))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    shown = np.asarray(seen[-1]) >= 0
    assert 2 <= shown.sum() <= 7
    np.testing.assert_array_equal(shown, np.arange(9) < shown.sum())
    np.testing.assert_array_equal(np.asarray(seen[-1])[shown], labels[shown])


def test_problems_are_whole_and_standardised():
  drawn = data.context_problems(20, 50, 4, 3, seed=0)
  features, labels = drawn["features"], drawn["labels"]
  means, stds = features.mean(1), features.std(1)
  is_there = stds > 0
  np.testing.assert_allclose(means[is_there], 0, atol=1e-5)
  np.testing.assert_allclose(stds[is_there], 1, atol=1e-2)
  assert is_there.sum(1).min() >= 2 and not is_there.all()
  assert labels.min() == 0 and labels.max() == 2
  again = data.context_problems(20, 50, 4, 3, seed=0)
  np.testing.assert_array_equal(again["features"], features)


def test_bad_input_is_named(problem):
  with pytest.raises(InputError, match="num_heads and 2 divide, got width 9"):
    nets.InContext(2, width=9, num_heads=2)
  with pytest.raises(InputError, match="2 features and 2 classes or more, got 1 and 2"):
    data.context_problems(1, 9, 1, 2, seed=0)
  apply, params = _network(problem)
  with pytest.raises(InputError, match="some"):
    in_context.ContextReader(apply, params)(np.zeros((0, 3)), np.zeros(0, int), np.zeros((2, 3)))


@pytest.mark.slow
def test_a_trained_network_is_close_to_the_rule_of_bayes_where_that_is_known():
  """Two normal clouds at +-1 with equal shares: the posterior is sigmoid(2 sum of features)."""
  net = nets.InContext(num_classes=2, width=32, num_layers=2, num_heads=2)
  random = np.random.default_rng(0)
  labels = random.integers(0, 2, (4000, 64)).astype(np.int32)
  sign = random.choice([-1, 1], (4000, 1))  # which cloud is class 1 has to be read
  centre = sign * (2 * labels - 1)
  features = (centre[..., None] + random.normal(size=(4000, 64, 2))).astype(np.float32)
  params = net.init(jax.random.key(0), features[0], labels[0])
  step = methods.supervised(in_context.reading_loss(net.apply), optax.adam(3e-3))
  from medjax import train  # noqa: PLC0415

  store = {"features": features[:3900], "labels": labels[:3900]}
  fit = train.fit(step, data.batches(store, 16, 0), params, key=jax.random.key(1), num_steps=1500)
  reader = in_context.ContextReader(net.apply, fit.state.params)
  gaps = []
  for i in range(3900, 4000):
    logits = reader(features[i, :40], labels[i, :40], features[i, 40:])
    right = 1 / (1 + np.exp(-2 * sign[i] * features[i, 40:].sum(-1)))
    found = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    gaps.append(np.abs(found - right).mean())
  assert np.mean(gaps) < 0.05
