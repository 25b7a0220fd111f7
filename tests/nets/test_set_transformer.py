"""A set has no order, padding is nothing, and without context an item stands alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import explain, nets
from medjax.check import InputError

RANDOM = np.random.default_rng(0)
FEATURES = jnp.asarray(RANDOM.normal(size=(5, 3)), jnp.float32)
IS_ITEM = jnp.array([True, True, True, True, False])
KINDS = jnp.array([0, 1, 2, 1, 0])
ABOUT = (jnp.array([1.0, -1.0]), jnp.array([0.5]))


@functools.cache
def built(has_context):
  net = nets.SetTransformer(2, 8, 2, 2, num_kinds=3, has_context=has_context)
  params = jax.jit(net.init)(jax.random.key(0), FEATURES, IS_ITEM, KINDS, ABOUT)
  return jax.jit(functools.partial(net.apply, params))


def test_the_order_of_the_items_is_the_order_of_the_logits_and_nothing_else():
  order = np.array([3, 0, 4, 2, 1])
  plain = built(True)(FEATURES, IS_ITEM, KINDS, ABOUT).logits
  moved = built(True)(FEATURES[order], IS_ITEM[order], KINDS[order], ABOUT).logits
  real = np.asarray(IS_ITEM)[order]
  np.testing.assert_allclose(moved[real], plain[order][real], atol=1e-5)


def test_what_stands_in_a_padded_place_is_nothing_and_gets_no_attention():
  plain = built(True)(FEATURES, IS_ITEM, KINDS, ABOUT)
  lost = built(True)(FEATURES.at[4].set(jnp.nan), IS_ITEM, KINDS.at[4].set(99), ABOUT)
  np.testing.assert_array_equal(plain.logits[:4], lost.logits[:4])
  shares = np.asarray(explain.attention_rollout(plain.attention))
  assert (shares[:6, 6] == 0).all()  # two tokens about the set and four items
  np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("has_context", [True, False])
def test_without_context_no_other_item_is_seen_not_even_by_way_of_what_is_told_of_the_set(
  has_context,
):
  call = built(has_context)
  plain = call(FEATURES, IS_ITEM, KINDS, ABOUT).logits
  other = call(FEATURES.at[1].add(1.0), IS_ITEM, KINDS, ABOUT).logits
  same = np.abs(np.asarray(plain - other))[[0, 2, 3]].max(1) == 0
  assert same.all() if not has_context else not same.any()
  assert not np.allclose(plain[1], other[1])
  told = call(FEATURES, IS_ITEM, KINDS, (ABOUT[0], -ABOUT[1])).logits
  assert (np.abs(np.asarray(plain - told))[:4].max(1) > 0).all()  # that is seen by every item


def test_a_set_longer_than_its_mask_is_refused():
  net = nets.SetTransformer(1, 8, 1, 2)
  with pytest.raises(InputError, match="items and mask of one shape, got .5,. and .4,."):
    jax.eval_shape(net.init, jax.random.key(0), FEATURES, IS_ITEM[:4])
  with pytest.raises(InputError, match="kinds of items"):
    jax.eval_shape(net.init, jax.random.key(0), FEATURES, IS_ITEM, KINDS)
  with pytest.raises(InputError, match="num_heads divides"):
    nets.SetTransformer(1, 8, 1, 3)
