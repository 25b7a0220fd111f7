"""A bag has no order, padding and an empty bag are nothing, and linear parts are Shapley values."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import explain, nets
from medjax.check import InputError

RANDOM = np.random.default_rng(0)
TILES = RANDOM.normal(size=(6, 4)).astype(np.float32)
IS_TILE = np.arange(6) < 5


@functools.cache
def built(is_uniform=False):
  net = nets.AttentionMIL(2, 8, 1, hidden=0, is_uniform=is_uniform)
  params = jax.jit(net.init)(jax.random.key(0), TILES, IS_TILE)
  return params, jax.jit(functools.partial(net.apply, params))


def test_it_is_the_mean_by_attention_by_numpy_in_any_order():
  params, call = built()
  own = jax.tree.map(np.asarray, params["params"])
  inner = np.maximum(TILES[:5] @ own["phi0"]["kernel"] + own["phi0"]["bias"], 0)
  scores = (inner @ own["attention"]["kernel"])[:, 0]
  attention = np.exp(scores) / np.exp(scores).sum()
  found = call(TILES, IS_TILE)
  np.testing.assert_allclose(found.attention, [*attention, 0], rtol=1e-5)
  np.testing.assert_allclose(found.bag, attention @ TILES[:5], rtol=1e-5, atol=1e-6)
  logits = found.bag @ own["logits"]["kernel"] + own["logits"]["bias"]
  np.testing.assert_allclose(found.logits, logits, rtol=1e-5, atol=1e-6)
  order = np.array([5, 2, 0, 4, 1, 3])
  moved = call(TILES[order], IS_TILE[order])
  np.testing.assert_allclose(moved.logits, found.logits, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(moved.attention, found.attention[order], rtol=1e-5)


def test_padding_and_an_empty_bag_are_nothing():
  _, call = built()
  lost = TILES.copy()
  lost[5] = np.nan
  np.testing.assert_array_equal(call(lost, IS_TILE).logits, call(TILES, IS_TILE).logits)
  empty = call(TILES, np.zeros(6, bool))
  assert not np.asarray(empty.attention).any() and not np.asarray(empty.bag).any()
  uniform = built(True)[1](TILES, IS_TILE)
  np.testing.assert_allclose(uniform.bag, TILES[:5].mean(0), rtol=1e-5, atol=1e-6)
  with pytest.raises(InputError, match="tiles and mask of one shape"):
    call(TILES, IS_TILE[:5])


def test_linear_parts_sum_to_the_score_less_its_mean_and_are_shapley_values():
  background = RANDOM.normal(size=(9, 4)).astype(np.float32)  # z of other bags
  weights, attention = RANDOM.normal(size=4).astype(np.float32), RANDOM.dirichlet(np.ones(6))
  bag = attention @ TILES
  found = explain.linear_parts(
    *(jnp.asarray(x, jnp.float32) for x in (TILES, attention, weights, background.mean(0)))
  )
  rise = bag @ weights - (background @ weights).mean()
  assert abs(float(found.features.sum()) - rise) < 1e-5
  assert abs(float(found.tiles.sum()) - rise) < 1e-5
  shapley = np.zeros(4)
  for i in range(4):
    for size in range(4):
      share = math.factorial(size) * math.factorial(3 - size) / math.factorial(4)
      for inside in itertools.combinations([j for j in range(4) if j != i], size):
        mixed = background.copy()
        mixed[:, list(inside)] = bag[list(inside)]
        rich = mixed.copy()
        rich[:, i] = bag[i]
        shapley[i] += share * ((rich - mixed) @ weights).mean()
  np.testing.assert_allclose(found.features, shapley, atol=1e-5)
