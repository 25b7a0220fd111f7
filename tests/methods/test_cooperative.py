"""Cooperative training: whose gradient, whose noise, the border, and the bilevel derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax.check import InputError
from medjax.methods import cooperative
from medjax.methods.cooperative import Task

KEY = jax.random.key(0)
PARAMS = {"e_a": 1.0, "h_a": 2.0, "e_b": -3.0, "h_b": 0.5}
BATCH = jnp.array([1.0, 3.0])
X = 2.0  # their mean


def start():
  return jax.tree.map(jnp.float32, PARAMS)


def bilinear(own):
  """Logit e_a e_b h_own x; the cost is the logit."""
  return Task(
    lambda p, x, key: p["e_a"] * p["e_b"] * p[f"h_{own}"] * x,
    lambda logit, x: logit,
    lambda name: name == f"e_{own}",
    lambda name: name == f"h_{own}",
  )


TASKS = {"a": bilinear("a"), "b": bilinear("b")}


def step_of(rate=1e-3, **options):
  step = cooperative.cooperative(TASKS, optax.sgd(rate), **options)
  state, metrics = jax.jit(step.update)(step.init(start(), KEY), BATCH, KEY)
  moved = {name: (float(state.params[name]) - PARAMS[name]) / -rate for name in PARAMS}
  return moved, state.params, metrics


def test_noise_is_on_the_other_tasks_encoder_and_the_second_turn_sees_the_first():
  b = 0.2
  moved, params, _ = step_of(radius=b)
  # d/d e_a = (e_b + eps) h_a x, d/d h_a = e_a (e_b + eps) x: one eps within (-b, b), not 0
  eps = moved["e_a"] / (PARAMS["h_a"] * X) - PARAMS["e_b"]
  assert 1e-3 < abs(eps) < b
  np.testing.assert_allclose(moved["h_a"], (PARAMS["e_b"] + eps) * X, rtol=1e-3)
  # task b reads the e_a that task a has left
  eps = moved["e_b"] / (PARAMS["h_b"] * X) - float(params["e_a"])
  assert 1e-3 < abs(eps) < b


def test_the_line_of_the_algorithm_perturbs_the_own_encoder():
  moved, _, _ = step_of(radius=0.2, perturbs="own")
  np.testing.assert_allclose(moved["e_a"], PARAMS["e_b"] * PARAMS["h_a"] * X, rtol=1e-3)
  assert abs(moved["h_a"] / (PARAMS["e_b"] * X) - PARAMS["e_a"]) > 1e-3


def test_encoders_stay_within_the_radius_of_their_turn_and_heads_do_not():
  _, params, metrics = step_of(rate=0.1, radius=0.01, turns=3)
  for name in ("e_a", "e_b"):
    np.testing.assert_allclose(abs(float(params[name]) - PARAMS[name]), 0.01, rtol=1e-3)
  assert abs(float(params["h_a"]) - PARAMS["h_a"]) > 0.5
  assert float(metrics["clamped"]) == 1


def test_the_warm_up_trains_both_at_once_on_the_sum():
  moved, _, _ = step_of(radius=1e-6, warm_up=1)
  both = PARAMS["h_a"] + PARAMS["h_b"]
  np.testing.assert_allclose(moved["e_a"], PARAMS["e_b"] * both * X, rtol=1e-3)
  np.testing.assert_allclose(moved["e_b"], PARAMS["e_a"] * both * X, rtol=1e-3)


def test_a_task_that_is_no_number_is_named_and_the_other_one_goes_on():
  lost = TASKS["b"]._replace(cost=lambda logit, x: logit * jnp.log(-jnp.ones(())))
  tx = optax.sgd(1e-3, momentum=0.9)
  step = cooperative.cooperative({"a": TASKS["a"], "b": lost}, tx, perturbs="none", radius=1.0)
  state, metrics = jax.jit(step.update)(step.init(start(), KEY), BATCH, KEY)
  for name, slope in (("e_a", PARAMS["e_b"] * PARAMS["h_a"] * X), ("e_b", 0.0), ("h_b", 0.0)):
    np.testing.assert_allclose(state.params[name], PARAMS[name] - 1e-3 * slope, rtol=1e-6)
  assert (float(metrics["skipped/a"]), float(metrics["skipped/b"])) == (0, 1)
  assert metrics["loss"] == metrics["loss/a"] and np.isnan(metrics["loss/b"])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.opt_state)))


def test_the_kl_term_is_exactly_zero_for_one_sample():
  """And its derivatives to rounding: at M = 1 the paper's regulariser does nothing."""
  logits = 5 * jax.random.normal(KEY, (1, 4, 7))
  value, slope = jax.value_and_grad(cooperative.divergence)(logits)
  assert float(value) == 0 and float(jnp.abs(slope).max()) < 1e-7
  several = np.asarray(jax.random.normal(KEY, (3, 5)), np.float64)
  p = np.exp(several) / np.exp(several).sum(1, keepdims=True)
  want = np.mean([(q * np.log(q / p.mean(0))).sum() for q in p])
  np.testing.assert_allclose(cooperative.divergence(jnp.asarray(several)), want, rtol=1e-5)
  with pytest.raises(InputError, match="of one sample the term is exactly 0"):
    cooperative.cooperative(TASKS, optax.sgd(0.1), strength=1.0)


def test_bilevel_is_the_whole_derivative():
  """Central differences of L_1(p1, p2 - rate grad L_2(p1, p2)) in float64, with curved losses."""

  def curved(own, sign):
    task = bilinear(own)
    cost = lambda logit, x: (jnp.tanh(0.3 * logit) - sign * 0.2 * x) ** 2  # noqa: E731
    return task._replace(cost=cost)

  tasks, rate = {"a": curved("a", 1.0), "b": curved("b", -1.0)}, 0.3

  def loss(name, p):
    task = tasks[name]
    return jnp.mean(jnp.stack([task.cost(task.predict(p, x, KEY), x) for x in BATCH]))

  def after(p):
    slope = jax.grad(lambda own: loss("b", {**p, **own}))({n: p[n] for n in ("e_b", "h_b")})
    return {**p, **{name: p[name] - rate * g for name, g in slope.items()}}

  with jax.enable_x64(True):
    p = jax.tree.map(jnp.float64, PARAMS)
    step = cooperative.bilevel(tasks, optax.sgd(rate))
    state, metrics = jax.jit(step.update)(step.init(p, KEY), BATCH.astype(jnp.float64), KEY)
    value = jax.jit(lambda p: loss("a", after(p)))
    for name in ("e_a", "h_a"):
      h = 1e-6
      slope = (value({**p, name: p[name] + h}) - value({**p, name: p[name] - h})) / (2 * h)
      np.testing.assert_allclose((p[name] - state.params[name]) / rate, slope, rtol=1e-6)
    np.testing.assert_allclose(state.params["h_b"], after(p)["h_b"], rtol=1e-6)
    assert float(metrics["hyper_norm"]) > 1e-4


def test_leaves_have_one_owner():
  step = cooperative.cooperative(TASKS, optax.sgd(0.1))
  with pytest.raises(InputError, match="other by none"):
    step.init({**start(), "other": jnp.float32(1)}, KEY)
  with pytest.raises(InputError, match="two tasks, got 1"):
    cooperative.bilevel({"a": TASKS["a"]}, optax.sgd(0.1))
