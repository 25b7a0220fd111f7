"""A batch in chunks is that batch: gradient accumulation against the whole, in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import data, methods, train
from medjax.types import Batch

KEY = jax.random.key(0)
SIZE = 7  # chunks of 3 do not divide it


def batch(step):
  random = np.random.default_rng(step)
  index = np.arange(SIZE, dtype=np.int32)
  image = random.normal(size=(SIZE, 3)).astype(np.float32)
  weight = random.integers(0, 3, SIZE).astype(np.float32)
  image[weight == 0] = np.nan  # padding may hold anything
  return Batch(image, image.sum(-1), 0 * index, index, index, weight)


def loss_fn(params, example, key):
  """The key enters, so that an example is augmented alike in a chunk and in the whole."""
  image = example.image + 0.1 * jax.random.normal(key, example.image.shape)
  return 0.5 * (params["w"] @ image + params["b"] - example.label) ** 2


def with_state(params, example, key, model_state):
  return loss_fn(params, example, key), {"mean": 0.9 * model_state["mean"] + 0.1 * example.image}


def start():
  return {"w": jnp.full(3, 0.1), "b": jnp.zeros(())}


@functools.cache
def trained(size, has_state=False):
  """Five steps in chunks of `size`, or of whole batches where it is SIZE."""
  state = {"mean": jnp.zeros(3)} if has_state else None
  loss = with_state if has_state else loss_fn
  step = methods.supervised(loss, optax.adam(0.1), model_state=state, in_chunks=True)
  stream = data.cut(batch, size)
  return train.fit(step, stream, start(), KEY, num_steps=5, log_every=1, progress=False)


@pytest.mark.parametrize("has_state", [False, True])
def test_chunks_are_the_whole_batch_but_for_rounding(has_state):
  whole, cut = trained(SIZE, has_state), trained(3, has_state)
  for name in ("params", "model_state"):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
      getattr(whole.state, name),
      getattr(cut.state, name),
    )
  for a, b in zip(whole.history, cut.history, strict=True):
    for metric in ("loss", "grad_norm"):
      np.testing.assert_allclose(a[metric], b[metric], rtol=1e-5)


def test_the_gradient_is_the_weighted_mean_over_all_examples():
  """Without noise, in float64: sum_i w_i (p . x_i - y_i) (x_i, 1) / sum_i w_i."""

  def plain(params, example, key):
    del key
    return 0.5 * (params["w"] @ example.image + params["b"] - example.label) ** 2

  step = methods.supervised(plain, optax.sgd(1.0), in_chunks=True)
  fit = train.fit(step, data.cut(batch, 2), start(), KEY, num_steps=1, progress=False)
  held, counts = batch(0), batch(0).weight > 0
  x, y, w = (np.float64(v[counts]) for v in (held.image, held.label, held.weight))
  residual = w * (x @ np.full(3, 0.1) - y)
  np.testing.assert_allclose(fit.state.params["w"], 0.1 - residual @ x / w.sum(), rtol=1e-5)
  np.testing.assert_allclose(fit.state.params["b"], -residual.sum() / w.sum(), rtol=1e-5)
