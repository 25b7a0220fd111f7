"""Images of one task share their contrast, and only that."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medjax import synth


def test_means_are_shared_as_far_as_the_spread_says():
  mixture = synth.Mixture(mean=(0.0, 1.0), std=(0.0, 0.0), zero_background=0.0, dark_background=0.0)
  config = synth.Generator(synth.identity(3), mixture=mixture, quantiles=None)
  labels = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 6, 6)), jnp.int32)
  render = jax.jit(synth.generate_alike, static_argnums=0)
  means = {}
  for spread in (0.0, 0.5, 1.0):
    images, moved = render(config, jax.random.key(0), labels, spread=spread)
    assert (moved == labels).all()
    means[spread] = np.array(
      [[image[..., 0][label == k].mean() for k in range(3)] for image, label in zip(images, labels)]  # noqa: B905
    )
  assert np.ptp(means[0.0], axis=0).max() < 1e-6
  np.testing.assert_allclose(means[0.5], (means[0.0] + means[1.0]) / 2, atol=1e-6)
  assert np.ptp(means[1.0], axis=0).min() > 0.1
  # A problem of the stream becomes images and masks of the class that is asked for.
  example = {"maps": labels, "target": jnp.int32(2)}
  images, masks = functools.partial(synth.render_problem, config)(jax.random.key(0), example)
  assert images.shape == (4, 6, 6, 1) and (masks == (labels == 2)).all()
