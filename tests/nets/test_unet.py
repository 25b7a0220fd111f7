"""U-Nets: shapes, symmetries, and what their norms couple."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax import nets, tree


@pytest.mark.parametrize("space", [(12, 10), pytest.param((6, 5, 7), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"norm": "none", "residual": True, "downsample": "mean", "upsample": "nearest"},
    {"norm": "group", "downsample": "conv", "upsample": "transpose", "num_convs": 1},
  ],
)
def test_logits_are_on_the_grid_of_any_input(space, fields):
  model = nets.from_linen(nets.UNet(num_outputs=3, widths=(4, 6, 8), **fields))
  image = jnp.asarray(np.random.default_rng(0).normal(size=(*space, 2)), jnp.float32)
  _, state = jax.eval_shape(model.init, jax.random.key(0), image)
  logits = jax.jit(lambda k, x: model.apply(model.init(k, x)[0], x)[0])(jax.random.key(0), image)
  assert state == {}
  assert logits.shape == (*space, 3)
  assert bool(jnp.isfinite(logits).all())


def test_number_of_parameters_is_the_count_by_hand():
  model = nets.from_linen(nets.UNet(num_outputs=2, widths=(4, 8), norm="none"))
  params, _ = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((8, 8, 1)))

  def conv(i, o):
    return 9 * i * o + o

  want = conv(1, 4) + conv(4, 4) + conv(4, 8) + conv(8, 8) + conv(12, 4) + conv(4, 4) + 4 * 2 + 2
  assert tree.size(params) == want


def test_instance_norm_makes_logits_blind_to_scale():
  # No bias stands before the first norm: doubling the input changes nothing but its epsilon.
  model = nets.from_linen(nets.UNet(num_outputs=2, widths=(4, 8), norm="instance"))
  image = 50 * jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 1)), jnp.float32)
  params, _ = model.init(jax.random.key(0), image)
  f = jax.jit(lambda x: model.apply(params, x)[0])
  np.testing.assert_allclose(f(image), f(2 * image), atol=1e-4)


def test_examples_of_a_batch_do_not_couple():
  model = nets.from_linen(nets.UNet(num_outputs=2, widths=(4, 8)))
  images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 1)), jnp.float32)
  params, _ = model.init(jax.random.key(0), images[0])
  f = jax.jit(jax.vmap(lambda x: model.apply(params, x)[0]))
  changed = f(images.at[1].set(7.0))
  np.testing.assert_allclose(changed[0], f(images)[0], atol=1e-6)


def test_nnx_module_and_its_model_agree():
  class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
      self.dense = nnx.Linear(2, 3, rngs=rngs)
      self.norm = nnx.BatchNorm(3, axis_name="batch", rngs=rngs)

    def __call__(self, x):
      return self.norm(self.dense(x))

  model = nets.from_nnx(Net)
  image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 2)), jnp.float32)
  params, state = model.init(jax.random.key(3), image)
  module = Net(nnx.Rngs(jax.random.key(3)))
  module.eval()
  logits, same = jax.jit(lambda p, s, x: model.apply(p, x, model_state=s))(params, state, image)
  np.testing.assert_allclose(logits, module(image), atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, same, state)
  train = jax.jit(
    jax.vmap(lambda x: model.apply(params, x, model_state=state, train=True)[1], axis_name="batch")
  )
  updated = jax.tree.map(lambda x: x[0], train(jnp.stack([image, 2 * image])))
  assert not np.array_equal(updated["norm"]["mean"], state["norm"]["mean"])


def test_gradient_flows_to_every_parameter():
  model = nets.from_linen(nets.UNet(num_outputs=3, widths=(4, 8), activation="silu"))
  image = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 1)), jnp.float32)
  params, _ = model.init(jax.random.key(0), image)
  gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(p, image)[0]))))(params)
  assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))


def test_auxiliary_heads_halve_the_grid_and_leave_the_prediction_alone():
  image = jnp.asarray(np.random.default_rng(0).normal(size=(13, 10, 1)), jnp.float32)
  fields = {"num_outputs": 3, "widths": (4, 6, 8, 8)}
  plain = nets.from_linen(nets.UNet(**fields))
  deep = nets.from_linen(nets.UNet(**fields, num_auxiliary=2))
  params, _ = deep.init(jax.random.key(0), image)
  finest, half, quarter = jax.jit(lambda p, x: deep.apply(p, x, train=True)[0])(params, image)
  assert finest.shape == (13, 10, 3)
  assert half.shape == (7, 5, 3)
  assert quarter.shape == (4, 3, 3)
  shared = {name: value for name, value in params.items() if name not in ("head1", "head2")}
  predicted = jax.jit(lambda p, x: deep.apply(p, x)[0])(params, image)
  want = jax.jit(lambda p, x: plain.apply(p, x)[0])(shared, image)
  np.testing.assert_array_equal(predicted, want)
  np.testing.assert_allclose(finest, predicted, rtol=0, atol=1e-5)


def test_too_many_auxiliary_heads_are_refused():
  with pytest.raises(ValueError, match="num_auxiliary"):
    nets.UNet(num_outputs=2, widths=(4, 8), num_auxiliary=1)
