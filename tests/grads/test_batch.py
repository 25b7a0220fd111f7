"""The mean loss of a batch and its derivative do not see rows of weight 0, whatever they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.grads.batch import batch_mean


def loss(params, batch, key):
  return batch_mean(lambda example, _: jnp.sin(params @ example["image"]), batch, key)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_derivative_is_that_of_the_rows_that_count(bad):
  image = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  image[3] = bad
  params, key = jnp.ones(3), jax.random.key(0)
  weight = np.array([1, 2, 0.5, 0], np.float32)
  whole = {"image": image, "weight": weight}
  found = jax.grad(loss)(params, whole, key)
  want = jax.grad(loss)(params, {"image": image[:3], "weight": weight[:3]}, key)
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_what_is_not_a_number_in_a_row_that_counts_is_seen():
  batch = {"image": np.full((2, 3), np.nan, np.float32), "weight": np.array([1, 0], np.float32)}
  assert np.isnan(loss(jnp.ones(3), batch, jax.random.key(0)))
