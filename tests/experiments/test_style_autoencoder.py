"""The trained style transfer: what holds for any weights, and that training does what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.lscl.style_autoencoder import style_loss, style_transfer
from medjax import methods, nets
from medjax.check import InputError
from medjax.methods.mixing import paired
from medjax.nets.wavelet_autoencoder import WaveletAutoencoder
from medjax.synth.style_bank import style_bank
from medjax.types import Batch

KEY = jax.random.key(0)
NETWORK = WaveletAutoencoder(widths=(4, 6))


def images(count=4, space=(12, 12)):
  """Blobs on a plane, of different brightness and contrast."""
  random = np.random.default_rng(0)
  grid = np.stack(np.meshgrid(*(np.arange(n) for n in space), indexing="ij"))
  made = []
  for _ in range(count):
    centre = random.uniform(3, 9, len(space)).reshape(-1, *(1,) * len(space))
    blob = np.exp(-((grid - centre) ** 2).sum(0) / 8)
    made.append(random.uniform(0, 0.4) + random.uniform(0.2, 1) * blob)
  return jnp.asarray(np.stack(made)[..., None], jnp.float32)


def test_many_styles_are_the_styles_one_by_one_and_the_own_style_is_the_reconstruction():
  image = images(1, (11, 9))[0]
  random = np.random.default_rng(1)
  shapes = jax.eval_shape(NETWORK.init, KEY, image)["params"]
  params = jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.3, x.shape), x.dtype), shapes)
  others = jnp.asarray(random.gamma(2.0, size=(2, 2, 4)), jnp.float32)
  how = style_transfer(NETWORK, params)

  @jax.jit
  def styled(image):
    targets = jnp.concatenate([how.statistics(image)[None], others])
    one = jax.vmap(how.transfer, (None, 0))(image, targets)
    restored = NETWORK.apply({"params": params}, image)
    return how.transfer_many(image, targets), one, restored

  many, one, restored = styled(image)
  assert one.shape == (3, *image.shape)
  np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(one[0], restored, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_restores_images_and_moves_styles_towards_their_targets():
  made = images()
  params = nets.from_linen(NETWORK).init(KEY, made[0])[0]
  batch = Batch(
    image=made,
    label=jnp.zeros(4, jnp.int32),
    domain=jnp.zeros(4, jnp.int32),
    subject=jnp.arange(4),
    index=jnp.arange(4),
    weight=jnp.ones(4),
  )
  step = paired(methods.supervised(style_loss(NETWORK), optax.adam(1e-2)))
  update, state = jax.jit(step.update), step.init(params, KEY)
  for t in range(200):
    state, _ = update(state, batch, jax.random.fold_in(KEY, t))

  @jax.jit
  def error(params):
    return jnp.mean((jax.vmap(lambda x: NETWORK.apply({"params": params}, x))(made) - made) ** 2)

  assert error(state.params) < 0.1 * made.var() < error(params)
  how = style_transfer(NETWORK, state.params)
  bank = style_bank(made, how=how)
  bright = int(np.argmax(made.mean((1, 2, 3))))
  dark = int(np.argmin(made.mean((1, 2, 3))))
  styled = jax.jit(how.transfer)(made[dark], bank.statistics[bright])
  gap = made[bright].mean() - made[dark].mean()
  assert abs(float(styled.mean() - made[bright].mean())) < 0.25 * float(gap)


def test_volumes_keep_their_shape():
  params = jax.eval_shape(NETWORK.init, KEY, images(1, (6, 5, 7))[0])["params"]

  def styled(params, image):
    how = style_transfer(NETWORK, params)
    return how.transfer_many(image, how.statistics(image)[None])

  assert jax.eval_shape(styled, params, images(1, (6, 5, 7))[0]).shape == (1, 6, 5, 7, 1)


def test_images_of_one_coarse_voxel_are_refused():
  with pytest.raises(InputError, match="more than 2 voxels"):
    NETWORK.init(KEY, jnp.ones((2, 8, 1)))
  with pytest.raises(InputError, match="2 levels"):
    WaveletAutoencoder(widths=(4,)).init(KEY, jnp.ones((8, 8, 1)))
