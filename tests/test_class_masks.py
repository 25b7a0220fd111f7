"""The loss of SAM-Path against its three parts in NumPy, and what it leaves out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medjax import losses

loss = jax.jit(losses.class_masks, static_argnames=("focal_fraction", "quality_weight"))


@functools.cache
def case():
  random = np.random.default_rng(0)
  logits = random.normal(size=(6, 5, 3)).astype(np.float32)
  return logits, np.array([0.2, 0.7, 0.4], np.float32), random.integers(-1, 3, (6, 5))


def overlaps(logits, quality, label):
  del quality
  known = (label >= 0)[..., None]
  truth = (np.eye(3)[np.maximum(label, 0)] * known)[..., 1:]
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  said = (p[..., 1:] >= 0.5) & known
  return (said * truth).sum((0, 1)) / np.maximum(np.maximum(said, truth).sum((0, 1)), 1)


def parts(logits, quality, label):
  known = (label >= 0)[..., None]
  truth = np.eye(3)[np.maximum(label, 0)] * known
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) * known
  own = lambda x: x[..., 1:].sum((0, 1))  # noqa: E731
  dice = 1 - np.mean(2 * own(p * truth) / (own(p) + own(truth)))
  single = 1 / (1 + np.exp(-logits))
  right = np.where(truth > 0, single, 1 - single)
  focal = ((1 - right) ** 2 * -np.log(right) * known)[..., 1:].sum() / (2 * known.sum())
  return dice, focal, np.mean((quality[1:] - overlaps(logits, quality, label)) ** 2)


def test_the_loss_is_the_weighted_sum_of_its_parts():
  given = case()
  dice, focal, error = parts(*given)
  for a, b in ((0.0, 0.0), (1.0, 0.0), (0.25, 0.0625), (0.0, 3.0)):
    wanted = (1 - a) * dice + a * focal + b * error
    found = loss(*given, focal_fraction=a, quality_weight=b)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_the_rating_alone_learns_from_the_rating_and_what_has_no_label_teaches_nothing():
  logits, quality, label = (jnp.asarray(x) for x in case())
  slope = jax.jit(jax.grad(losses.class_masks, (0, 1)))
  by_logits, by_quality = slope(logits, quality, label)
  assert by_quality[0] == 0 and np.all(by_quality[1:] != 0)
  assert not np.any(np.asarray(by_logits)[np.asarray(label) < 0])
  wanted = 0.0625 * (np.asarray(quality)[1:] - overlaps(*case()))  # the mean of two squares
  np.testing.assert_allclose(by_quality[1:], wanted, rtol=1e-4)
