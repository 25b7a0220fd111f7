"""Conditional instance norm and its block: what they are without a condition, and at the start."""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.nets.condition import ConditionBlock, conditional_instance_norm

X = np.random.default_rng(0).normal(2.0, 3.0, (5, 4, 3)).astype(np.float32)


def test_gamma_1_and_beta_0_are_instance_norm():
  wanted = (X - X.mean((0, 1))) / (X.std((0, 1)) + 1e-5)
  found = conditional_instance_norm(jnp.asarray(X), jnp.ones(3), jnp.zeros(3))
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  scaled = conditional_instance_norm(jnp.asarray(X), jnp.full(3, 2.0), jnp.full(3, -1.0))
  np.testing.assert_allclose(scaled, 2 * wanted - 1, rtol=1e-5, atol=1e-5)


def test_a_constant_channel_has_a_gradient():
  loss = lambda x: conditional_instance_norm(x, jnp.ones(3), jnp.zeros(3)).sum()  # noqa: E731
  assert np.isfinite(jax.grad(loss)(jnp.ones((2, 2, 3)))).all()


def test_conditions_are_alike_at_the_start_and_the_skip_starts_as_the_identity():
  for has_skip in (False, True):
    block = ConditionBlock(num_conditions=2, has_skip=has_skip)
    params = block.init(jax.random.key(0), jnp.asarray(X), jnp.int32(0))
    apply = jax.jit(block.apply)
    first, second = (apply(params, jnp.asarray(X), jnp.int32(g)) for g in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.array_equal(first, X) == has_skip
    moved = jax.tree.map(lambda x: x + 0.1, params)
    first, second = (apply(moved, jnp.asarray(X), jnp.int32(g)) for g in range(2))
    assert np.abs(first - second).max() > 1e-3
