"""MixStyle: with oneself it is nothing, and it hands over means and deviations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medjax import nets
from medjax.check import InputError
from medjax.nets.mixstyle import mixstyle

KEY = jax.random.key(0)


class Seen(nn.Module):
  """Returns what its layer hands on."""

  @nn.compact
  def __call__(self, image):
    return nn.Conv(3, (1, 1), name="layer")(image[None])


PREDICT = mixstyle(Seen(), layers=("layer",), alpha=1.0, probability=1.0)


def images():
  one = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
  return jnp.asarray(one[0]), jnp.asarray(3 * one[1] + 2)


@pytest.fixture(scope="module")
def params():
  return nets.from_linen(Seen()).init(KEY, images()[0])[0]


@pytest.fixture(scope="module")
def predict():
  return jax.jit(PREDICT)


def test_a_partner_like_oneself_changes_nothing(params, predict):
  image, _ = images()
  want = Seen().apply({"params": params}, image)
  np.testing.assert_allclose(predict(params, image, image, KEY), want, atol=1e-5)


def test_the_default_layers_are_those_of_our_u_net():
  network = nets.UNet(num_outputs=2, widths=(4, 4))
  image, partner = images()
  params = jax.eval_shape(nets.from_linen(network).init, KEY, image)[0]
  assert jax.eval_shape(mixstyle(network), params, image, partner, KEY).shape == (8, 8, 2)


def test_features_take_the_moments_of_the_mixture(params, predict):
  image, partner = images()
  own, other = (np.asarray(Seen().apply({"params": params}, x))[0] for x in (image, partner))
  mixed = np.asarray(predict(params, image, partner, KEY))[0]
  # One share a in (0, 1) explains means and deviations of all channels.
  axes = (0, 1)
  share = (mixed.mean(axes) - other.mean(axes)) / (own.mean(axes) - other.mean(axes))
  assert 0 < share[0] < 1
  np.testing.assert_allclose(share, share[0], rtol=1e-3)
  want = share[0] * own.std(axes) + (1 - share[0]) * other.std(axes)
  np.testing.assert_allclose(mixed.std(axes), want, rtol=1e-3)


def test_no_gradient_reaches_the_partner_and_probability_zero_is_the_network(params):
  image, partner = images()
  slope = jax.jit(jax.grad(lambda x: jnp.sum(PREDICT(params, image, x, KEY) ** 2)))(partner)
  assert not slope.any()
  never = mixstyle(Seen(), layers=("layer",), probability=0.0)
  want = Seen().apply({"params": params}, image)
  np.testing.assert_allclose(jax.jit(never)(params, image, partner, KEY), want, atol=1e-5)


def test_layers_that_are_not_there_are_refused(params):
  image, partner = images()
  with pytest.raises(InputError, match="layers"):
    mixstyle(Seen(), layers=("encoder0",))(params, image, partner, KEY)
