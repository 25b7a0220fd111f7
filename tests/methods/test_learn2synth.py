"""Learn2Synth: what reaches the network, and that a hidden parameter is found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.interpreters import partial_eval

from medjax import methods


def gain_problem(rate=0.2):
  """Regression through the origin: y = w x on inputs scaled by theta; real inputs by 1.7."""

  def inner(w, theta, example, key):
    del key
    return 0.5 * (w * theta * example["x"] - example["x"]) ** 2

  def outer(w, example, key):
    del key
    return 0.5 * (w * 1.7 * example["x"] - example["x"]) ** 2

  return methods.learn2synth(inner, outer, optax.sgd(rate), jnp.float32(1.0), optax.adam(2e-2))


def batch(seed):
  random = np.random.default_rng(seed)
  return {k: {"x": jnp.asarray(random.normal(size=8), jnp.float32)} for k in ("inner", "outer")}


def test_the_hidden_gain_is_recovered():
  # L_real(w) is least at w = 1/1.7, which inner training reaches exactly when theta = 1.7.
  step = gain_problem()
  state = step.init(jnp.float32(0.1), jax.random.key(0))
  update = jax.jit(step.update)
  for i in range(400):
    state, metrics = update(state, batch(i), jax.random.key(i))
  np.testing.assert_allclose(state.extra.theta, 1.7, rtol=1e-2)
  np.testing.assert_allclose(state.params, 1 / 1.7, rtol=1e-2)
  assert all(bool(jnp.isfinite(v)) for v in metrics.values())


def test_no_path_leads_from_real_data_to_the_network():
  """The updated network does not depend on the real batch: the program has no such edge."""
  step = gain_problem()
  state = step.init(jnp.float32(0.1), jax.random.key(0))
  flat, treedef = jax.tree.flatten((state, batch(0), jax.random.key(1)))

  def updated(*leaves):
    state, example, key = jax.tree.unflatten(treedef, leaves)
    new_state, _ = step.update(state, example, key)
    return new_state.params, new_state.opt_state, new_state.extra.theta

  jaxpr = jax.make_jaxpr(updated)(*flat).jaxpr
  names = [
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path((state, batch(0), jax.random.key(1)))
  ]
  real = [i for i, name in enumerate(names) if "outer" in name]
  assert len(real) == 1
  num_network = len(jax.tree.leaves((state.params, state.opt_state)))
  keep_network = [True] * num_network + [False] * (len(jaxpr.outvars) - num_network)
  _, used_by_network = partial_eval.dce_jaxpr(jaxpr, keep_network)
  _, used_by_theta = partial_eval.dce_jaxpr(jaxpr, [not keep for keep in keep_network])
  assert not used_by_network[real[0]]
  assert used_by_theta[real[0]]


def test_a_poisoned_real_image_leaves_the_network_untouched():
  step = gain_problem()
  state = step.init(jnp.float32(0.1), jax.random.key(0))
  clean = batch(0)
  poisoned = {"inner": clean["inner"], "outer": {"x": jnp.full(8, jnp.nan)}}
  update = jax.jit(step.update)
  want, _ = update(state, clean, jax.random.key(1))
  got, metrics = update(state, poisoned, jax.random.key(1))
  np.testing.assert_array_equal(got.params, want.params)
  assert np.isnan(metrics["hyper_norm"])


def test_steps_of_radam_without_a_derivative_are_named():
  # The variance's rectification is the root of a negative number at steps 3 and 4; RAdam does not
  # use it there, but its derivative is 0 times that.
  loss = lambda w, x: 0.5 * (w - x) ** 2  # noqa: E731
  step = methods.learn2synth(
    lambda w, theta, x, key: loss(w, theta * x),
    lambda w, x, key: loss(w, x),
    optax.radam(0.1),
    jnp.float32(0.7),
    optax.sgd(0.0),
  )
  state = step.init(jnp.float32(1.0), jax.random.key(0))
  update = jax.jit(step.update)
  flags = []
  for _ in range(5):
    new, metrics = update(state, {"inner": jnp.ones(1), "outer": jnp.ones(1)}, jax.random.key(0))
    assert bool(jnp.isnan(metrics["hyper_norm"])) == bool(metrics["not_differentiable"])
    flags.append(float(metrics["not_differentiable"]))
    state = new.replace(extra=state.extra)
  assert flags == [0, 0, 1, 1, 0]
  assert "surrogate" in step.hints["not_differentiable"]


def test_supervised_equals_gradient_descent_by_hand():
  step = methods.supervised(lambda w, e, key: 0.5 * (w * e["x"] - e["y"]) ** 2, optax.sgd(0.1))
  x, y = np.array([1.0, 2.0, 5.0], np.float32), np.array([2.0, 1.0, 7.0], np.float32)
  weight = np.array([1.0, 3.0, 0.0], np.float32)
  state = step.init(jnp.float32(0.5), jax.random.key(0))
  state, metrics = jax.jit(step.update)(
    state, {"x": x, "y": y, "weight": weight}, jax.random.key(0)
  )
  residual = 0.5 * x - y
  gradient = (weight * residual * x).sum() / weight.sum()
  np.testing.assert_allclose(state.params, 0.5 - 0.1 * gradient, rtol=1e-6)
  np.testing.assert_allclose(metrics["grad_norm"], abs(gradient), rtol=1e-6)
  np.testing.assert_allclose(
    metrics["loss"], (weight * 0.5 * residual**2).sum() / weight.sum(), rtol=1e-6
  )


def test_supervised_continues_a_given_optimiser_state():
  tx = optax.sgd(0.1, momentum=0.9)

  def loss(w, e, key):
    return jnp.sum(w * e)

  donor = tx.init(jnp.zeros(()))
  _, donor = tx.update(jnp.float32(2.0), donor)
  step = methods.supervised(loss, tx, opt_state=donor)
  state, _ = jax.jit(step.update)(
    step.init(jnp.float32(0.0), jax.random.key(0)), jnp.ones(4), jax.random.key(0)
  )
  np.testing.assert_allclose(state.params, -0.1 * (1.0 + 0.9 * 2.0), rtol=1e-6)
