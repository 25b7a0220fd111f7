"""Hypergradients: finite differences in float64, closed forms, cost, and the traps it reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, losses, nets, rng
from medjax.grads import hyper_result

KEY = jax.random.key(0)


def network_problem(space=(8, 8), widths=(3, 5)):
  """A smooth U-Net, theta = (gain, noise level), and one batch of each kind."""
  model = nets.from_linen(
    nets.UNet(num_outputs=3, widths=widths, norm="none", activation="silu", downsample="mean")
  )
  random = np.random.default_rng(0)

  def batch(n):
    image = random.normal(size=(n, *space, 1))
    return jnp.asarray(image), jnp.asarray((image[..., 0] > 0) + (image[..., 0] > 1), jnp.int32)

  def inner(params, theta, example, key):
    image, label = example
    noise = jax.random.normal(key, image.shape, image.dtype)
    image = image * jnp.exp(theta[0] * jnp.sin(image)) + theta[1] * noise
    return losses.soft_dice(model.apply(params, image)[0], label)

  def outer(params, example, key):
    del key
    return losses.soft_dice(model.apply(params, example[0])[0], example[1])

  params, _ = model.init(KEY, batch(1)[0][0])
  return inner, outer, params, batch(3), batch(4)


TRANSFORMATIONS = {
  "sgd": lambda: optax.sgd(0.5),
  "momentum": lambda: optax.sgd(0.3, momentum=0.9, nesterov=True),
  "adam": lambda: optax.adam(1e-2),
  "adamw_clipped": lambda: optax.chain(optax.clip_by_global_norm(0.05), optax.adamw(1e-2)),
  "rmsprop": lambda: optax.rmsprop(1e-2),
}


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[] if name in ("momentum", "adamw_clipped") else [pytest.mark.slow])
    for name in TRANSFORMATIONS
  ],
)
def test_equals_central_differences_in_float64(name):
  """Of a U-Net; the same transformations on two small arrays are in test_hyper_transformations."""
  with jax.enable_x64(True):
    inner, outer, params, inner_batch, outer_batch = network_problem()
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    tx = TRANSFORMATIONS[name]()
    theta, state = jnp.array([0.3, 0.4]), tx.init(params)
    batches = jax.tree.map(lambda x: x[None], inner_batch)
    fn = jax.jit(grads.hypergradient(inner, outer, tx))
    for i in range(3):  # a warm optimiser state: at Adam's first step the derivative vanishes
      warm = fn(theta, params, state, batches, outer_batch, jax.random.fold_in(KEY, i))
      params, state = warm.params, warm.opt_state
    out = fn(theta, params, state, batches, outer_batch, KEY)

    def outer_value(theta):
      return fn(theta, params, state, batches, outer_batch, KEY).aux.outer_loss

    step = 1e-5
    differences = np.array(
      [
        (outer_value(theta + step * e) - outer_value(theta - step * e)) / (2 * step)
        for e in np.eye(2)
      ]
    )
    error = np.linalg.norm(out.grad - differences) / np.linalg.norm(differences)
    assert error < 1e-6
    assert bool(out.aux.is_finite)


def test_returned_parameters_are_those_of_the_plain_step():
  def inner(w, theta, x, key):
    return jnp.sum(jnp.tanh(w * (theta * x + jax.random.normal(key))) ** 2)

  tx, theta = optax.adam(1e-2), jnp.float32(0.3)
  w, x = jnp.array([1.0, -2.0]), jnp.array([[0.5, 3.0], [2.0, 1.0], [0.1, -0.7]])
  fn = jax.jit(grads.hypergradient(inner, lambda w, x, key: jnp.sum((w - x) ** 2), tx))
  out = fn(theta, w, tx.init(w), x[None], x, KEY)

  @jax.jit
  def plain(w, state):
    def loss(w):
      return grads.batch_mean(lambda e, k: inner(w, theta, e, k), x, rng.stream(KEY, "inner"))

    updates, state = tx.update(jax.grad(loss)(w), state, w)
    return optax.apply_updates(w, updates), state

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    (out.params, out.opt_state),
    plain(w, tx.init(w)),
  )


def quadratic(tx, w, theta, a, b):
  """L_inner = (w - theta a)^2 / 2, L_outer = (w - b)^2 / 2."""
  fn = grads.hypergradient(
    lambda w, theta, x, key: 0.5 * jnp.sum((w - theta * x) ** 2),
    lambda w, x, key: 0.5 * jnp.sum((w - x) ** 2),
    tx,
  )
  state = tx.init(w)
  return jax.jit(fn)(theta, w, state, a[None, None], b[None], KEY)


def test_quadratic_has_its_closed_form():
  # w* = w - r (w - theta a);  dL_outer/dtheta = (w* - b) . r a
  w, a, b = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), jnp.array([2.0, 1.0])
  theta, rate = jnp.float32(0.7), 0.3
  out = quadratic(optax.sgd(rate), w, theta, a, b)
  updated = w - rate * (w - theta * a)
  np.testing.assert_allclose(out.params, updated, rtol=1e-6)
  np.testing.assert_allclose(out.grad, jnp.sum((updated - b) * rate * a), rtol=1e-5)


def test_first_step_of_adam_and_sign_updates_have_no_hypergradient():
  w, a, b = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), jnp.array([2.0, 1.0])
  sgd = quadratic(optax.sgd(0.1), w, jnp.float32(0.7), a, b)
  for tx in (optax.adam(0.1), optax.lion(0.1)):
    out = quadratic(tx, w, jnp.float32(0.7), a, b)
    assert abs(float(out.grad)) < 1e-5 * abs(float(sgd.grad))


def test_adams_zero_second_moment_is_reported_and_eps_root_cures_it():
  w, a, b = jnp.array([1.0, 0.7]), jnp.array([0.5, 1.0]), jnp.array([2.0, 1.0])  # w[1] = theta a[1]
  trapped = quadratic(optax.adam(0.1), w, jnp.float32(0.7), a, b)
  assert int(trapped.aux.zero_second_moment) == 1
  assert not bool(trapped.aux.is_finite)
  cured = quadratic(optax.adam(0.1, eps_root=1e-16), w, jnp.float32(0.7), a, b)
  assert int(cured.aux.zero_second_moment) == 0
  assert bool(cured.aux.is_finite)
  assert "eps_root" in hyper_result.ZERO_SECOND_MOMENT


def test_padding_does_not_count_and_indices_decide_the_keys():
  def inner(w, theta, e, key):
    return jnp.sum(w * theta) * (e["x"] + jax.random.normal(key))

  def outer(w, e, key):
    return jnp.sum((w - e["x"]) ** 2)

  fn = jax.jit(grads.hypergradient(inner, outer, optax.sgd(0.1)))
  x = jnp.array([1.0, 2.0, 99.0])
  weight = jnp.array([1.0, 1.0, 0.0])
  index = jnp.array([4, 9, 0])

  def run(order):
    batch = {"x": x[order], "weight": weight[order], "index": index[order]}
    w = jnp.ones(2)
    return fn(
      jnp.float32(0.5),
      w,
      optax.sgd(0.1).init(w),
      jax.tree.map(lambda v: v[None], batch),
      batch,
      KEY,
    )

  whole = run(np.array([0, 1, 2]))
  for order in ([0, 1], [1, 2, 0]):
    part = run(np.array(order))
    np.testing.assert_allclose(part.grad, whole.grad, rtol=1e-6)
    np.testing.assert_allclose(part.params, whole.params, rtol=1e-6)


def test_several_inner_steps_are_refused():
  w = jnp.ones(2)
  fn = grads.hypergradient(
    lambda w, theta, x, key: jnp.sum(w * theta * x), lambda w, x, key: jnp.sum(w), optax.sgd(0.1)
  )
  with pytest.raises(ValueError, match="length 1"):
    fn(jnp.float32(1), w, optax.sgd(0.1).init(w), jnp.ones((2, 3, 2)), jnp.ones((3, 2)), KEY)


def test_compiled_cost_is_that_of_ten_convolution_passes():
  """Plain step 3F, hypergradient step 10F (module docstring): 3.33, at most 3.4 with the rest."""
  inner, outer, params, inner_batch, outer_batch = network_problem((32, 32), (8, 16, 32))
  inner_batch = jax.tree.map(lambda x: x[:3].astype(jnp.float32) if x.ndim == 4 else x, inner_batch)
  outer_batch = jax.tree.map(lambda x: x[:3], outer_batch)  # equal batches
  tx, theta = optax.adam(1e-2), jnp.array([0.3, 0.4])
  state = tx.init(params)

  def plain(params, state, batch, key):
    gradient = jax.grad(lambda p: grads.batch_mean(lambda e, k: inner(p, theta, e, k), batch, key))(
      params
    )
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  plain_cost = jax.jit(plain).lower(params, state, inner_batch, KEY).compile().cost_analysis()
  fn = jax.jit(grads.hypergradient(inner, outer, tx))
  batches = jax.tree.map(lambda x: x[None], inner_batch)
  compiled = fn.lower(theta, params, state, batches, outer_batch, KEY).compile()
  ratio = compiled.cost_analysis()["flops"] / plain_cost["flops"]
  assert 3.2 < ratio < 3.4
  # The transposed weight-gradient convolution that XLA:CPU runs 20 times slower never appears.
  assert "rhs_reversal" not in "".join(
    line for line in compiled.as_text().splitlines() if "f01b" in line
  )
