"""SpotTune: limits of its choices, and the gradient of a choice that cannot be differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods
from medjax.check import InputError
from medjax.methods.spottune import (
  blocks,
  routed,
  spottune,
  straight_through,
)

KEY = jax.random.key(0)
START = {"body": {"w": jnp.array([1.0, -2.0])}, "head": {"b": jnp.array([0.5])}}
BATCH = {"x": jnp.array([[0.3, 0.1], [-0.2, 0.7], [1.0, 0.4]]), "index": jnp.array([4, 2, 9])}


def loss(params, example, key):
  x = example["x"] + 0.1 * jax.random.normal(key, (2,))
  return ((params["body"]["w"] - x) ** 2).sum() + (params["head"]["b"][0] - x[0]) ** 2


def policy_fn(policy, example):
  return policy["bias"] + policy["slope"] * example["x"][0]


def policy(bias):
  return {"bias": jnp.full(2, bias), "slope": jnp.zeros(2)}


def run(step, num_steps=5, batch=BATCH):
  state, update = step.init(START, KEY), jax.jit(step.update)
  for t in range(num_steps):
    state, metrics = update(state, batch, jax.random.key(t))
  return state, metrics


def with_policy(bias, loss_fn=loss, **settings):
  settings.setdefault("tuned_weight", 0.0)
  return spottune(loss_fn, optax.adam(0.1), policy_fn, policy(bias), optax.sgd(0.0), **settings)


def test_all_blocks_tuned_is_fine_tuning():
  found, metrics = run(with_policy(1e6))
  want, plain = run(methods.supervised(loss, optax.adam(0.1)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found.params, want.params)
  for name in ("loss", "grad_norm"):
    np.testing.assert_allclose(metrics[name], plain[name], rtol=1e-6)
  assert metrics["tuned"] == 1


def test_no_block_tuned_is_the_frozen_network():
  """The tuned copy gets no gradient, and the loss is that of the start, whatever was learnt."""
  found, metrics = run(with_policy(-1e6))
  jax.tree.map(np.testing.assert_array_equal, found.params, START)
  _, plain = run(methods.supervised(loss, optax.sgd(0.0)))
  np.testing.assert_allclose(metrics["loss"], plain["loss"], rtol=1e-6)
  assert metrics["tuned"] == 0 == metrics["grad_norm"]
  elsewhere = jax.tree.map(lambda x: x + 7.0, START)
  example = {"x": BATCH["x"][0]}
  value = routed(loss, elsewhere, found.extra, policy_fn, example, example, KEY)
  np.testing.assert_allclose(value, loss(START, example, KEY), rtol=1e-6)


def centred(params, example, key, model_state):
  """A loss with a norm of the batch: features less their mean, whose running mean is kept."""
  feature = params["body"]["w"] * example["x"]
  mean = jax.lax.pmean(feature, "batch")
  kept = {"mean": 0.9 * model_state["mean"] + 0.1 * mean}
  return ((feature - mean - params["head"]["b"]) ** 2).sum(), kept


@pytest.mark.parametrize("bias", [1e6, -1e6])
def test_running_statistics_are_those_of_the_chosen_blocks(bias):
  """All tuned, they are fine-tuning's; none tuned, the frozen network's, which move as well."""
  start = {"mean": jnp.array([2.0, -1.0])}
  found, _ = run(with_policy(bias, loss_fn=centred, model_state=start))
  tx = optax.adam(0.1 if bias > 0 else 0.0)
  want, _ = run(methods.supervised(centred, tx, model_state=start))
  np.testing.assert_allclose(found.model_state["mean"], want.model_state["mean"], rtol=1e-6)
  assert (jnp.abs(found.model_state["mean"] - start["mean"]) > 0.05).all()


def test_a_choice_is_hard_and_its_gradient_that_of_the_sigmoid():
  logits, temperature = jnp.array([-1.0, -0.05, 0.02, 3.0]), 0.1
  found, gradient = jax.value_and_grad(lambda s: straight_through(s, temperature).sum())(logits)
  assert found == 2
  s = 1 / (1 + np.exp(-np.asarray(logits) / temperature))
  np.testing.assert_allclose(gradient, s * (1 - s) / temperature, rtol=1e-4)


def test_choices_are_as_frequent_as_the_gumbel_softmax_says():
  # Two classes with logits (s, 0): the first is the larger with probability sigmoid(s).
  many = {"x": jnp.zeros((4000, 2)), "index": jnp.arange(4000)}
  _, metrics = run(with_policy(0.8), 1, many)
  want = 1 / (1 + np.exp(-0.8))
  # 8,000 choices: a standard deviation of sqrt(.31 * .69 / 8000) = .0052.
  np.testing.assert_allclose(metrics["tuned"], want, atol=4 * 0.0052)


def test_the_compact_form_leads_to_its_number_of_blocks():
  step = spottune(
    lambda params, example, key: 0.0 * params["head"]["b"][0],
    optax.sgd(0.0),
    policy_fn,
    policy(0.5),
    optax.adam(0.05),
    tuned_weight=0.0,
    temperature=1.0,
    global_blocks=0,
    global_weight=1.0,
  )
  _, metrics = run(step, 150)
  assert metrics["tuned"] <= 1 / 6  # of 6 choices, 3 examples and 2 blocks


def test_padding_changes_nothing():
  padded = {
    "x": jnp.concatenate([BATCH["x"], jnp.full((1, 2), 1e3)]),
    "index": jnp.array([4, 2, 9, 0]),
    "weight": jnp.array([1.0, 1.0, 1.0, 0.0]),
  }
  plain = {**BATCH, "weight": jnp.ones(3)}
  settings = {"global_blocks": 1, "tuned_weight": 0.1}
  found, one = run(with_policy(0.1, **settings), 3, padded)
  want, two = run(with_policy(0.1, **settings), 3, plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, want)
  np.testing.assert_allclose(one["tuned"], two["tuned"], rtol=1e-6)


def test_blocks_are_of_the_users_making():
  assert blocks(START) == ("body", "head")
  assert blocks(START, lambda path: path.rpartition("/")[2]) == ("w", "b")


def test_a_policy_for_another_network_is_refused():
  step = spottune(loss, optax.sgd(0.1), lambda p, e: jnp.zeros(3), {}, optax.sgd(0.1))
  with pytest.raises(InputError, match="blocks"):
    step.update(step.init(START, KEY), BATCH, KEY)
