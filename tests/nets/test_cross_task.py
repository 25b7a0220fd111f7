"""Attention across tasks: who gets whose mask, both layouts of the product, who reaches whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import nets
from medjax.check import InputError
from medjax.nets import cross_task

KEY = jax.random.key(0)


def test_both_layouts_of_the_paper_are_one_product_over_the_places():
  """E of places by channels, and E of channels by places: by associativity the same map."""
  own, partner = np.random.default_rng(0).normal(size=(2, 5, 3))
  got = cross_task.cross_attention(jnp.asarray(own), jnp.asarray(partner))
  for want in (own @ (partner.T @ own) / 5, (own.T @ (partner @ own.T)).T / 5):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  with pytest.raises(InputError, match="partner"):
    cross_task.cross_attention(jnp.asarray(own), jnp.asarray(partner[:4]))


def test_a_closed_mask_takes_from_the_partner_alone():
  """Of one level: the mask of task 1 changes what task 0 takes along, and not what task 1 does."""
  features = jnp.arange(6.0).reshape(2, 3)
  masks = jnp.full((2, 3), 0.3), jnp.full((2, 3), 0.7)
  before = cross_task.exchanged(masks, features)
  after = cross_task.exchanged((masks[0], jnp.zeros((2, 3))), features)
  assert float(jnp.abs(after[0]).max()) == 0
  np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_mask_reaches_the_partner_only_where_masks_are_exchanged(exchanges):
  """Of one level and two classes nothing else connects the tasks: the derivative of one task's
  logits with respect to the other one's mask is 0 without the exchange."""
  module = nets.CrossTask((("class", 2), ("class", 2)), widths=(3,), exchanges=exchanges)
  image = jax.random.normal(KEY, (4, 4, 1))
  params = module.init(KEY, image)
  slope = jax.jit(jax.grad(lambda p: module.apply(p, image)[0].sum()))(params)["params"]
  size = [float(jnp.abs(slope[f"task{i}_mask0"]["kernel"]).max()) for i in range(2)]
  assert size[1] > 0 if exchanges else (size[1] == 0 and size[0] > 0)
