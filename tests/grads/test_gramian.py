"""Inner products of gradients against rows that are all formed, and gradients of several tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import grads
from medjax.check import InputError
from medjax.types import Batch

KEY = jax.random.key(0)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def in_float64(loss, params, batch):
  found = jax.jit(grads.per_sample(loss))(params, batch, KEY).grads
  rows = [np.asarray(g, np.float64).reshape(len(g), -1) for g in jax.tree.leaves(found)]
  rows = np.concatenate(rows, axis=1)
  return rows @ rows.T


def everything(p, x, key):
  """A convolution, a lookup, products with one and with many rows, a bias and a tied matrix."""
  image = (x["rows"] + 0.1 * jax.random.normal(key, x["rows"].shape)).reshape(1, 4, 6, 2)
  numbers = ("NHWC", "HWIO", "NHWC")
  y = jax.lax.conv_general_dilated(image, p["k"], (1, 1), "SAME", dimension_numbers=numbers)
  h = jnp.tanh(y.reshape(-1, 8) @ p["w"] + p["b"][None])
  h = h.mean(0) + jnp.take(p["table"], x["code"], axis=0).sum(0)
  return jnp.sum(jnp.sin(h @ p["v"]) @ p["v"].T) + jnp.sum(jnp.cos(h @ p["u"]))


PARAMS = {
  "k": normal(1, 3, 3, 2, 4),
  "w": 0.3 * normal(2, 8, 30),
  "b": normal(3, 30),
  "table": normal(4, 256, 30),
  "v": 0.2 * normal(5, 30, 20),
  "u": 0.2 * normal(6, 30, 40),
}
BATCH = {
  "rows": normal(7, 5, 6, 8),
  "code": jax.random.randint(jax.random.key(8), (5, 3), 0, 6).astype(jnp.uint8),
}


def test_products_agree_with_rows_that_are_formed():
  got = jax.jit(grads.gramian(everything, method="ghost"))(PARAMS, BATCH, KEY)
  want = in_float64(everything, PARAMS, BATCH)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  by_rows = jax.jit(grads.gramian(everything, method="vmap"))(PARAMS, BATCH, KEY)
  np.testing.assert_allclose(by_rows, want, atol=1e-5 * np.abs(want).max())


def test_terms_that_cancel_are_formed():
  """The gradient is a difference of large terms: products of pairs alone would be rounding."""

  def loss(w, x, key):
    del key
    y = x @ w
    return jnp.sum(jnp.sin(y - y.mean(0, keepdims=True)))

  w, batch = 0.1 * normal(1, 32, 64), 100 + normal(2, 3, 2, 32)
  got = jax.jit(grads.gramian(loss))(w, batch, KEY)
  want = in_float64(loss, w, batch)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_the_rows_of_a_wide_layer_are_never_in_memory():
  """32 gradients of 512 x 512 take 32 MiB; the pairs of one row each take 128 KiB."""

  def loss(w, x, key):
    del key
    return jnp.sum(jnp.tanh(x @ w))

  arguments = jnp.zeros((512, 512)), jnp.zeros((32, 512)), KEY

  def memory(method):
    program = jax.jit(grads.gramian(loss, method=method)).lower(*arguments).compile()
    return program.memory_analysis().temp_size_in_bytes

  assert memory("vmap") > 2**25
  assert memory("ghost") < 2**21


def test_a_lost_example_stays_its_own():
  def loss(p, x, key):
    del key
    return jnp.sum(p * x)

  out = grads.gramian(loss)(jnp.zeros(2), jnp.array([[1.0, 2], [jnp.nan, 0], [3, 4]]), KEY)
  assert np.isnan(out[1]).all() and np.isnan(out[:, 1]).all()
  np.testing.assert_allclose(out[::2, ::2], [[5, 11], [11, 25]])
  with pytest.raises(InputError, match="mixes examples"):
    grads.gramian(lambda p, x, k: jax.lax.pmean(p @ x, "batch"))(
      jnp.zeros(2), jnp.ones((3, 2)), KEY
    )


def test_rows_of_tasks_are_the_gradients_of_their_means():
  def first(p, e, key):
    return jnp.sum((p["w"] @ e.image - e.label) ** 2) + 0.1 * jax.random.normal(key)

  def second(p, e, key):
    del key
    return jnp.sum(jnp.abs(p["w"]) * e.image) * p["v"]

  rows = np.arange(3)
  batch = Batch(normal(1, 3, 2), normal(2, 3), rows, rows, rows, np.float32([1, 0, 3]))
  params = {"w": normal(3, 2), "v": jnp.float32(2)}
  values, found = jax.jit(grads.jacobian([first, second]))(params, batch, KEY)
  for i, loss in enumerate((first, second)):
    mean = lambda p, loss=loss: grads.batch_mean(lambda e, k: loss(p, e, k), batch, KEY)  # noqa: E731
    value, gradient = jax.value_and_grad(mean)(params)
    np.testing.assert_allclose(values[i], value, rtol=1e-5)
    for name in params:
      np.testing.assert_allclose(found[name][i], gradient[name], rtol=1e-5)
