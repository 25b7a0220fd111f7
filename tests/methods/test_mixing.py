"""Mixing baselines: who is paired with whom, and what each does in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods
from medjax.check import InputError
from medjax.methods import mixing
from medjax.synth.style_bank import style_bank, wavelet_style
from medjax.types import Batch

KEY = jax.random.key(0)
SPACE = (6, 6)


def batch_of(size=5, space=SPACE):
  random = np.random.default_rng(0)
  return Batch(
    image=jnp.asarray(random.normal(size=(size, *space, 1)), jnp.float32),
    label=jnp.arange(size, dtype=jnp.int32),
    domain=jnp.zeros(size, jnp.int32),
    subject=jnp.arange(size, dtype=jnp.int32),
    index=jnp.arange(size, dtype=jnp.int32) + 10,
    weight=jnp.ones(size, jnp.float32),
  )


def example_of():
  return jax.tree.map(lambda x: x[0], batch_of(1))


def test_partners_are_one_cycle_through_the_batch():
  partner = np.asarray(jax.jit(mixing.partners)(KEY, batch_of()))
  place, seen = 0, []
  for _ in range(5):
    place = partner[place]
    seen.append(int(place))
  assert sorted(seen) == list(range(5))


def test_partners_depend_on_neither_padding_nor_order():
  batch, find = batch_of(), jax.jit(mixing.partners)
  want = batch.index[find(KEY, batch)]
  padded = jax.tree.map(lambda x: jnp.concatenate([x[:1], x]), batch)
  padded = padded.replace(weight=padded.weight.at[0].set(0))
  found = find(KEY, padded)
  np.testing.assert_array_equal(padded.index[found][1:], want)
  assert found[0] == 0 and 0 not in found[1:]
  flipped = jax.tree.map(lambda x: x[::-1], batch)
  np.testing.assert_array_equal(flipped.index[find(KEY, flipped)][::-1], want)


def test_one_example_is_its_own_partner_and_mixup_then_is_nothing():
  def predict(params, image, key):
    del key
    return params * image

  def loss(logits, label):
    return jnp.mean((logits - label) ** 2)

  def plain(params, example, key):
    return loss(predict(params, example.image, key), example.label)

  tx, batch = optax.sgd(0.1), batch_of(1).replace(label=jnp.array([3]))
  mixed = methods.mixing.paired(methods.supervised(mixing.mixup(predict, loss), tx))
  state = mixed.init(jnp.float32(1), KEY)
  _, one = jax.jit(mixed.update)(state, batch, KEY)
  _, other = jax.jit(methods.supervised(plain, tx).update)(state, batch, KEY)
  np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-6)


def test_mixup_is_the_same_mean_of_images_and_losses():
  # predict returns the image and the loss is label * mean: with means 1 and 0 and labels 1 and 0,
  # the share m of the first gives m * 1 * m + (1 - m) * 0.
  first = example_of().replace(image=jnp.ones((*SPACE, 1)), label=jnp.int32(1))
  second = first.replace(image=jnp.zeros((*SPACE, 1)), label=jnp.int32(0))
  loss_fn = mixing.mixup(lambda p, x, k: x, lambda x, y: y * x.mean(), alpha=0.4)
  keys = jax.random.split(KEY, 4000)
  pair = mixing.Pair(first, second)
  values = np.asarray(jax.jit(jax.vmap(lambda k: loss_fn(None, pair, k)))(keys))
  # E m^2 of Beta(a, a) is (a + 1) / (2 (2 a + 1)) = 1.4 / 3.6
  np.testing.assert_allclose(values.mean(), 1.4 / 3.6, atol=0.03)
  assert 0 <= values.min() and values.max() <= 1


def test_private_training_refuses_partners():
  step = methods.supervised(lambda p, e, k: p, optax.sgd(0.1))
  with pytest.raises(InputError, match="two people"):
    mixing.paired(step.__class__(step.init, step.update, releases_per_sample=1))


def test_transformed_hands_on_the_changed_image_at_the_given_rate():
  loss_fn = mixing.transformed(
    lambda p, example, key: example.image.mean(), lambda key, x: jnp.ones_like(x), probability=0.25
  )
  example = example_of().replace(image=jnp.zeros((*SPACE, 1)))
  keys = jax.random.split(KEY, 2000)
  values = np.asarray(jax.jit(jax.vmap(lambda k: loss_fn(None, example, k)))(keys))
  assert set(values) == {0, 1}
  assert abs(values.mean() - 0.25) < 0.05  # standard deviation 0.01


def test_a_style_bank_is_a_transform():
  bank = style_bank([np.eye(6)[..., None]], how=wavelet_style(1))
  loss_fn = mixing.transformed(lambda p, example, key: example.image.mean(), bank)
  value = jax.jit(lambda e: loss_fn(None, e, KEY))(example_of())
  np.testing.assert_allclose(value, 1 / 6, rtol=1e-4)  # the mean of the style


def test_a_random_convolution_is_a_sum_over_shifts():
  image = jnp.zeros((7, 7, 1)).at[3, 3].set(1.0)
  draw = jax.jit(jax.vmap(mixing.randconv(sizes=(3,), mix=False), (0, None)))
  kernels = np.asarray(draw(jax.random.split(KEY, 500), image))[..., 0]
  # The answer to one bright voxel is the kernel: 3 x 3 numbers of variance 1 / 9, zeros around.
  inside = kernels[:, 2:5, 2:5]
  np.testing.assert_allclose(inside.var(), 1 / 9, rtol=0.1)
  assert np.count_nonzero(kernels) == np.count_nonzero(inside)


def test_random_convolutions_are_linear_and_take_volumes():
  transform = jax.jit(mixing.randconv(sizes=(1, 3)))
  assert jax.eval_shape(transform, KEY, jnp.ones((5, 4, 6, 2))).shape == (5, 4, 6, 2)
  x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 2)), jnp.float32)
  both = transform(KEY, x + 2 * y)
  np.testing.assert_allclose(both, transform(KEY, x) + 2 * transform(KEY, y), atol=1e-5)


def test_even_kernels_and_impossible_shares_are_refused():
  with pytest.raises(InputError, match="odd sizes"):
    mixing.randconv(sizes=(2,))
  with pytest.raises(InputError, match="alpha"):
    mixing.mixup(lambda p, x, k: x, lambda x, y: x, alpha=0)
  with pytest.raises(InputError, match="probability"):
    mixing.transformed(lambda p, e, k: 0.0, lambda k, x: x, probability=2)
