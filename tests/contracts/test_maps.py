"""What every map that explains a score promises, over the table in `maps.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.contracts.maps import ROWS

MIX = jnp.linspace(-1, 1, 24).reshape(2, 4, 3)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 4, 3)), jnp.float32)


def score(activations):
  return jnp.tanh((MIX * activations).sum()) + activations[..., 0].mean()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_map_belongs_to_its_score_and_its_image(row):
  make = jax.jit(jax.vmap(lambda a, scale, shift: row.make(lambda x: scale * score(x) + shift, a),
                          (0, None, None)))  # fmt: skip
  maps = make(IMAGES, 1.0, 0.0)
  assert maps.shape == IMAGES.shape[:-1] and np.abs(maps).max() > 0
  np.testing.assert_allclose(make(IMAGES[:1], 1.0, 0.0)[0], maps[0], rtol=1e-6)  # its own image
  # A constant says nothing; where scores of about 5 are subtracted, their last bits are left.
  np.testing.assert_allclose(make(IMAGES, 1.0, 5.0), maps, rtol=1e-6, atol=2e-6)
  np.testing.assert_allclose(make(IMAGES, 2.0, 0.0), 2.0**row.degree * maps, rtol=1e-5)
  assert float(np.abs(make(IMAGES, 0.0, 3.0)).max()) == 0  # a score that looks at nothing
