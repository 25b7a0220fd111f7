"""Fine-tuning near the start and of a part."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods
from medjax.check import InputError

KEY = jax.random.key(0)
START = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
BATCH = {"x": jnp.array([[0.3, 0.1], [-0.2, 0.7]])}


def loss(params, example, key):
  del key
  return ((params["a"] - example["x"]) ** 2).sum() + params["b"][0] ** 2


def run(step, num_steps):
  state, update = step.init(START, KEY), jax.jit(step.update)
  for _ in range(num_steps):
    state, metrics = update(state, BATCH, KEY)
  return state.params, metrics


def test_l2sp_descends_the_penalised_loss():
  tx = optax.adam(0.05)

  def penalised(params, example, key):
    far = sum(((params[k] - START[k]) ** 2).sum() for k in params)
    return loss(params, example, key) + 0.3 * far

  found, metrics = run(methods.l2sp(loss, tx, alpha=0.3), 10)
  want, _ = run(methods.supervised(penalised, tx), 10)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, want)
  held, _ = run(methods.l2sp(loss, tx, alpha=0.3), 9)
  plain = np.mean([loss(held, {"x": x}, KEY) for x in BATCH["x"]])
  np.testing.assert_allclose(metrics["loss"], plain, rtol=1e-5)  # without the penalty


def test_its_minimum_is_the_weighted_mean_of_start_and_data():
  # The mean of (x - a)^2 is least at the mean m of x; with alpha at (m + alpha a0) / (1 + alpha).
  found, _ = run(methods.l2sp(loss, optax.sgd(0.1), alpha=0.5), 300)
  np.testing.assert_allclose(found["a"], (BATCH["x"].mean(0) + 0.5 * START["a"]) / 1.5, rtol=1e-5)
  np.testing.assert_allclose(found["b"], 0.5 * START["b"] / 1.5, rtol=1e-5)


def test_only_the_chosen_parameters_move():
  tx = methods.only(optax.adam(0.1), lambda path: path == "a")
  found, _ = run(methods.supervised(loss, tx), 5)
  alone, _ = run(methods.supervised(loss, optax.adam(0.1)), 5)
  np.testing.assert_array_equal(found["b"], START["b"])
  np.testing.assert_array_equal(found["a"], alone["a"])


def test_a_rule_that_chooses_nothing_is_refused():
  with pytest.raises(InputError, match="none of a, b"):
    methods.only(optax.sgd(0.1), lambda path: "head" in path).init(START)
