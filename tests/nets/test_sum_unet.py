"""The U-Net of MMTL and OCTL: its parameters by hand, its batch statistics, its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import nets, tree
from medjax.axes import BATCH_AXIS
from medjax.check import InputError
from medjax.nets.sum_unet import FIRST_LAYERS, SumUNet

SMALL = {"width": 4, "num_blocks": 0}  # a block adds compilation time and no kind of layer
KEY = jax.random.key(0)


def images(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def small():
  model = nets.from_linen(SumUNet(**SMALL))
  return model, *model.init(KEY, images(8, 8, 1))


def by_hand(norms):
  """(parameters, those of the first layers) at 16 channels; `norms` counts those on the logit."""

  def block(c):
    return 2 * (9 * c * c + 2 * c)

  first = 9 * 16 + block(16)
  stem = first + 2 * block(16)
  down = sum(2 * c + 4 * c * 2 * c + 3 * block(2 * c) for c in (16, 32, 64))
  up = 4 * 128 * 64 + 3 * block(64) + 4 * 64 * 32 + 3 * block(32) + 4 * 32 * 16
  shortcuts = sum(c * c + c for c in (16, 32, 64))
  head = 3 * block(16) + 2 * 16 + 16 + 1
  return stem + down + up + shortcuts + head + 2 * norms, first


@pytest.mark.parametrize(("kind", "norms", "published"), [("batch", 1, 1_561_491), ("group", 0, 0)])
def test_number_of_parameters_is_the_count_by_hand(kind, norms, published):
  model = nets.from_linen(SumUNet(norm=kind))
  params, state = jax.eval_shape(model.init, KEY, jnp.zeros((16, 16, 1)))
  total, first = by_hand(norms)
  assert tree.size(params) == total
  assert not published or total == published
  paths = jax.tree_util.tree_leaves_with_path(params)
  named = [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in paths]
  assert sum(leaf.size for name, leaf in named if name.startswith(FIRST_LAYERS)) == first == 4816
  assert set(state) == ({"batch_stats"} if kind == "batch" else set())


@pytest.mark.parametrize("space", [(16, 8), (9, 13), (8, 9, 10)])
def test_logits_are_on_the_grid_of_any_input(space):
  model = nets.from_linen(SumUNet(num_outputs=2, norm="group", **SMALL))
  params, _ = jax.eval_shape(model.init, KEY, images(*space, 3))
  logits, _ = jax.eval_shape(model.apply, params, images(*space, 3))
  assert logits.shape == (*space, 2)


def test_examples_couple_in_training_alone(small):
  model, params, state = small
  batch = images(3, 8, 8, 1)
  changed = batch.at[1].set(7.0)

  def apply(x, train):
    def one(image):
      return model.apply(params, image, model_state=state, train=train)[0]

    return jax.vmap(one, axis_name=BATCH_AXIS)(x)[0]

  run = jax.jit(apply, static_argnums=1)
  assert np.abs(run(batch, True) - run(changed, True)).max() > 1e-3
  np.testing.assert_allclose(run(batch, False), run(changed, False), atol=1e-6)


def test_running_statistics_are_those_of_the_batch_and_logits_are_normalised(small):
  model, params, state = small
  batch = images(3, 8, 8, 1)

  @jax.jit
  def train(batch):
    def one(image):
      return model.apply(params, image, model_state=state, train=True)

    logits, states = jax.vmap(one, axis_name=BATCH_AXIS)(batch)
    features = jax.vmap(
      lambda x: jax.lax.conv_general_dilated(
        x[None],
        params["stem"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )[0]
    )(batch)
    return logits, states, features

  logits, states, features = train(batch)
  # The norm of the logit: mean 0, variance v / (v + 1e-5) over the whole batch.
  np.testing.assert_allclose(logits.mean(), 0, atol=1e-5)
  np.testing.assert_allclose(logits.var(), 1, atol=1e-2)
  found = states["batch_stats"]["down1"]["norm"]
  for leaf in jax.tree.leaves(states):  # every example sees the same batch
    np.testing.assert_array_equal(leaf, jnp.broadcast_to(leaf[:1], leaf.shape))
  flat = np.asarray(features, np.float64).reshape(-1, 4)
  np.testing.assert_allclose(found["mean"][0], 0.1 * flat.mean(0), atol=1e-6)
  np.testing.assert_allclose(found["var"][0], 0.9 + 0.1 * flat.var(0), rtol=1e-5)


def test_one_example_alone_cannot_train_batch_statistics():
  model = nets.from_linen(SumUNet(**SMALL))
  image = images(8, 8, 1)
  params, state = jax.eval_shape(model.init, KEY, image)
  with pytest.raises(InputError, match="norm='group'"):
    jax.eval_shape(lambda p, s: model.apply(p, image, model_state=s, train=True), params, state)
