"""Other bilevel schemes through `hypergradient`, what it accepts, and which example helped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads
from medjax.check import InputError

KEY = jax.random.key(0)
RATE = 0.1
CURVATURE = np.array([1.0, 3.0])
A, B = np.array([0.5, 2.0]), np.array([2.0, 1.0])
W = np.array([1.0, -2.0])


def inner(w, theta, target, key):
  """(w - theta a)' D (w - theta a) / 2 with D = diag(1, 3)."""
  return 0.5 * jnp.sum(jnp.asarray(CURVATURE, w.dtype) * (w - theta * target) ** 2)


def outer(w, target, key):
  return 0.5 * jnp.sum((w - target) ** 2)


def penalised(w, theta, target, key):
  """An outer loss that theta also reaches directly."""
  return outer(w, target, key) + 2 * theta**2


def run(outer_loss=outer, theta=0.7, w=W, steps=1, taken=None, inner_loss=inner, **options):
  tx = optax.sgd(RATE)
  fn = grads.hypergradient(inner_loss, outer_loss, tx, steps=steps, **options)
  w = jnp.asarray(w, jnp.float32)
  batches = jnp.broadcast_to(jnp.asarray(A, w.dtype), (taken or steps, 1, 2))
  return fn(jnp.float32(theta), w, tx.init(w), batches, jnp.asarray(B, w.dtype)[None], KEY)


def by_hand(steps, theta=0.7, w=W):
  """Parameters after the steps, and their derivatives by theta and by the first parameters."""
  by_theta, by_start = np.zeros(2), np.ones(2)
  for _ in range(steps):
    w = w - RATE * CURVATURE * (w - theta * A)
    by_theta = (1 - RATE * CURVATURE) * by_theta + RATE * CURVATURE * A
    by_start = (1 - RATE * CURVATURE) * by_start
  return w, by_theta, by_start


@pytest.mark.parametrize("method", ["mixed", "naive", "fd"])
def test_direct_derivative_and_that_of_the_start_have_their_closed_forms(method):
  out = run(penalised, steps=2, method=method, outer_takes_theta=True, with_start=True)
  end, by_theta, by_start = by_hand(2)
  rtol = 1e-3 if method == "fd" else 1e-5
  np.testing.assert_allclose(out.grad, (end - B) @ by_theta + 4 * 0.7, rtol=rtol)
  np.testing.assert_allclose(out.start, (end - B) * by_start, rtol=rtol)


def test_first_order_agrees_where_nothing_is_curved_and_else_not():
  exact = run(penalised, outer_takes_theta=True, with_start=True)
  first = run(penalised, outer_takes_theta=True, with_start=True, method="first_order")
  end, by_theta, _ = by_hand(1)
  np.testing.assert_allclose(first.grad, 4 * 0.7, rtol=1e-6)  # without theta's way through the step
  np.testing.assert_allclose(exact.grad - first.grad, (end - B) @ by_theta, rtol=1e-5)
  np.testing.assert_allclose(first.start, end - B, rtol=1e-5)  # without the inner curvature
  flat = lambda w, theta, target, key: jnp.sum(w * target)  # noqa: E731
  same = [
    run(penalised, outer_takes_theta=True, with_start=True, method=method, inner_loss=flat)
    for method in ("mixed", "first_order")
  ]
  np.testing.assert_allclose(same[0].grad, same[1].grad, rtol=1e-6)
  np.testing.assert_allclose(same[0].start, same[1].start, rtol=1e-6)


def test_mldg_looks_ahead_by_the_start():
  # L_1(w) + beta L_2(w - rate grad L_1(w)), by central differences of the closed form in float64.
  beta, step = 0.5, 1e-5

  def value(w):
    return 0.5 * CURVATURE @ (w - 0.7 * A) ** 2 + beta * 0.5 * np.sum((by_hand(1, w=w)[0] - B) ** 2)

  differences = [(value(W + step * e) - value(W - step * e)) / (2 * step) for e in np.eye(2)]
  found = CURVATURE * (W - 0.7 * A) + beta * np.asarray(run(with_start=True).start)
  np.testing.assert_allclose(found, differences, rtol=1e-5)


def test_every_takes_plain_steps_first():
  before, _, _ = by_hand(2)
  amortised = run(taken=3, every=3)
  last = run(w=before)
  np.testing.assert_allclose(amortised.grad, last.grad, rtol=1e-5)
  np.testing.assert_allclose(amortised.params, last.params, rtol=1e-5)
  np.testing.assert_allclose(amortised.params, by_hand(3)[0], rtol=1e-5)
  whole = run(steps=3)
  assert abs(float(whole.grad) - float(amortised.grad)) > 0.1 * abs(float(whole.grad))


def test_aux_of_the_losses_comes_back_as_means_of_every_step():
  out = run(
    lambda w, x, key: (outer(w, x, key), {"sum": jnp.sum(w)}),
    inner_loss=lambda w, t, x, key: (inner(w, t, x, key), jnp.sum(w)),
    has_aux=True,
    steps=2,
    taken=3,
    every=3,
  )
  sums = [by_hand(k)[0].sum() for k in range(4)]
  np.testing.assert_allclose(out.extra[0], sums[:3], rtol=1e-5)
  np.testing.assert_allclose(out.extra[1]["sum"], sums[3], rtol=1e-5)
  assert run().extra is None and run().start is None


def test_integer_leaves_of_theta_are_constants():
  tx = optax.sgd(RATE)
  theta = {"scale": jnp.float32(0.7), "power": jnp.int32(2)}
  shaped = lambda w, t, x, key: inner(w, t["scale"] ** t["power"], x, key)  # noqa: E731
  fn = grads.hypergradient(shaped, outer, tx)
  w, x, y = (jnp.asarray(v, jnp.float32) for v in (W, A[None, None], B[None]))
  out = fn(theta, w, tx.init(w), x, y, KEY)
  assert out.grad["power"].dtype == jnp.int32 and out.grad["power"] == 0
  np.testing.assert_allclose(out.grad["scale"], 2 * 0.7 * run(theta=0.49).grad, rtol=1e-5)
  with pytest.raises(InputError, match="at least one floating-point leaf"):
    fn({"scale": jnp.int32(1), "power": jnp.int32(2)}, w, tx.init(w), x, y, KEY)


def test_half_precision_leaves_keep_their_type_and_come_close():
  tx = optax.adam(1e-2, mu_dtype=jnp.float32, eps_root=1e-8)
  found = {}
  for dtype in (jnp.float32, jnp.bfloat16):
    fn = jax.jit(grads.hypergradient(inner, outer, tx, steps=2, carry="full"))
    w = jnp.asarray(W, dtype)
    batches = jnp.broadcast_to(jnp.asarray(A, dtype), (2, 1, 2))
    state = optax.tree.map_params(tx, lambda m: m + 0.1, tx.init(w))  # warm moments
    found[dtype] = fn(jnp.float32(0.7), w, state, batches, jnp.asarray(B, dtype)[None], KEY)
  half = found[jnp.bfloat16]
  assert half.params.dtype == jnp.bfloat16 and half.grad.dtype == jnp.float32
  np.testing.assert_allclose(half.grad, found[jnp.float32].grad, rtol=0.05)  # 8 bits a number


def multiplied(w, multipliers, example, key):
  return multipliers[example["index"]] * jnp.sum(jnp.tanh(w * example["x"]) ** 2)


def test_effect_of_an_example_is_the_hypergradient_of_its_multiplier():
  tx = optax.adam(1e-2, eps_root=1e-12)
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(4, 2)), jnp.float32)
  batch = {
    "x": x,
    "weight": jnp.array([1.0, 2.0, 1.0, 0.0]),  # the last one is padding
    "index": jnp.arange(4),
  }
  w, y = jnp.array([0.5, -0.4]), jnp.asarray(B, jnp.float32)[None]
  state = tx.update(jnp.array([0.3, 0.2]), tx.init(w), w)[1]  # warm
  plain = lambda w, theta, e, key: multiplied(w, jnp.ones(4), e, key)  # noqa: E731
  found = jax.jit(grads.sample_effect(plain, outer, tx))((), w, state, batch, y, KEY)
  once = jax.tree.map(lambda leaf: leaf[None], batch)
  wanted = jax.jit(grads.hypergradient(multiplied, outer, tx))(jnp.ones(4), w, state, once, y, KEY)
  np.testing.assert_allclose(found.effect, wanted.grad, rtol=1e-4)
  own = jax.vmap(jax.grad(lambda w, v: jnp.sum(jnp.tanh(w * v) ** 2)), (None, 0))(w, x[:3])
  v = wanted.params - y[0]
  cosine = own @ v / (jnp.linalg.norm(own, axis=-1) * jnp.linalg.norm(v))
  np.testing.assert_allclose(found.cosine[:3], cosine, rtol=1e-4)
  assert found.effect[3] == 0 and found.cosine[3] == 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"steps": 3, "every": 2}, "every to be at least steps"),
    ({"method": "implicit", "with_start": True}, "with_start=False"),
    ({"method": "first_order"}, "nothing to differentiate"),
  ],
)
def test_options_that_do_not_fit_are_refused(options, message):
  with pytest.raises(InputError, match=message):
    grads.hypergradient(inner, outer, optax.sgd(RATE), **options)


@pytest.mark.parametrize("make", [optax.polyak_sgd, optax.contrib.momo, optax.contrib.sophia])
def test_an_optimiser_that_wants_the_loss_is_refused_in_words(make):
  tx = make(0.1)
  w = jnp.asarray(W, jnp.float32)
  fn = grads.hypergradient(inner, outer, tx)
  with pytest.raises(InputError, match="gradient, state and parameters alone"):
    fn(jnp.float32(0.7), w, tx.init(w), jnp.ones((1, 1, 2)), jnp.ones((1, 2)), KEY)
