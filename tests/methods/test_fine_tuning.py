"""Fine-tuning near the start and of a part."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, methods, train, tree
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


def test_frozen_parameters_take_no_part_in_the_clipping_norm():
  """Gradients (3, 4) and 12: of the bound 13 / 10 all of it goes to what is trained, not 5 / 13."""
  params = {"head": jnp.zeros(2), "body": jnp.zeros(1)}
  batch = jnp.array([[3.0, 4.0, 12.0]])

  def loss(p, x, key):
    del key
    return p["head"] @ x[:2] + p["body"] @ x[2:]

  whole = grads.clipped_sum(loss, 1.3)(params, batch, KEY)
  np.testing.assert_allclose(np.linalg.norm(whole.grads["head"]), 0.5, rtol=1e-6)
  trained, frozen = tree.split(params, lambda name: name == "head")
  out = grads.clipped_sum(methods.with_frozen(loss, frozen), 1.3)(trained, batch, KEY)
  np.testing.assert_allclose(out.norms, [5.0], rtol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(out.grads["head"]), 1.3, rtol=1e-6)
  assert out.grads["body"] is None


def test_training_of_a_part_is_saved_and_resumed_without_the_rest(tmp_path):
  params = {"head": jnp.zeros(2), "body": jnp.full(1, 7.0)}
  trained, frozen = tree.split(params, lambda name: name == "head")
  rows = np.tile(np.array([[3.0, 4.0, 12.0]], np.float32), (4, 1))

  def loss(p, e, key):
    del key
    return p["head"] @ e["x"][:2] + p["body"] @ e["x"][2:]

  def fitted(num_steps):
    step = methods.supervised(methods.with_frozen(loss, frozen), optax.sgd(0.1))
    stream = lambda t: {"x": rows}  # noqa: E731
    return train.fit(
      step, stream, trained, KEY, num_steps=num_steps, workdir=tmp_path, progress=False
    )

  fitted(2)
  state = fitted(3).state
  merged = tree.merge(state.params, frozen)
  np.testing.assert_allclose(merged["head"], [-0.9, -1.2], rtol=1e-6)
  np.testing.assert_array_equal(merged["body"], 7)


def test_a_rule_that_chooses_nothing_is_refused_by_name():
  with pytest.raises(InputError, match="none of a, b"):
    tree.split(START, lambda name: False)
