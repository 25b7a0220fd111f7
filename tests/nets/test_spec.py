"""Networks as JSON: there and back, and what is refused."""

import json

import jax.numpy as jnp
import pytest
from flax import linen as nn

from medjax import nets
from medjax.check import InputError
from medjax.nets import spec


@pytest.mark.parametrize(
  "network",
  [
    nets.UNet(num_outputs=3),
    nets.UNet(num_outputs=2, widths=(4, 8, 8), norm="group", num_auxiliary=1),
    nets.UNet(num_outputs=2, dtype=jnp.bfloat16),
  ],
)
def test_a_network_survives_json(network):
  assert spec.build(json.loads(json.dumps(spec.describe(network)))) == network


def test_a_stranger_is_refused_and_told_what_to_do():
  with pytest.raises(InputError, match="pass your own model"):
    spec.describe(nn.Dense(3))

  class UNet(nn.Module):
    pass

  with pytest.raises(InputError, match="got UNet"):
    spec.describe(UNet())


def test_a_field_from_the_future_is_refused():
  described = spec.describe(nets.UNet(num_outputs=3))
  described["fields"]["attention"] = True
  with pytest.raises(InputError, match="attention"):
    spec.build(described)
