"""Episodes: the exact look ahead by differences, first order without curvature, phases in turn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import losses
from medjax.check import InputError
from medjax.methods import episodic

W = np.array([0.4, -0.7], np.float32)
A, B = np.array([1.0, 0.3], np.float32), np.array([-0.2, 0.5], np.float32)
RATE, BETA = 0.3, 0.5
BATCH = {"image": jnp.stack([A, 2 * A]), "index": jnp.arange(2)}
KEY = jax.random.key(0)


def train_loss(w, example, key):
  return jnp.sum(jnp.cosh(w - example["image"]))  # smooth, with curvature that changes


def test_loss(w, anchor, example, key):
  return jnp.sum((w - B) ** 2) + 3.0 * jnp.sum((w - anchor) ** 2)


test_loss.__test__ = False


def stepped(mode, w=W, num=1, **options):
  step = episodic.episodic(
    train_loss, test_loss, optax.sgd(1.0), mode=mode, rate=RATE, strength=BETA, **options
  )
  state, update, found = step.init(jnp.asarray(w), KEY), jax.jit(step.update), []
  for _ in range(num):
    state, metrics = update(state, BATCH, KEY)
    found.append(np.asarray(state.params))
  return found, state, metrics


def gradient(w):
  """Of the mean training loss, in float64."""
  w = np.asarray(w, np.float64)
  return (np.sinh(w - A) + np.sinh(w - 2 * A)) / 2


def differences():
  """Of L_train(w) + beta L_test(w - rate grad L_train(w)); the anchor adds nothing at phi*."""

  def value(w):
    own = np.cosh(w - A).sum() / 2 + np.cosh(w - 2 * A).sum() / 2
    return own + BETA * np.sum((w - RATE * gradient(w) - B) ** 2)

  w, h = W.astype(np.float64), 1e-5
  return np.array([(value(w + h * e) - value(w - h * e)) / (2 * h) for e in np.eye(2)])


def test_exact_looks_ahead_and_the_others_do_not():
  exact = W - stepped("exact")[0][0]
  np.testing.assert_allclose(exact, differences(), rtol=1e-4)
  first = W - stepped("first_order")[0][0]
  ahead = W - RATE * gradient(W)
  np.testing.assert_allclose(first, gradient(W) + BETA * 2 * (ahead - B), rtol=1e-4)
  alternate = W - stepped("alternate")[0][0]
  np.testing.assert_allclose(alternate, gradient(W), rtol=1e-4)
  for other in (first, alternate):  # as far from the meta-gradient as it is long
    assert np.abs(other - differences()).max() > 0.05


def test_phases_alternate_and_the_anchor_is_where_training_ended():
  options = {"period": 2, "test_tx": optax.sgd(0.1)}
  found, state, _ = stepped("alternate", num=5, **options)
  ended = found[1]
  np.testing.assert_allclose(ended, found[0] - gradient(found[0]), rtol=1e-4)
  test = lambda w: BETA * (2 * (w - B) + 6 * (w - ended))  # noqa: E731
  np.testing.assert_allclose(found[2], ended - 0.1 * test(ended), rtol=1e-4)
  np.testing.assert_allclose(found[3], found[2] - 0.1 * test(found[2]), rtol=1e-4)
  np.testing.assert_allclose(found[4], found[3] - gradient(found[3]), rtol=1e-4)
  np.testing.assert_array_equal(state.extra.anchor, found[4])


def test_a_look_ahead_of_nothing_is_refused():
  with pytest.raises(InputError, match="rate"):
    episodic.episodic(train_loss, test_loss, optax.sgd(1.0), rate=0.0)


def test_cosines_are_those_of_numpy_and_scale_does_not_matter():
  z = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
  rows = z.reshape(6, -1)
  cosine = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
  wanted = np.kron(np.eye(3), np.ones((2, 2)))
  found = jax.jit(losses.decorrelation, static_argnames="between")
  np.testing.assert_allclose(found(z), ((wanted - cosine) ** 2).mean(), rtol=1e-5)
  np.testing.assert_allclose(found(7 * z), found(z), rtol=1e-5)
  square = (wanted - cosine) ** 2
  doubled = (np.where(wanted > 0, 1, 2) * square).mean()
  np.testing.assert_allclose(found(z, between=2.0), doubled, rtol=1e-5)
  slope = jax.jit(jax.grad(losses.decorrelation))(jnp.zeros((2, 2, 3)))
  assert np.isfinite(np.asarray(slope)).all()
  with pytest.raises(InputError, match="two images"):
    losses.decorrelation(jnp.asarray(z[:1]))


def test_an_anchor_draws_views_and_is_not_drawn():
  z, anchor = jnp.zeros((2, 3, 4)), jnp.ones((2, 4))
  of_z, of_anchor = jax.grad(losses.view_similarity, (0, 1))(z, anchor)
  np.testing.assert_allclose(of_z, -1 / 24)
  assert not np.asarray(of_anchor).any()
