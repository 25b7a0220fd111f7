"""Tree and dtype helpers that optax.tree and jax.tree lack."""

import jax
import jax.numpy as jnp

from medjax.types import PyTree


def all_finite(tree: PyTree) -> jax.Array:
  """Scalar bool: no leaf holds NaN or infinity."""
  return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def size(tree: PyTree) -> int:
  """Number of scalars in all leaves."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def at_least_float32(x: jax.Array) -> jax.Array:
  """bfloat16 and float16 up to float32, float64 kept: losses and norms need the digits."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
