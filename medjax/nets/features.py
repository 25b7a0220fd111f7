"""Features inside a network, for methods that compare, mix or explain them."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen

from medjax import check
from medjax.types import Params


def features(module: linen.Module, layer: str) -> Callable[..., jax.Array]:
  """What a layer of a network hands on.

  >>> import jax, jax.numpy as jnp
  >>> from medjax import nets
  >>> module, image = nets.SmallCNN(2, (4, 8)), jnp.zeros((16, 16, 1))
  >>> params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
  >>> jax.eval_shape(nets.features(module, "GroupNorm_0"), params, image).shape
  (8, 8, 4)

  Args:
    module: a Linen network of one example whose only variables are parameters.
    layer: name of one of its submodules, whose output has a leading axis of one example.
  Returns:
    `apply(params, *inputs) -> [*space, channel]` for the inputs of the network; what follows the
    layer is never used, so the compiler drops it.
  Raises:
    KeyError: on tracing, a layer that the network does not have.
  """

  def apply(params: Params, *inputs: Any) -> jax.Array:
    captured: Any = module.apply(
      {"params": params},
      *inputs,
      capture_intermediates=lambda own, method: own.name == layer and method == "__call__",
    )[1]["intermediates"]
    return captured[layer]["__call__"][0][0]  # of the first call, the one example

  return apply


def from_features(module: linen.Module, layer: str) -> Callable[..., Any]:
  """What a network makes of given features of a layer, put in the place of its own.

  >>> import jax, jax.numpy as jnp
  >>> from medjax import nets
  >>> module, image = nets.SmallCNN(2, (4, 8)), jnp.ones((16, 16, 1))
  >>> params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
  >>> seen = jnp.ones((8, 8, 4))
  >>> jax.eval_shape(nets.from_features(module, "GroupNorm_0"), params, seen, image).shape
  (2,)

  Args:
    module, layer: as for `features`.
  Returns:
    `apply(params, features [*space, channel], *inputs) -> outputs of the network`. What goes round
    the layer (skip connections, other inputs) is computed from `inputs`.
  Raises:
    InputError: on tracing, a layer that the network does not have.
  """

  def apply(params: Params, given: jax.Array, *inputs: Any) -> Any:
    met: list[str] = []

    def interceptor(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
      if context.method_name != "__call__" or context.module.name != layer:
        return next_fn(*args, **kwargs)
      met.append(layer)
      return given[None]

    with linen.intercept_methods(interceptor):
      outputs = module.apply({"params": params}, *inputs)
    check.require(met, f"a network with the layer {layer!r}", "none", "name one of its modules")
    return outputs

  return apply
