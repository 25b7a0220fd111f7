"""Several inner steps: float64 differences of the whole training, and where methods must differ."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, rng
from medjax.check import InputError

KEY = jax.random.key(0)
K = 3
TRANSFORMATIONS = {
  "momentum": lambda: optax.sgd(0.3, momentum=0.9, nesterov=True),
  "adamw clipped": lambda: optax.chain(
    optax.clip_by_global_norm(0.05), optax.adamw(optax.cosine_decay_schedule(1e-2, 9))
  ),
  "rmsprop": lambda: optax.rmsprop(1e-2),
}


def inner(params, theta, example, key):
  x, y = example
  x = x * jnp.exp(theta["gain"] * jnp.sin(x)) + theta["noise"] * jax.random.normal(
    key, x.shape, x.dtype
  )
  return jnp.sum((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)


def outer(params, example, key):
  del key
  x, y = example
  return jnp.sum((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)


def problem():
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(random.normal(size=shape))  # noqa: E731
  params = {"a": draw(3, 4), "b": draw(4, 2)}
  theta = {"gain": jnp.asarray(0.3), "noise": jnp.asarray(0.4)}
  return theta, params, (draw(K, 5, 3), draw(K, 5, 2)), (draw(6, 3), draw(6, 2))


def differences(value, theta, step=1e-6):
  """Central ones, of a function of {"gain", "noise"}."""

  def moved(name, by):
    return value({**theta, name: theta[name] + by})

  return {n: (moved(n, step) - moved(n, -step)) / (2 * step) for n in theta}


def distance(found, wanted):
  a, b = (np.array([float(x[n]) for n in ("gain", "noise")]) for x in (found, wanted))
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize(
  "name",
  ["momentum", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adamw clipped", "rmsprop"))],
)
def test_three_steps_equal_central_differences(name):
  with jax.enable_x64(True):
    theta, params, batches, outer_batch = problem()
    tx = TRANSFORMATIONS[name]()
    state = tx.init(params)
    make = functools.partial(grads.hypergradient, inner, outer, tx, steps=K)
    full = jax.jit(make(carry="full"))
    warm = full(theta, params, state, batches, outer_batch, jax.random.key(1))
    params, state = warm.params, warm.opt_state
    arguments = (params, state, batches, outer_batch, KEY)
    found = full(theta, *arguments)

    def whole(theta):
      return full(theta, *arguments).aux.outer_loss

    assert distance(found.grad, differences(whole, theta)) < 1e-6
    naive = jax.jit(make(method="naive", carry="full"))(theta, *arguments)
    assert distance(naive.grad, found.grad) < 1e-9
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), naive.aux, found.aux)

    # With the optimiser's state held at what it is along the way.
    keys = [jax.random.fold_in(rng.stream(KEY, "inner"), k) for k in range(K)]

    @functools.partial(jax.jit, static_argnums=3)
    def updated(theta, phi, state, k):
      batch = jax.tree.map(lambda x: x[k], batches)
      loss = lambda p: grads.batch_mean(lambda e, key: inner(p, theta, e, key), batch, keys[k])  # noqa: E731
      updates, state = tx.update(jax.grad(loss)(phi), state, phi)
      return optax.apply_updates(phi, updates), state

    states, phi = [state], params
    for k in range(K):
      phi, new = updated(theta, phi, states[-1], k)
      states.append(new)

    @jax.jit
    def frozen(theta):
      phi = params
      for k in range(K):
        phi, _ = updated(theta, phi, states[k], k)
      return grads.batch_mean(lambda e, key: outer(phi, e, key), outer_batch, KEY)

    detached = jax.jit(make())(theta, *arguments)
    assert distance(detached.grad, differences(frozen, theta)) < 1e-6
    assert distance(detached.grad, found.grad) > 1e-4  # what flowed through the moments


def test_memory_of_several_steps_is_that_of_one():
  """Of a step are kept parameters, state and gradient; its activations are computed anew."""

  def loss(params, theta, x, key):
    del key
    hidden = jnp.tanh(jnp.tanh(theta * x @ params["in"]) @ params["in"].T @ params["in"])
    return jnp.mean((hidden @ params["out"] - x) ** 2)

  tx, examples = optax.sgd(1e-2, momentum=0.9), jnp.ones((1024, 4))
  params = {"in": jnp.ones((4, 64)), "out": jnp.ones((64, 4))}  # far fewer than activations

  def temporary_bytes(steps):
    fn = grads.hypergradient(loss, lambda p, x, key: loss(p, 1.0, x, key), tx, steps=steps)
    batches = jnp.broadcast_to(examples, (steps, *examples.shape))
    lowered = jax.jit(fn).lower(jnp.float32(1), params, tx.init(params), batches, examples, KEY)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  assert temporary_bytes(4) < 1.25 * temporary_bytes(1)


def test_differences_of_gradients_come_close_and_central_ones_closer():
  with jax.enable_x64(True):
    theta, params, batches, outer_batch = problem()
    tx = optax.sgd(0.01)
    run = lambda method: jax.jit(  # noqa: E731
      grads.hypergradient(inner, outer, tx, steps=K, method=method)
    )(theta, params, tx.init(params), batches, outer_batch, KEY)
    exact, central, one_sided = (run(m) for m in ("mixed", "fd", "fd_one_sided"))
    errors = [distance(x.grad, exact.grad) for x in (central, one_sided)]
    assert errors[0] < 0.1 * errors[1] and errors[1] < 0.3


def quadratic(w, theta, target, key):
  """(w - theta a)' D (w - theta a) / 2 with D = diag(1, 3)."""
  return 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * (w - theta * target) ** 2)


def squares(w, target, key):
  return 0.5 * jnp.sum((w - target) ** 2)


A, B = jnp.array([0.5, 2.0]), jnp.array([2.0, 1.0])


def of_quadratic(w, tx, steps=1, **options):
  fn = jax.jit(grads.hypergradient(quadratic, squares, tx, steps=steps, **options))
  batches = jnp.broadcast_to(A, (steps, 1, 2))
  return fn(jnp.float32(0.7), w, tx.init(w), batches, B[None], KEY)


def test_implicit_is_the_limit_of_many_steps_and_not_of_few():
  # w*(theta) = theta a, so that d L_outer / d theta = (theta a - b) . a.
  start, tx = 0.7 * A, optax.sgd(0.1)
  want = float(jnp.sum((0.7 * A - B) * A))
  for options in ({"iterations": 2}, {"solver": "neumann", "rate": 0.3, "iterations": 60}):
    found = of_quadratic(start, tx, method="implicit", **options)
    np.testing.assert_allclose(found.grad, want, atol=1e-5)  # of two terms of .8
    assert found.aux.residual < 1e-5
  short = of_quadratic(start, tx, method="implicit", solver="neumann", rate=0.3, iterations=2)
  # |(1 - .3 D)^2 v| / |v| with 1 - .3 D = (.7, .1)
  v = 0.7 * A - B
  residual = np.linalg.norm(np.array([0.49, 0.01]) * v) / np.linalg.norm(v)
  np.testing.assert_allclose(short.aux.residual, residual, rtol=1e-4)
  one = of_quadratic(start, tx)
  np.testing.assert_allclose(one.grad, jnp.sum(v * 0.1 * jnp.array([1.0, 3.0]) * A), rtol=1e-5)
  assert abs(float(one.grad) - want) > 0.5 * abs(want) and one.aux.residual == 0


def test_sign_updates_have_no_derivative_and_descent_in_their_place_has():
  w = jnp.array([1.0, -2.0])
  lost = of_quadratic(w, optax.lion(0.1, weight_decay=0.0))
  assert lost.grad == 0 and bool(lost.aux.is_zero)
  found = of_quadratic(w, optax.lion(0.1, weight_decay=0.0), surrogate="sgd")
  # Lion moves both coordinates by .1; gradient descent of that length has this rate.
  gradient = jnp.array([1.0, 3.0]) * (w - 0.7 * A)
  rate = jnp.linalg.norm(jnp.array([0.1, 0.1])) / jnp.linalg.norm(gradient)
  want = jnp.sum((found.params - B) * rate * jnp.array([1.0, 3.0]) * A)
  np.testing.assert_allclose(found.grad, want, rtol=1e-5)
  assert not bool(found.aux.is_zero)
  for method in ("mixed", "naive"):
    exact = of_quadratic(w, optax.sgd(0.1), steps=2, method=method)
    same = of_quadratic(w, optax.sgd(0.1), steps=2, method=method, surrogate="sgd")
    np.testing.assert_allclose(same.grad, exact.grad, rtol=1e-5)
  collected = of_quadratic(w, optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation())
  assert bool(collected.aux.is_zero)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"steps": 0}, "steps > 0"),
    ({"method": "reuse", "steps": 2}, "steps=1 for method='reuse'"),
  ],
)
def test_wrong_options_are_refused(options, message):
  with pytest.raises(InputError, match=message):
    grads.hypergradient(quadratic, squares, optax.sgd(0.1), **options)
