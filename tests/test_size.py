"""Penalties on sizes, the masked Dice of sigmoids, and the adapter: closed forms and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import losses, nets
from medjax.check import InputError


def test_the_printed_penalty_is_the_distance_to_the_margin_and_pushes_back_into_it():
  value = jax.jit(jax.vmap(jax.value_and_grad(lambda s: losses.size_penalty(s, 50.0, margin=0.2))))
  found, slope = value(jnp.array([10.0, 39.9, 45.0, 60.1, 90.0]))
  np.testing.assert_allclose(found, [30, 0.1, 0, 0.1, 30], atol=1e-4)
  assert slope.tolist() == [-1, -1, 0, 1, 1]  # descent makes small ones grow, large ones shrink


def test_the_released_penalty_counts_the_ratio_alone_and_has_the_slope_of_the_relative_error():
  penalty = lambda s, w: losses.released_size_penalty(s, w, margin=0.3)  # noqa: E731
  sizes = jnp.array([20.0, 69.0, 80.0, 140.0, 400.0])
  both = jax.jit(jax.vmap(jax.value_and_grad(penalty), (0, None)))
  found, slope = both(sizes, 100.0)
  # e = (S - s) / max: .8, .31, .2, -.2857, -.75
  np.testing.assert_allclose(found, [0.5, 0.01, 0, 0, 1.05], atol=1e-5)
  np.testing.assert_allclose(both(3 * sizes, 300.0)[0], found, atol=1e-5)
  np.testing.assert_allclose(slope, [-0.01, -0.01, 0, 0, 100 / 400**2], rtol=1e-4)


def test_the_margin_is_the_farthest_of_the_labelled_from_the_others():
  assert losses.size_margin([10.0, 10.0]) == 0
  assert losses.size_margin([10.0, 30.0]) == pytest.approx(2.0)  # 30 against 10
  assert losses.size_margin([7.0]) == 0.3
  with pytest.raises(InputError, match="an organ that every labelled volume shows"):
    losses.size_margin([3.0, 0.0])
  with pytest.raises(InputError, match="one labelled volume or more, got none"):
    losses.size_margin([])


def test_the_masked_dice_is_the_mean_over_what_is_labelled_and_the_rest_has_no_gradient():
  random = np.random.default_rng(0)
  logits = random.normal(size=(3, 4, 3)).astype(np.float32)
  label = random.integers(-1, 4, (3, 4))
  p = np.where(label[..., None] >= 0, 1 / (1 + np.exp(-logits)), 0)
  scores = [
    1 - (2 * p[label == k][:, k - 1].sum() + 1) / (p[..., k - 1].sum() + (label == k).sum() + 1)
    for k in (1, 2, 3)
  ]
  dice = jax.jit(jax.value_and_grad(losses.labelled_dice))
  for own in ((1,), (1, 3), (1, 2, 3)):
    mask = np.isin(np.arange(4), own)
    loss, gradient = dice(logits, label, mask)
    np.testing.assert_allclose(loss, np.mean([scores[k - 1] for k in own]), rtol=1e-5)
    moved = np.abs(np.asarray(gradient)).max((0, 1)) > 0
    assert moved.tolist() == mask[1:].tolist()


def test_the_adapter_is_its_equation_and_sees_its_neighbours():
  net, z = nets.SpatialAdapter(), np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
  apply = jax.jit(net.apply)
  params = jax.jit(net.init)(jax.random.key(0), z)["params"]

  def normed(x, number):
    kernel = np.asarray(params[f"conv{number}"]["kernel"], np.float64)
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = sum(padded[i : i + 4, j : j + 5] @ kernel[i, j] for i in range(3) for j in range(3))
    return (y - y.mean((0, 1))) / np.sqrt(y.var((0, 1)) + 1e-6)

  leaky = lambda x: np.where(x > 0, x, 0.01 * x)  # noqa: E731
  y = leaky(normed(leaky(normed(z, 1)), 2) + normed(z, 3))
  head = params["head"]
  wanted = y @ np.asarray(head["kernel"])[:, 0] + float(head["bias"][0])
  np.testing.assert_allclose(apply({"params": params}, z), wanted, rtol=1e-3, atol=1e-4)
  probe = nets.SpatialAdapter(convolves=False)
  sizes = jax.eval_shape(probe.init, jax.random.key(0), jnp.zeros((4, 4, 4, 48)))
  assert sum(x.size for x in jax.tree.leaves(sizes)) == 49
