"""A code that describes the picture: the bound against sampling, and which terms are there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.methods import variational
from medjax.methods.variational import VariationalWeights, kl_to_normal

MEAN, LOG_VARIANCE = np.array([0.3, -1.2], np.float32), np.array([0.5, -1.0], np.float32)
PICTURE = np.array([[0.0], [0.25], [1.0]], np.float32)


def loss(weights, draw):
  """Code of two latents whatever the picture; pixels by -z0, z0, 2 z1; classes by z."""
  return variational.variational(
    lambda params, image: (jnp.asarray(MEAN), jnp.asarray(LOG_VARIANCE)),
    lambda params, z: jnp.stack([-z[0], z[0], 2 * z[1]])[:, None],
    lambda params, z: z,
    weights=weights,
    draw=draw,
  )


EXAMPLE = {"image": jnp.asarray(PICTURE), "label": jnp.int32(1)}


def test_the_divergence_is_that_of_the_densities():
  """KL = E_q[log q - log p], with 200,000 draws; the figure's own deviation is below .004."""
  std = np.exp(LOG_VARIANCE / 2)
  z = MEAN + std * np.random.default_rng(0).normal(size=(200_000, 2))
  log_q = (-0.5 * ((z - MEAN) / std) ** 2 - np.log(std)).sum(1)
  sampled = (log_q + 0.5 * (z**2).sum(1)).mean()
  assert abs(float(kl_to_normal(jnp.asarray(MEAN), jnp.asarray(LOG_VARIANCE))) - sampled) < 0.02


def test_the_drawn_loss_has_the_mean_of_its_terms_over_the_code():
  weights = VariationalWeights(2.0, 0.5, 3.0)
  one = loss(weights, draw=True)
  keys = jax.random.split(jax.random.key(0), 20_000)
  found = np.asarray(jax.jit(jax.vmap(lambda key: one({}, EXAMPLE, key)))(keys))
  z = MEAN + np.exp(LOG_VARIANCE / 2) * np.random.default_rng(1).normal(size=(20_000, 2))
  seen = np.stack([-z[:, 0], z[:, 0], 2 * z[:, 1]], 1)
  p = 1 / (1 + np.exp(-seen))
  x = PICTURE[:, 0]
  bce = -(x * np.log(p) + (1 - x) * np.log1p(-p)).mean(1)
  ce = np.log(np.exp(z).sum(1)) - z[:, 1]
  kl = float(kl_to_normal(jnp.asarray(MEAN), jnp.asarray(LOG_VARIANCE)))
  expected = 2 * ce + 0.5 * kl + 3 * bce
  error = np.hypot(found.std(), expected.std()) / np.sqrt(20_000)
  assert abs(found.mean() - expected.mean()) < 4 * error


def test_without_its_terms_the_code_is_a_plain_classifier_whatever_the_key():
  one = loss(VariationalWeights(1.0, 0.0, 0.0), draw=False)
  values = [float(one({}, EXAMPLE, jax.random.key(k))) for k in (0, 1)]
  expected = np.log(np.exp(MEAN).sum()) - MEAN[1]
  np.testing.assert_allclose(values, [expected, expected], rtol=1e-6)


def test_more_of_a_class_term_makes_classes_better():
  """The paper prints a minus before the class term, with which descent would make them worse."""
  slope = jax.grad(lambda shift: variational.variational(
    lambda params, image: (jnp.asarray(MEAN) + shift, jnp.asarray(LOG_VARIANCE)),
    lambda params, z: z,
    lambda params, z: z,
    weights=VariationalWeights(1.0, 0.0, 0.0),
    draw=False,
  )({}, EXAMPLE, jax.random.key(0)))(jnp.zeros(2))  # fmt: skip
  assert slope[1] < 0 < slope[0]  # descent raises the logit of the true class


def test_bad_weights_and_pictures_are_refused():
  with pytest.raises(InputError, match="kl"):
    loss(VariationalWeights(kl=-1.0), True)
  other = {**EXAMPLE, "image": jnp.asarray(PICTURE[:2])}
  with pytest.raises(InputError, match="decoded picture"):
    loss(VariationalWeights(), True)({}, other, jax.random.key(0))
