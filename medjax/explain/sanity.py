"""Randomised weights: does a map change when the network is no longer the one that was trained?

A map that stays the same explains the image, or the architecture, and not what the network has
learnt; some well-known methods fail. Adebayo et al., "Sanity Checks for Saliency Maps" (2018),
Section 3, state the change as the rank correlation of the maps before and after.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from medjax import check, rng, tree
from medjax.types import Array, Key, Params


def rank_correlation(first: Array, second: Array) -> Array:
  """Spearman's rank correlation of two maps, equal values with the mean of their ranks; jittable.

  >>> rank_correlation(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 4.0, 9.0])).round(4).item()
  1.0

  Args:
    first, second: of one shape, any units.
  Returns:
    Scalar in [-1, 1]. A map that is the same everywhere has no ranks: two of them count as
    unchanged, 1, and one beside a map that is not as unrelated, 0.
  Raises:
    InputError: two shapes.
  """
  check.same_shape("first", first.shape, "second", second.shape)
  one, other = (_centred_ranks(x.ravel()) for x in (first, second))
  spread, rest = jnp.vdot(one, one), jnp.vdot(other, other)
  both = jnp.sqrt(spread) * jnp.sqrt(rest)
  found = jnp.where(both > 0, jnp.vdot(one, other) / jnp.where(both > 0, both, 1.0), 0.0)
  return jnp.where((spread == 0) & (rest == 0), 1.0, jnp.clip(found, -1.0, 1.0))


def shuffled_weights(params: Params, key: Key, chosen: Callable[[str], bool]) -> Params:
  """The parameters with the entries of each chosen leaf in a random order.

  Every leaf keeps its values and so its scale: what is lost is what the training put where.

  Args:
    params: any tree of arrays.
    key: of the order; each leaf has one of its own.
    chosen: path of a leaf, such as "Conv_0/kernel" -> whether it is shuffled.
  """
  return tree.map_named(
    lambda name, leaf: (
      jax.random.permutation(rng.stream(key, name), leaf.ravel()).reshape(leaf.shape)
      if chosen(name)
      else leaf
    ),
    params,
  )


def randomised_weights(
  map_fn: Callable[[Params, Array], Array],
  params: Params,
  images: Array,
  key: Key,
  *,
  layers: Sequence[str] = ("",),
) -> dict[str, Array]:
  """Rank correlations of the maps of a network and of the same network with shuffled weights.

  >>> params, images = {"head": jnp.array([1.0, 2.0, 3.0])}, jnp.ones((2, 3))
  >>> edges = lambda params, image: image[::-1] - 2 * image  # never asks the network
  >>> randomised_weights(edges, params, images, jax.random.key(0))[""].tolist()
  [1.0, 1.0]

  Args:
    map_fn: `map_fn(params, image) -> map` of ONE image. Of signed maps the sign is compared too;
      where only their size is shown, pass one that returns it.
    params: of the trained network.
    images: [image, *shape].
    key: of the shuffling.
    layers: how paths of leaves begin, the layer nearest to the output first. They are shuffled one
      after the other and stay so (cascading randomisation), so the last entry has all of them.
      The default shuffles the whole network.
  Returns:
    layer -> [image] in [-1, 1], with this layer and those before it shuffled. Near 1: the map
    explains nothing that these layers have learnt. Maps of one image share its shape, so that those
    of two unrelated networks need not be at 0.
  Raises:
    InputError: no layer, or one that is the beginning of no leaf's path.
  """
  names = list(tree.named_leaves(params))
  check.require(layers, "a layer or more", "none", 'pass ("",) for the whole network')
  for layer in layers:
    check.require(
      any(_is_in(name, layer) for name in names),
      f"a leaf whose path begins with {layer!r}",
      ", ".join(names),
      "name a layer of these",
    )
  maps = jax.vmap(map_fn, (None, 0))
  before = maps(params, images)
  found = {}
  for place, layer in enumerate(layers):
    done = tuple(layers[: place + 1])
    other = shuffled_weights(
      params, key, lambda name, done=done: any(_is_in(name, own) for own in done)
    )
    found[layer] = jax.vmap(rank_correlation)(before, maps(other, images))
  return found


def _is_in(name: str, layer: str) -> bool:
  return not layer or name == layer or name.startswith(layer + "/")


def _centred_ranks(values: Array) -> Array:
  """Ranks less their mean; equal values have the mean of their ranks."""
  ordered = jnp.sort(values)
  below, upto = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
  return (below + upto).astype(jnp.float32) / 2 - values.size / 2
