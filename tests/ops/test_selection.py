"""Order statistics against NumPy's sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.ops.selection import kth_smallest

VALUES = {
  "random": np.random.default_rng(0).normal(size=(31, 7)).astype(np.float32),
  "ties": np.repeat(np.float32([3, -1, 0, -0.0, 7]), 4),
  "extremes": np.float32([np.inf, -np.inf, 1e38, -1e38, 1e-45, -1e-45, 0, np.nan, 2]),
  "one": np.float32([4]),
}
find = jax.jit(kth_smallest)


@pytest.mark.parametrize("name", VALUES)
def test_every_place_is_that_of_the_sorted_array(name):
  values = VALUES[name]
  found = np.array([find(jnp.asarray(values), k) for k in range(values.size)])
  np.testing.assert_array_equal(found, np.sort(values.ravel()))


def test_a_place_outside_is_the_nearest_one():
  values = jnp.arange(5.0)
  assert find(values, -3) == 0
  assert find(values, 9) == 4
