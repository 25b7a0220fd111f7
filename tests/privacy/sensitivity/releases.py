"""Parts that the releases of these tests are made of, on a network of one layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import grads

KEY = jax.random.key(0)


C = 1.5


PARAMS = {"w": np.ones((3, 5), np.float32), "b": np.zeros(5, np.float32)}


BATCH = {"x": np.ones((4, 3), np.float32), "y": np.zeros((4, 5), np.float32)}


PADDED = BATCH | {"weight": np.ones(4, np.float32)}


GROUPS = {"x": np.ones((4, 6, 3), np.float32), "y": np.zeros((4, 6, 5), np.float32)}


def loss(params, example, key=None):
  guess = jnp.tanh(example["x"] @ params["w"] + params["b"])
  return ((guess - example["y"]) ** 2).sum()


def gradients(batch, params, loss=loss):
  examples = {name: batch[name] for name in ("x", "y")}
  return jax.vmap(jax.grad(loss), (None, 0))(params, examples)


def norms(tree):
  return jax.vmap(optax.tree.norm)(tree)


def along(factors, x):
  return factors.reshape(-1, *[1] * (x.ndim - 1))


def scaled(tree, factors):
  return jax.tree.map(lambda x: x * along(factors, x), tree)


def clipped(batch, params):
  found = gradients(batch, params)
  return scaled(found, jnp.minimum(1.0, C / norms(found)))


def total(tree):
  return jax.tree.map(lambda x: x.sum(0), tree)


def weighted(weight, tree):
  return jax.tree.map(lambda x: jnp.tensordot(weight, x, 1), tree)


def cosines(tree, direction):
  dots = jax.vmap(optax.tree.vdot, (0, None))(tree, direction)
  return dots / (norms(tree) * optax.tree.norm(direction))


def trusted(**options):
  return grads.clipped_sum(loss, C, **options)


def augmented(batch):
  wide = {name: jnp.repeat(x, 3, 0) for name, x in batch.items()}
  return wide | {"x": wide["x"] + jax.random.normal(KEY, wide["x"].shape)}


def noisy(batch, params, scale, keys):
  leaves, tree = jax.tree.flatten(total(clipped(batch, params)))
  drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
  return tree.unflatten([(x + scale * z) / 8 for x, z in zip(leaves, drawn, strict=True)])
