"""MixStyle: part of the style of a network's early features comes from another example.

Zhou et al., "Domain Generalization with MixStyle", ICLR 2021:

  y = s (x - mean) / std + m,   m = a mean + (1 - a) mean',   s = a std + (1 - a) std'

with a ~ Beta(alpha, alpha), and mean', std' of the other example, through which no gradient flows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax import check
from medjax.types import Key, Params

MixedPredict = Callable[[Params, jax.Array, jax.Array, Key], jax.Array]


def mixstyle(
  module: nn.Module,
  *,
  layers: tuple[str, ...] = ("encoder0", "encoder1"),
  alpha: float | int = 0.1,
  probability: float | int = 0.5,
) -> MixedPredict:
  """A network whose chosen layers mix styles in training; evaluate it as it is.

  Args:
    module: any Linen network of one example whose only variables are parameters.
    layers: names of its submodules whose outputs [1, *space, channel] are mixed.
    alpha: parameter of the Beta distribution; 0.1 as published: mostly near 0 or 1.
    probability: that an example is mixed at all. DEVIATION: drawn for each example, not batch.
  Returns:
    `predict(params, image, partner_image, key) -> output`. The partner runs unmixed, and only as
    far as the last of the layers: what follows is never used and the compiler drops it.
  Raises:
    InputError: on tracing, layers that the network does not have.
  """
  check.positive("alpha", alpha)
  check.in_interval("probability", probability, 0.0, 1.0)

  def run(params: Params, image: jax.Array, change: Callable[[str, jax.Array], jax.Array]) -> Any:
    def interceptor(next_fn, args, kwargs, context):
      output = next_fn(*args, **kwargs)
      is_layer = context.method_name == "__call__" and context.module.name in layers
      return change(context.module.name, output) if is_layer else output

    with nn.intercept_methods(interceptor):
      return module.apply({"params": params}, image)

  def predict(params: Params, image: jax.Array, partner: jax.Array, key: Key) -> jax.Array:
    found: dict[str, tuple[jax.Array, jax.Array]] = {}

    def note(name: str, features: jax.Array) -> jax.Array:
      found[name] = jax.lax.stop_gradient(_moments(features))
      return features

    def mix(name: str, features: jax.Array) -> jax.Array:
      mean, std = jax.lax.stop_gradient(_moments(features))
      other_mean, other_std = found[name]
      new_mean = share * mean + (1 - share) * other_mean
      new_std = share * std + (1 - share) * other_std
      return (features - mean) / std * new_std + new_mean

    run(params, partner, note)
    check.require(
      set(found) == set(layers),
      f"layers {layers}",
      f"{tuple(found)}",
      "name modules of the network",
    )
    share_key, coin_key = jax.random.split(key)
    is_mixed = jax.random.bernoulli(coin_key, probability)
    share = jnp.where(is_mixed, jax.random.beta(share_key, alpha, alpha), 1.0)
    return run(params, image, mix)

  return predict


def _moments(features: jax.Array) -> tuple[jax.Array, jax.Array]:
  """[1, ..., 1, channel] mean and deviation over space."""
  axes = tuple(range(1, features.ndim - 1))
  variance = features.var(axes, keepdims=True)
  return features.mean(axes, keepdims=True), jnp.sqrt(variance + 1e-6)
