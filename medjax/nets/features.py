"""Features inside a network, for methods that compare or mix them."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen

from medjax.types import Params


def features(module: linen.Module, layer: str) -> Callable[[Params, jax.Array], jax.Array]:
  """What a layer of a network hands on.

  >>> import jax, jax.numpy as jnp
  >>> from medjax import nets
  >>> module, image = nets.SmallCNN(2, (4, 8)), jnp.zeros((16, 16, 1))
  >>> params, _ = nets.from_linen(module).init(jax.random.key(0), image)
  >>> nets.features(module, "GroupNorm_0")(params, image).shape
  (8, 8, 4)

  Args:
    module: a Linen network of one example whose only variables are parameters.
    layer: name of one of its submodules, whose output has a leading axis of one example.
  Returns:
    `apply(params, image) -> [*space, channel]`; what follows the layer is never used, so the
    compiler drops it.
  Raises:
    KeyError: on tracing, a layer that the network does not have.
  """

  def apply(params: Params, image: jax.Array) -> jax.Array:
    captured: Any = module.apply(
      {"params": params},
      image,
      capture_intermediates=lambda own, method: own.name == layer and method == "__call__",
    )[1]["intermediates"]
    return captured[layer]["__call__"][0][0]  # of the first call, the one example

  return apply
