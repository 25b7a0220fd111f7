"""DenseNet: torchvision's count by hand, heads that share the body, and what couples examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import nets, tree
from medjax.axes import BATCH_AXIS
from medjax.check import InputError
from medjax.nets.densenet import DenseNet

KEY = jax.random.key(0)
SMALL = {"num_layers": (1, 1), "growth": 4, "width": 8, "bottleneck": 2}


def by_hand(channels):
  total, width = 49 * channels * 64 + 2 * 64, 64
  for block, num_layers in enumerate((6, 12, 24, 16)):
    if block > 0:
      total += 2 * width + width * width // 2
      width //= 2
    for _ in range(num_layers):
      total += 2 * width + 128 * width + 2 * 128 + 9 * 128 * 32
      width += 32
  assert width == 1024
  return total + 2 * width


@pytest.mark.parametrize(("channels", "published"), [(3, 6_953_856), (1, 6_947_584)])
@pytest.mark.parametrize("kind", ["batch", "group"])
def test_number_of_parameters_is_that_of_torchvision(channels, published, kind):
  model = nets.from_linen(DenseNet((14, 13), norm=kind))
  params, _ = jax.eval_shape(model.init, KEY, jnp.zeros((64, 64, channels)))
  heads = tree.size(params["head0"]), tree.size(params["head1"])
  assert heads == (1025 * 14, 1025 * 13)
  assert tree.size(params) - sum(heads) == by_hand(channels) == published


def test_a_further_head_leaves_the_first_alone():
  image = jnp.asarray(np.random.default_rng(0).normal(size=(33, 40, 1)), jnp.float32)
  one = nets.from_linen(DenseNet((3,), norm="group", **SMALL))
  two = nets.from_linen(DenseNet((3, 2), norm="group", **SMALL))
  params, state = two.init(KEY, image)
  assert state == {}
  both = jax.jit(two.apply)(params, image)[0]
  shared = {name: value for name, value in params.items() if name != "head1"}
  assert both.shape == (5,)
  np.testing.assert_allclose(both[:3], jax.jit(one.apply)(shared, image)[0], atol=1e-6)


def test_gradient_reaches_every_parameter_and_statistics_move():
  batch = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 1)), jnp.float32)
  model = nets.from_linen(DenseNet((3,), **SMALL))
  params, state = model.init(KEY, batch[0])

  def loss(params):
    one = lambda x: model.apply(params, x, model_state=state, train=True)  # noqa: E731
    logits, states = jax.vmap(one, axis_name=BATCH_AXIS)(batch)
    return jnp.sum(jnp.sin(logits)), states

  gradient, states = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))
  moved = jax.tree.map(lambda new, old: bool(jnp.any(new[0] != old)), states, state)
  assert all(jax.tree.leaves(moved))


def test_no_head_is_refused():
  with pytest.raises(InputError, match="num_outputs"):
    DenseNet(())
