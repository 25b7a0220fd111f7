"""Halving and doubling grids: against jax.image.resize, transposed convolution, and block sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.ops import pooling


@pytest.mark.parametrize("space", [(4, 6), (4, 2, 6)])
def test_upsampling_equals_image_resize(space):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *space, 3)), jnp.float32)
  shape = tuple(2 * n for n in space)
  for ours, method in [(pooling.upsample_linear, "linear"), (pooling.upsample_nearest, "nearest")]:
    want = jax.image.resize(x, (2, *shape, 3), method)
    np.testing.assert_allclose(ours(x, shape), want, atol=1e-6)


@pytest.mark.parametrize("space", [(4, 6), (4, 2, 6)])
def test_pools_equal_block_reductions(space):
  x = np.random.default_rng(0).normal(size=(2, *space, 3)).astype(np.float32)
  corners = [
    x[(slice(None), *(slice(o, None, 2) for o in offset))]
    for offset in np.ndindex(*(2,) * len(space))
  ]
  np.testing.assert_allclose(pooling.max_pool(jnp.asarray(x)), np.max(corners, 0))
  np.testing.assert_allclose(pooling.mean_pool(jnp.asarray(x)), np.mean(corners, 0), atol=1e-6)


def test_odd_sizes_round_up_and_come_back():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 7, 2)), jnp.float32)
  assert pooling.max_pool(x).shape == pooling.mean_pool(x).shape == (1, 3, 4, 2)
  assert pooling.max_pool(x)[0, 2, 3, 0] == x[0, 4, 6, 0]
  assert pooling.upsample_linear(pooling.max_pool(x), (5, 7)).shape == x.shape


def test_depth_to_space_is_a_stride_two_transposed_convolution():
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(2, 3, 4, 5)), jnp.float32)
  kernel = jnp.asarray(random.normal(size=(2, 2, 5, 6)), jnp.float32)
  # lax.conv_transpose correlates, so its kernel stands mirrored.
  want = jax.lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "VALID")
  corners = jnp.einsum("bhwi,yxio->bhwyxo", x, kernel).reshape(2, 3, 4, 24)
  np.testing.assert_allclose(pooling.depth_to_space(corners, (6, 8)), want, atol=1e-5)


def test_every_block_hands_its_gradient_to_its_largest_elements():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 6, 2)), jnp.float32)
  x = x.at[0, :2, :2].set(1.0)  # a block of ties
  gradient = jax.jit(jax.grad(lambda x: pooling.max_pool(x).sum()))(x)
  blocks = gradient.reshape(1, 2, 2, 3, 2, 2).sum((2, 4))
  np.testing.assert_allclose(blocks, np.ones((1, 2, 3, 2)))
  np.testing.assert_allclose(gradient[0, :2, :2], 0.25)
  # The gradient of reduce_max divides by a count of maxima: NaN where none is found again.
  assert "reduce_max" not in str(jax.make_jaxpr(jax.grad(lambda x: pooling.max_pool(x).sum()))(x))
