"""The normalised focal loss against its formula, and both of its gradients in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medjax import losses


def formula(logits, label, gamma, total=None):
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  known = label >= 0
  own = np.take_along_axis(p, np.where(known, label, 0)[..., None], -1)[..., 0]
  powers = np.where(known, (1 - own) ** gamma, 0.0)
  return (powers * -np.log(own)).sum() / (powers.sum() if total is None else total), powers.sum()


def test_the_loss_and_its_gradients_are_those_of_the_formula():
  random = np.random.default_rng(0)
  logits, label = random.normal(size=(3, 4, 3)), random.integers(-1, 3, (3, 4))
  with jax.enable_x64(True):
    for through in (False, True):
      loss = functools.partial(losses.normalised_focal, gamma=1.7, through_sum=through)
      value, slope = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), jnp.asarray(label))
      wanted, total = formula(logits, label, 1.7)
      np.testing.assert_allclose(value, wanted, rtol=1e-12)
      for place in ((0, 0, 0), (1, 2, 1), (2, 3, 2)):
        move = np.zeros(logits.shape)
        move[place] = 1e-6
        held = None if through else total  # as released, the sum does not move
        found = [formula(logits + s * move, label, 1.7, held)[0] for s in (1, -1)]
        np.testing.assert_allclose((found[0] - found[1]) / 2e-6, slope[place], atol=1e-8)


def test_gamma_0_is_cross_entropy_and_what_is_ignored_or_certain_stays_finite():
  random = np.random.default_rng(1)
  logits = jnp.asarray(random.normal(size=(2, 5, 2)), jnp.float32)
  label = jnp.asarray(random.integers(-1, 2, (2, 5)))
  flat = jax.jit(functools.partial(losses.normalised_focal, gamma=0))(logits, label)
  wanted = formula(np.asarray(logits, np.float64), np.asarray(label), 0)[0]
  np.testing.assert_allclose(flat, wanted, rtol=1e-6)
  both = jax.jit(jax.value_and_grad(losses.normalised_focal))
  for given in (np.full((2, 5), -1, np.int32), np.zeros((2, 5), np.int32)):
    sure = np.stack([np.full((2, 5), 200.0), np.zeros((2, 5))], -1).astype(np.float32)
    value, slope = both(sure, given)
    assert value == 0 and np.isfinite(slope).all()
