"""Who is least similar to whom, and that the printed similarity makes one example everybody's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.methods import fusestyle, mixing, supervised
from medjax.types import TrainState
from tests.methods.test_mixing import batch_of

KEY = jax.random.key(0)


def identity(params, image):
  return image


def chosen(images, similarity, **more):
  choose = fusestyle.least_similar(identity, similarity=similarity)
  return np.asarray(jax.jit(choose)({}, {"image": jnp.asarray(images), **more}, KEY))


def normalised(z, similarity):
  """The vectors that are compared, in NumPy."""
  if similarity == "instance":
    z = (z - z.mean((1, 2), keepdims=True)) / np.sqrt(z.var((1, 2), keepdims=True) + 1e-6)
  flat = z.reshape(len(z), -1)
  if similarity == "pearson":
    flat = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-6)
  return flat


def rectified(seed=0, size=128):
  """Features as they leave a ReLU under scanners of other gains, [n, 6, 6, 4]."""
  random = np.random.default_rng(seed)
  gain = np.exp(random.normal(0, 0.5, (size, 1, 1, 1)))
  return (gain * np.maximum(random.normal(size=(size, 6, 6, 4)), 0)).astype(np.float32)


@pytest.mark.parametrize("similarity", ["euclid", "kl"])
def test_the_partner_is_the_furthest_one(similarity):
  images = rectified(size=9)
  z = images.astype(np.float64).reshape(9, -1)
  p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
  apart = np.zeros((9, 9))
  for i, j in np.ndindex(9, 9):
    if similarity == "kl":
      apart[i, j] = (p[i] * np.log(p[i] / p[j])).sum()
    else:
      apart[i, j] = np.linalg.norm(z[i] - z[j])
  np.testing.assert_array_equal(chosen(images, similarity), apart.argmax(1))


@pytest.mark.parametrize("similarity", ["raw", "instance", "pearson"])
def test_the_partner_has_the_smallest_product(similarity):
  images = rectified(size=9)
  flat = normalised(images.astype(np.float64), similarity)
  np.testing.assert_array_equal(chosen(images, similarity), (flat @ flat.T).argmin(1))


def test_the_printed_similarity_collapses_to_a_hub_and_the_normalised_one_does_not():
  """Products of features >= 0 are smallest with the shortest vector, whoever asks."""
  images = rectified()
  raw, instance = (np.bincount(chosen(images, s)) for s in ("raw", "instance"))
  lengths = np.linalg.norm(images.reshape(len(images), -1), axis=1)
  assert raw.argmax() in lengths.argsort()[:3] and raw.max() > 0.5 * len(images)
  assert np.count_nonzero(raw) < 0.1 * len(images)
  assert instance.max() < 0.1 * len(images) and np.count_nonzero(instance) > 0.5 * len(images)


def test_the_normalised_choice_does_not_see_gain_and_offset_of_channels():
  images = rectified(size=20)
  random = np.random.default_rng(1)
  gain, offset = (random.uniform(0.5, 2, (20, 1, 1, 4)).astype(np.float32) for _ in range(2))
  other = gain * images + offset
  np.testing.assert_array_equal(chosen(images, "instance"), chosen(other, "instance"))
  assert (chosen(images, "raw") != chosen(other, "raw")).any()


def test_padding_is_nobodys_partner_and_order_changes_nothing():
  images = rectified(size=10)
  weight = jnp.array([1.0] * 7 + [0.0] * 3)
  padded = chosen(images, "instance", weight=weight)
  np.testing.assert_array_equal(padded[:7], chosen(images[:7], "instance"))
  assert padded.max() < 7
  np.testing.assert_array_equal(
    9 - chosen(images[::-1], "instance")[::-1], chosen(images, "instance")
  )


def test_a_step_of_pairs_takes_the_partners_chosen_and_counts_them():
  import optax

  batch = batch_of()
  seen = {}

  def choose(params, batch, key):
    seen["params"] = params
    return jnp.array([3, 3, 3, 1, 0])

  def loss(params, pair, key):
    return params * (pair.partner.label * 10 ** jnp.float32(pair.example.label))

  step = mixing.paired(supervised(loss, optax.sgd(1.0)), choose=choose)
  state = step.init(jnp.float32(1.0), KEY)
  assert isinstance(state, TrainState)
  _, metrics = step.update(state, batch.replace(weight=batch.weight.at[4].set(0)), KEY)
  # Labels of the partners 3, 3, 3, 1 of the examples 0, 1, 2, 3; the fourth is padding.
  assert float(metrics["loss"]) == pytest.approx((3 + 30 + 300 + 1000) / 4)
  assert float(metrics["partners"]) == pytest.approx(2 / 4)
  assert float(metrics["hub"]) == pytest.approx(3 / 4)
  assert seen["params"] is state.params
