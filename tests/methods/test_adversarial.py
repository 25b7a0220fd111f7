"""Adversarial training: one backward pass for two gradients, and what the batch may not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from medjax import grads, methods, nets, rng
from medjax.check import InputError
from medjax.methods import adversaries
from medjax.methods.adversarial import adversarial
from medjax.types import Batch

KEY = jax.random.key(0)
# Without biases: their gradients are plain sums, which XLA orders differently in every program.
CONV = functools.partial(nn.Conv, kernel_size=(3, 3), use_bias=False)
MODEL = nets.from_linen(nn.Sequential([CONV(3), nn.silu, CONV(1)]))


def loss_fn(params, example, key):
  noise = 0.1 * jax.random.normal(key, example.image.shape)
  output, _ = MODEL.apply(params, example.image + noise)
  return jnp.mean((output[..., 0] - example.label) ** 2)


def batch_of(seed=0, size=3, space=(6, 6)):
  random = np.random.default_rng(seed)
  return Batch(
    image=jnp.asarray(random.normal(size=(size, *space, 1)), jnp.float32),
    label=jnp.asarray(random.integers(0, 2, (size, *space)), jnp.int32),
    domain=jnp.zeros(size, jnp.int32),
    subject=jnp.arange(size, dtype=jnp.int32),
    index=jnp.arange(size, dtype=jnp.int32) + 10,
    weight=jnp.array([1.0, 0.5, 1.0], jnp.float32)[:size],
  )


def brighter(key, image):
  return image * (1 + jax.random.uniform(key)) + 0.3


@pytest.fixture(scope="module")
def params():
  return MODEL.init(KEY, jnp.zeros((6, 6, 1)))[0]


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_both_gradients_of_one_pass_are_bitwise_those_of_two(params):
  adversary, tx = adversaries.lgs_fusion(brighter, pool=2), optax.sgd(0.1, momentum=0.9)
  batch = batch_of()
  step = adversarial(loss_fn, tx, adversary, num_updates=2)

  @jax.jit
  def two_passes(state):
    loss_key, start, ascent = rng.streams(KEY, "loss", "adversary", "ascent")
    params, opt_state = state.params, state.opt_state
    a = jax.vmap(adversary.parameters)(rng.example_keys(start, batch), batch)

    def mean_loss(params, images):
      seen = batch.replace(image=images)
      return grads.batch_mean(lambda e, k: loss_fn(params, e, k), seen, loss_key)

    for number in range(2):
      images = jax.vmap(adversary.render)(a, batch)
      of_params = jax.grad(mean_loss, 0)(params, images)
      # A fence keeps the compiler from finding out that both passes have most in common.
      apart = jax.lax.optimization_barrier((params, images, of_params))
      of_images = jax.grad(mean_loss, 1)(*apart[:2])
      updates, opt_state = tx.update(of_params, opt_state, params)
      params = optax.apply_updates(params, updates)
      keys = rng.example_keys(jax.random.fold_in(ascent, number), batch)
      a = jax.vmap(adversary.project)(a, of_images, batch, keys) if number < 1 else a
    return params, opt_state, jax.vmap(adversary.describe)(a, of_images, batch)["fusion_weight"]

  state = step.init(params, KEY)
  new, metrics = jax.jit(step.update)(state, batch, KEY)
  want, opt_state, weight = two_passes(state)
  assert_equal(new.params, want)
  assert_equal(new.opt_state, opt_state)
  np.testing.assert_allclose(metrics["fusion_weight"], np.average(weight, weights=batch.weight))
  assert 0 < float(metrics["fusion_weight"]) < 0.25


def test_one_update_from_the_image_itself_is_supervised_training(params):
  tx, batch = optax.sgd(0.1), batch_of()
  plain = methods.supervised(loss_fn, tx)
  step = adversarial(loss_fn, tx, adversaries.lgs_fusion(brighter), num_updates=1)
  state = plain.init(params, KEY)
  want, said = jax.jit(plain.update)(state, batch, KEY)
  new, metrics = jax.jit(step.update)(step.init(params, KEY), batch, KEY)
  assert_equal(new, want)
  assert metrics["loss"] == metrics["loss_0"] == said["loss"]
  assert metrics["grad_norm"] == said["grad_norm"]


def test_the_optimiser_counts_updates_and_the_state_batches(params):
  step = adversarial(loss_fn, optax.adam(1e-2), adversaries.pgd(eps=0.1), num_updates=3)
  state = step.init(params, KEY)
  update = jax.jit(step.update)
  for _ in range(2):
    state, metrics = update(state, batch_of(), KEY)
  assert int(state.step) == 2
  assert int(state.opt_state[0].count) == 6
  losses = [float(metrics[f"loss_{number}"]) for number in range(3)]
  np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-6)
  assert step.manifest["num_updates"] == 3
  assert step.manifest["adversary_noise_eps"] == 0.1


def test_padding_and_the_order_of_examples_change_nothing(params):
  adversary = adversaries.lgs_fusion(brighter, direction="random", pool=2)
  step = adversarial(loss_fn, optax.sgd(0.1), adversary, num_updates=2)
  update, state, batch = jax.jit(step.update), step.init(params, KEY), batch_of()
  padded = jax.tree.map(lambda x: jnp.concatenate([x, 7 * jnp.ones_like(x[:2])]), batch)
  padded = padded.replace(weight=jnp.concatenate([batch.weight, jnp.zeros(2)]))
  want, metrics = update(state, batch, KEY)
  for other in (padded, jax.tree.map(lambda x: x[::-1], batch)):
    new, same = update(state, other, KEY)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, (new.params, metrics), (want.params, same))


def test_labels_move_with_the_image():
  # The loss is 0 if and only if the label still lies on the image that was moved.
  def mismatch(params, example, key):
    del key
    known = example.label >= 0
    shown = jnp.where(known, example.image[..., 0] - example.label, 0.0)
    return jnp.sum(shown**2) + 0.0 * params

  batch = batch_of(size=1)
  batch = batch.replace(image=batch.label[..., None].astype(jnp.float32))
  shift = adversaries.affine(0.0, scaling=0.0, translation_fraction=1 / 6)  # one voxel of six
  whole = shift._replace(identity=lambda image: jnp.array([0.0, 0.0, 0.0, 1.0, -1.0]))
  for adversary, want in (
    (adversaries.chain(whole), 0.0),
    (adversaries.chain(whole._replace(relabel=None)), None),
  ):
    step = adversarial(mismatch, optax.sgd(0.1), adversary, num_updates=1)
    _, metrics = jax.jit(step.update)(step.init(jnp.float32(0), KEY), batch, KEY)
    assert (float(metrics["loss"]) < 1e-9) == (want == 0.0)


def test_no_update_is_refused():
  with pytest.raises(InputError, match="num_updates"):
    adversarial(loss_fn, optax.sgd(0.1), adversaries.free(eps=0.1), num_updates=0)


def test_a_mapping_is_told_to_become_a_batch(params):
  step = adversarial(loss_fn, optax.sgd(0.1), adversaries.pgd(eps=0.1), num_updates=1)
  with pytest.raises(InputError, match="expected a Batch, whose image .*got dict; stack a source"):
    step.update(step.init(params, KEY), {"image": np.zeros((2, 6, 6, 1))}, KEY)
