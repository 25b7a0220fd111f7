"""How clipped sums clip, weigh and refuse, in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import grads
from medjax.check import InputError
from tests.grads.clipping_checks import BATCH, KEY, PARAMS, linear, normal


@pytest.mark.parametrize("method", ["ghost", "vmap"])
@pytest.mark.parametrize(
  ("clip", "max_norm", "want"),
  [
    ("global", 1.0, ([3 / 13 + 0.3, 4 / 13], [12 / 13 + 0.4])),
    ("global", jnp.inf, ([3.3, 4.0], [12.4])),
    ("per_leaf", 1.0, ([0.6 + 0.3, 0.8], [1.0 + 0.4])),
    ("automatic", 1.0, ([3 / 13.01 + 0.3 / 0.51, 4 / 13.01], [12 / 13.01 + 0.4 / 0.51])),
    (lambda path: "a" if path == "0" else "b", {"a": 2.5, "b": 0.2}, ([1.8, 2.0], [0.4])),
  ],
)
def test_ways_to_clip(method, clip, max_norm, want):
  run = jax.jit(grads.clipped_sum(linear, max_norm, clip=clip, method=method))
  out = run(PARAMS, BATCH, KEY)
  np.testing.assert_allclose(out.norms, [13, 0.5], rtol=1e-6)
  for got, expected in zip(out.grads, want, strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_weights_and_alignment_multiply_what_was_clipped(method):
  direction = (jnp.array([1.0, 0.0]), jnp.array([-1.0]))  # dots 3 - 12 = -9 and 0.3 - 0.4 = -0.1

  def keep_aligned(norm, dot):
    return jnp.where(dot > -1, 5.0, jnp.nan)  # cut to 1, and NaN to 0

  clipped = grads.clipped_sum(linear, 1.0, method=method)
  run = jax.jit(functools.partial(clipped, weight_fn=keep_aligned))
  out = run(PARAMS, BATCH, KEY, weights=jnp.array([1.0, 0.5]), direction=direction)
  np.testing.assert_allclose(out.dots, [-9, -0.1], rtol=1e-5)
  np.testing.assert_allclose(out.grads[0], [0.15, 0], rtol=1e-6)


def broken_dense(params, example, key):
  del key
  return jnp.sum((example @ params["w"]) ** 2)


def broken_convolution(params, example, key):
  del key
  x = example.reshape(1, 4, 4, 1)
  out = jax.lax.conv_general_dilated(
    x, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jnp.sum(jnp.sqrt(out))  # slope infinite at 0, NaN below


@pytest.mark.parametrize("method", ["ghost", "vmap"])
@pytest.mark.parametrize("loss", [broken_dense, broken_convolution])
def test_a_gradient_that_is_not_finite_adds_exactly_nothing(loss, method):
  params = {"w": jnp.ones((16, 2)), "k": jnp.ones((3, 3, 1, 1))}
  good = jnp.abs(normal(1, 2, 16)) + 1
  bad = jnp.stack([good[0], jnp.full(16, jnp.nan), good[1], jnp.full(16, jnp.inf)])
  run = jax.jit(grads.clipped_sum(loss, 1.0, method=method))
  want = run(params, good, KEY)
  got = run(params, bad, KEY)
  assert not np.isfinite(np.asarray(got.norms)[[1, 3]]).any()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got.grads, want.grads)


@pytest.mark.parametrize("options", [{"max_norm": 0.0}, {"max_norm": float("nan")}, {"chunk": 0}])
def test_bad_settings_are_refused(options):
  with pytest.raises(InputError):
    grads.clipped_sum(linear, **{"max_norm": 1.0, **options})


def test_auxiliary_output_comes_per_example():
  def loss(params, example, key):
    return linear(params, example, key), {"first": example[0][0]}

  for method in ("ghost", "vmap"):
    out = jax.jit(grads.clipped_sum(loss, 1.0, has_aux=True, method=method))(PARAMS, BATCH, KEY)
    np.testing.assert_allclose(out.aux["first"], [3, 0.3])


def cancelling_dense(params, example, key):
  del key
  y = example @ params["w"]
  return jnp.sum(jnp.sin(y - y.mean(0, keepdims=True)))


def cancelling_convolution(params, example, key):
  del key
  y = jax.lax.conv_general_dilated(
    example.reshape(1, 4, 4, 32),
    params["k"],
    (1, 1),
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return jnp.sum(jnp.sin(y - y.mean((1, 2), keepdims=True)))


@functools.cache
def one_clipped(loss):
  """One program for all offsets."""
  return jax.jit(lambda p, b, w: grads.clipped_sum(loss, 1.0)(p, b, KEY, weights=w))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_terms_that_cancel_do_not_let_an_example_through(offset):
  """Large inputs and cotangents that sum to zero: a Gram product alone would be rounding."""

  params = {"w": 0.1 * normal(1, 32, 32), "k": 0.1 * normal(2, 1, 1, 32, 48)}
  batch = offset + normal(3, 4, 16, 32)
  for loss in (cancelling_dense, cancelling_convolution):
    explained = grads.explain(loss, params, batch[0], KEY).leaves
    assert any("pair" in row.rule for row in explained)
    run = one_clipped(loss)
    for i in range(4):  # what one example adds
      out = run(params, batch, np.eye(4, dtype=np.float32)[i])
      added = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(out.grads)))
      assert np.isfinite(out.norms).all()
      assert added <= 1 + 1e-5


def test_a_batch_of_no_examples_gives_a_gradient_of_zeros():
  for method in ("ghost", "vmap"):
    run = jax.jit(grads.clipped_sum(linear, 1.0, method=method))
    out = run(PARAMS, jax.tree.map(lambda x: x[:0], BATCH), KEY)
    assert out.norms.shape == (0,)
    assert all(float(jnp.abs(g).max()) == 0 for g in out.grads)


def test_what_has_no_norm_here_is_refused():
  with pytest.raises(InputError, match="real floating-point"):
    grads.clipped_sum(linear, 1.0)((jnp.zeros(2, jnp.complex64), jnp.zeros(1)), BATCH, KEY)
  with pytest.raises(InputError, match="finite max_norm"):
    grads.clipped_sum(linear, jnp.inf, clip="automatic")
  with pytest.raises(TypeError, match="scalar"):
    grads.clipped_sum(lambda p, e, k: p * e, 1.0)(jnp.zeros(2), jnp.ones((3, 2)), KEY)
