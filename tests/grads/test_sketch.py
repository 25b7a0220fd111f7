"""Sketches keep inner products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import grads
from medjax.check import InputError
from medjax.grads.sketch import folding, sketched

KEY = jax.random.key(0)
PARAMS = {"w": jnp.ones((6, 5)), "b": jnp.zeros(5)}
BATCH = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def loss(params, example, key):
  del key
  return jnp.tanh(example @ params["w"] + params["b"]).sum() ** 2


def test_a_sketch_is_that_of_the_per_example_gradient():
  found = jax.jit(sketched(loss, size=8))(PARAMS, BATCH, KEY, KEY)
  each = grads.per_sample(loss)(PARAMS, BATCH, KEY).grads
  fold = folding(PARAMS, 8, KEY)
  want = [fold(jax.tree.map(lambda g, i=i: g[i], each)) for i in range(4)]
  np.testing.assert_allclose(found, np.stack(want), rtol=1e-5, atol=1e-5)
  parts = sketched(loss, size=8, microbatch=2)(PARAMS, BATCH, KEY, KEY)
  np.testing.assert_allclose(parts, found, rtol=1e-5, atol=1e-5)


def test_inner_products_are_right_on_average_and_no_more_spread_than_stated():
  each = grads.per_sample(loss)(PARAMS, BATCH[:2], KEY).grads
  flat = np.concatenate([np.asarray(g).reshape(2, -1) for g in jax.tree.leaves(each)], 1)
  flat = flat.astype(np.float64)

  @jax.jit
  @jax.vmap
  def product(key):
    fold = folding(PARAMS, 7, key)
    a, b = (fold(jax.tree.map(lambda g, i=i: g[i], each)) for i in range(2))
    return a @ b

  products = np.asarray(product(jax.vmap(jax.random.key)(jnp.arange(4000))), np.float64)
  exact, squares = flat[0] @ flat[1], (flat[0] @ flat[0]) * (flat[1] @ flat[1])
  bound = (squares + exact**2) / 7
  np.testing.assert_allclose(products.mean(), exact, atol=5 * np.sqrt(bound / 4000))
  assert products.var() < 1.1 * bound  # 4000 draws


def test_a_loss_that_mixes_examples_is_refused():
  def coupled(params, example, key):
    return jax.lax.pmean(loss(params, example, key), "batch")

  with pytest.raises(InputError, match="a loss of one example"):
    sketched(coupled)(PARAMS, BATCH, KEY, KEY)
