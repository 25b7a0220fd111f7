"""Normalised ReLU and soft Dice, of one example and over a batch as published."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.axes import BATCH_AXIS
from medjax.check import InputError
from medjax.ops.soft_segmentation import normalised_relu, soft_overlap_loss

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).uniform(size=(3, 4, 5)), jnp.float32)


def test_it_is_the_published_formula():
  positive = np.maximum(X[0], 0)
  np.testing.assert_allclose(normalised_relu(X[0]), positive / positive.max(), rtol=1e-6)
  p = positive / positive.max()
  want = 1 - (2 * (p * Y[0]).sum() + 1) / (p.sum() + Y[0].sum() + 1)
  np.testing.assert_allclose(soft_overlap_loss(jnp.asarray(p), Y[0]), want, rtol=1e-6)


def test_a_scale_changes_nothing_and_nothing_positive_is_nothing():
  np.testing.assert_allclose(normalised_relu(4 * X[0]), normalised_relu(X[0]), rtol=1e-6)
  value, gradient = jax.value_and_grad(lambda x: normalised_relu(x).sum())(-jnp.abs(X[0]))
  assert value == 0 and np.all(gradient == 0)


def test_the_published_forms_are_those_of_the_whole_batch():
  def one(x, y):
    p = normalised_relu(x, couple_batch=True)
    return p, soft_overlap_loss(p, y, couple_batch=True)

  p, loss = jax.jit(jax.vmap(one, axis_name=BATCH_AXIS))(X, Y)
  whole = np.maximum(X, 0) / X.max()
  np.testing.assert_allclose(p, whole, rtol=1e-6)
  want = 1 - (2 * (whole * Y).sum() + 1) / (whole.sum() + Y.sum() + 1)
  np.testing.assert_allclose(loss, np.full(3, want), rtol=1e-5)


def test_coupling_has_the_gradient_of_the_batch():
  def coupled(x):
    out = jax.vmap(functools.partial(normalised_relu, couple_batch=True), axis_name=BATCH_AXIS)(x)
    return (out * Y).sum()

  def plain(x):
    positive = jax.nn.relu(x)
    return (positive / positive.max() * Y).sum()

  np.testing.assert_allclose(jax.grad(coupled)(X), jax.grad(plain)(X), atol=1e-5)


@pytest.mark.parametrize("function", [normalised_relu, functools.partial(soft_overlap_loss, Y[0])])
def test_coupling_needs_a_batch(function):
  with pytest.raises(InputError, match="a vmapped axis named 'batch'"):
    function(X[0], couple_batch=True)
