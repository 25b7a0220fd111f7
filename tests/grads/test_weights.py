"""Weights of examples: LOW's quadratic programme solved exactly, and sums under padding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods
from medjax.grads import weights

KEY = jax.random.key(0)


def statistics(norms, is_there=None, **more):
  size = len(norms)
  found = dict.fromkeys(("losses", "entropies", "cosines"), jnp.full(size, jnp.nan))
  there = jnp.ones(size, bool) if is_there is None else jnp.asarray(is_there)
  return weights.Statistics(**{**found, "norms": jnp.asarray(norms), "is_there": there, **more})


def exactly(norms, strength):
  """Of all supports the one whose stationary point is feasible and best, in float64."""
  number, best = len(norms), (np.inf, None)
  gains = norms**2 + strength
  for count in range(1, number + 1):
    for own in map(list, itertools.combinations(range(number), count)):
      # 2 strength w_i - gain_i = nu on the support, with sum w = n
      nu = (2 * strength * number - gains[own].sum()) / count
      w = np.zeros(number)
      w[own] = (gains[own] + nu) / (2 * strength)
      value = strength * w @ w - gains @ w
      if (w >= 0).all() and value < best[0]:
        best = value, w
  return best[1]


def test_low_solves_its_quadratic_programme_to_the_last_digits():
  with jax.enable_x64(True):
    for seed in range(5):
      norms = np.random.default_rng(seed).uniform(0, 1.4, 7)
      for strength in (0.03, 0.1, 1.0):
        got = weights.low(strength)(statistics(norms))
        np.testing.assert_allclose(got, exactly(norms, strength), atol=1e-12)


@pytest.mark.parametrize("name", ["low", "focal", "self_paced", "low_entropy", "aligned"])
def test_weights_sum_to_the_number_of_examples_and_padding_changes_nothing(name):
  weigh = {
    "low": weights.low(),
    "focal": weights.focal(),
    "self_paced": weights.self_paced(0.8),
    "low_entropy": weights.low_entropy(0.4),
    "aligned": weights.aligned(0.3),
  }[name]
  random = np.random.default_rng(0)
  parts = {n: random.uniform(0, 1, 6).astype(np.float32) for n in weights.Statistics._fields[:4]}

  def of(count, **lost):
    own = {n: jnp.asarray(v[:count]) for n, v in parts.items()}
    return weigh(weights.Statistics(is_there=jnp.arange(count) < 4, **own | lost))

  four = weigh(weights.Statistics(*(jnp.asarray(v[:4]) for v in parts.values()), jnp.ones(4, bool)))
  np.testing.assert_allclose(of(6)[:4], four, rtol=1e-6)
  np.testing.assert_array_equal(of(6)[4:], 0)
  np.testing.assert_allclose(four.sum(), 4, rtol=1e-6)
  nobody = weigh(weights.Statistics(*(jnp.asarray(v) for v in parts.values()), jnp.zeros(6, bool)))
  np.testing.assert_array_equal(nobody, 0)


def test_statistics_of_gradients_are_those_of_rows():
  rows = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
  mean = rows.mean(0)
  found = weights.of_gramian(jnp.zeros(5), jnp.asarray(rows @ rows.T))
  length = np.linalg.norm(rows, axis=1)
  np.testing.assert_allclose(found.norms, length, rtol=1e-5)
  np.testing.assert_allclose(found.cosines, rows @ mean / length / np.linalg.norm(mean), rtol=1e-4)


def test_no_gradient_flows_through_weights():
  def total(scale):
    return weights.focal()(statistics(jnp.ones(2), losses=scale * jnp.array([1.0, 2.0]))).sum()

  assert float(jax.grad(total)(1.0)) == 0


def test_a_statistic_that_nobody_knows_gives_no_weights_in_silence():
  norms = jnp.ones(3)
  for weigh in (weights.aligned(), weights.low_entropy(0.5)):
    assert np.isnan(weigh(statistics(norms))).all()


@pytest.mark.parametrize("by", ["gradients", "logits"])
def test_examples_whose_gradient_points_elsewhere_are_left_out(by):
  """Linear regression: gradients are residuals times x. Logits know no cosine: training stops."""
  random = np.random.default_rng(4)
  x, y = random.normal(size=(6, 3)), random.normal(size=6)
  weight = np.array([1.0, 1, 1, 1, 1, 0])
  x[5] = np.nan  # padding
  w = np.array([0.2, -0.4, 0.1])
  step = methods.weighted(
    lambda w, e, key: w @ e["x"],
    lambda z, e: 0.5 * (z - e["y"]) ** 2,
    optax.sgd(1.0),
    weigh=weights.aligned(0.1),
    by=by,
  )
  batch = {"x": np.float32(x), "y": np.float32(y), "weight": np.float32(weight)}
  state = step.init(jnp.asarray(w, jnp.float32), KEY)
  state, metrics = jax.jit(step.update)(state, batch, KEY)
  if by == "logits":
    assert np.isnan(metrics["loss"])
    return
  rows = ((x @ w - y)[:, None] * x)[:5]
  mean = rows.mean(0)
  cosines = rows @ mean / np.linalg.norm(rows, axis=1) / np.linalg.norm(mean)
  kept = cosines > 0.1
  assert 0 < kept.sum() < 5
  np.testing.assert_allclose(metrics["unused"], (~kept).mean(), rtol=1e-6)
  np.testing.assert_allclose(w - np.asarray(state.params), rows[kept].mean(0), rtol=1e-4, atol=1e-6)
