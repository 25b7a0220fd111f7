"""What the tests of clipped sums share: gradients that are all formed, and small losses."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medjax import grads

KEY = jax.random.key(0)


def normal(seed, *shape):
  """In NumPy, so that nothing is compiled for it."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(loss_fn, params, batch, key=KEY, weights=None, max_norm=1.0):
  """Norms and clipped sum from gradients that are all formed, in NumPy's float64."""
  found = jax.jit(grads.per_sample(loss_fn))(params, batch, key).grads
  found = jax.tree.map(lambda g: np.asarray(g, np.float64), found)
  norms = np.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(1) for g in jax.tree.leaves(found)))
  weights = np.ones(len(norms)) if weights is None else np.asarray(weights)
  factor = weights * np.minimum(1, max_norm / norms)
  return norms, jax.tree.map(lambda g: np.tensordot(factor, g, 1), found), found


def assert_trees_close(got, want, tolerance=1e-5):
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * largest), got, want)


def inner_products(found, direction):
  """[example] over all leaves."""
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(direction), strict=True)
  return sum((np.asarray(g) * np.asarray(r)).reshape(len(g), -1).sum(1) for g, r in pairs)


def check(loss_fn, params, batch, **options):
  norms, want, found = reference(loss_fn, params, batch)
  direction = jax.tree.map(lambda x: normal(x.size, *x.shape), params)
  out = jax.jit(
    lambda p, b, k: grads.clipped_sum(loss_fn, 1.0, method="ghost", **options)(
      p, b, k, direction=direction
    )
  )(params, batch, KEY)
  np.testing.assert_allclose(out.norms, norms, rtol=1e-5)
  assert_trees_close(out.grads, want)
  dots = inner_products(found, direction)
  scale = norms.max() * np.sqrt(sum((np.asarray(r) ** 2).sum() for r in jax.tree.leaves(direction)))
  np.testing.assert_allclose(out.dots, dots, atol=1e-6 * scale)


class RandomNet(nn.Module):
  """Blocks of convolutions, norms and products, with skips, in the order of `kinds`."""

  kinds: tuple[str, ...]
  dims: int

  @nn.compact
  def __call__(self, image):
    x = image[None]
    for i, kind in enumerate(self.kinds):
      window = (3,) * self.dims
      if kind == "strided":
        x = nn.Conv(4, window, strides=2, name=f"c{i}")(x)
      elif kind == "dilated":
        x = nn.Conv(4, window, kernel_dilation=2, name=f"c{i}")(x)
      elif kind == "grouped":
        x = nn.Conv(4, window, feature_group_count=2, name=f"c{i}")(nn.Dense(4, name=f"g{i}")(x))
      elif kind == "transposed":
        x = nn.ConvTranspose(3, (2,) * self.dims, strides=(2,) * self.dims, name=f"c{i}")(x)
      elif kind == "norm":
        x = nn.GroupNorm(num_groups=1, name=f"n{i}")(x)
      elif kind == "dense":
        x = nn.silu(nn.Dense(5, name=f"d{i}")(x))
      elif kind == "attention":
        rows = x.reshape(-1, x.shape[-1])
        rows = nn.MultiHeadDotProductAttention(num_heads=1, qkv_features=4, name=f"a{i}")(rows)
        x = rows.reshape(*x.shape[:-1], rows.shape[-1])
      elif kind == "shared":
        layer = nn.Dense(x.shape[-1], name=f"s{i}")
        x = x + layer(nn.tanh(layer(x)))
    return nn.Dense(2, name="head")(x.reshape(-1))


def random_params(net, image):
  """Initial ones, moved so that no bias is zero."""
  params = jax.device_get(jax.jit(net.init)(jax.random.key(2), image)["params"])
  return jax.tree.map(lambda x: x + 0.1 * normal(x.size, *x.shape), params)


def linear(params, example, key):
  """The gradient of an example is the example."""
  del key
  return sum(jnp.vdot(p, x) for p, x in zip(params, example, strict=True))


PARAMS = (jnp.zeros(2), jnp.zeros(1))
BATCH = (jnp.array([[3.0, 4.0], [0.3, 0.0]]), jnp.array([[12.0], [0.4]]))  # norms 13 and 0.5
