"""Insertion and deletion: does a map name the places that the score needs?

The places of an image are ordered by the map, the highest first. Deletion covers them in that order
and a good map makes the score fall fast; insertion uncovers them on a covered image and a good map
makes the score rise fast. Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of
Black-box Models" (2018), Section 4.1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.types import Array, Key


class MapCurves(NamedTuple):
  """How a score moves as places come or go in the order of a map.

  Attributes:
    fractions: [step + 1] share of the places that have come or gone, from 0 to 1.
    insertion, deletion: [step + 1] scores; each ends where the other begins.
    insertion_area, deletion_area: scalars, the mean height of each curve by the trapezoid rule, in
      units of the score. A good map has a large first and a small second; maps are compared on the
      same score, image and baseline only.
  """

  fractions: Array
  insertion: Array
  deletion: Array
  insertion_area: Array
  deletion_area: Array


def map_curves(
  score_fn: Callable[[Array], Array],
  image: Array,
  values: Array,
  key: Key,
  *,
  baseline: Array | float | int = 0.0,
  num_steps: int = 16,
  chunk: int = 32,
) -> MapCurves:
  """Both curves of ONE image and map; `jax.vmap` gives those of a batch.

  >>> image = jnp.array([[1.0], [4.0], [2.0]])
  >>> found = map_curves(jnp.sum, image, image[..., 0], jax.random.key(0), num_steps=3)
  >>> found.insertion.tolist(), found.deletion.tolist()  # 4 comes first, then 2, then 1
  ([0.0, 4.0, 6.0, 7.0], [7.0, 3.0, 1.0, 0.0])

  Args:
    score_fn: `score_fn(image) -> scalar`, for example the probability of a class.
    image: [*space, channel].
    values: [*space], the map in the size of the image, as `explain.picture` makes it; only its
      order counts.
    key: orders places of equal value at random. By their position, which is what a sort does, a map
      that says nothing would be judged as one that reads the image from the top.
    baseline: what stands in a covered place: a number, or an array that broadcasts to the image.
    num_steps: scores after the first of each curve, at most the number of places.
    chunk: images that are scored at once.
  Raises:
    InputError: a map of another size, or num_steps outside 1 to the number of places.
  """
  check.same_shape("map", values.shape, "image without channels", image.shape[:-1])
  num_places = values.size
  check.in_interval("num_steps", num_steps, 1, num_places)
  check.positive("chunk", chunk)
  tie = jax.random.permutation(key, num_places)
  order = jnp.lexsort((tie, -values.ravel()))
  rank = jnp.zeros(num_places, jnp.int32).at[order].set(jnp.arange(num_places))
  rank = rank.reshape(values.shape)
  counts = np.round(np.linspace(0, num_places, num_steps + 1)).astype(np.int32)

  def scores(count: Array) -> Array:
    chosen = (rank < count)[..., None]
    inserted, deleted = jnp.where(chosen, image, baseline), jnp.where(chosen, baseline, image)
    return jnp.stack([score_fn(inserted), score_fn(deleted)])

  found = jax.lax.map(scores, jnp.asarray(counts), batch_size=max(chunk // 2, 1))
  fractions = jnp.asarray(counts / num_places, found.dtype)
  insertion, deletion = found.T
  areas = (jnp.trapezoid(curve, fractions) for curve in (insertion, deletion))
  return MapCurves(fractions, insertion, deletion, *areas)
