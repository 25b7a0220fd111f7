"""Maps that explain a network of prototypes, and what each is worth.

Not a study: the second half of `experiments.prototypes`. All maps explain the probability of the
class that the network chooses, so that their curves may be compared.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import explain, nets, rng
from medjax.types import Array, Key, Params

MapFn = Callable[[Params, Array], Array]
NUM_STEPS = 16  # of insertion and deletion


def probability(net: nets.Prototypes, params: Params, image: Array, number: Array) -> Array:
  found: Any = net.apply(params, image)
  return found.probabilities[number]


def local_map(net: nets.Prototypes) -> MapFn:
  """Likeness of the places to the prototype of the chosen class that the image is most like."""

  def run(params: Params, image: Array) -> Array:
    found: Any = net.apply(params, image)
    number = found.probabilities.argmax()
    return found.maps[:, :, number, found.likeness[1, number].argmax()]

  return run


def gradcam_map(net: nets.Prototypes) -> MapFn:
  """GradCAM of the map F that both branches look at."""

  def run(params: Params, image: Array) -> Array:
    features: Any = net.apply(params, image, method=net.features)

    def score(x: Array) -> Array:
      found: Any = net.apply(params, x, method=net.from_features)
      return jnp.log(found.probabilities[number])

    found: Any = net.apply(params, features, method=net.from_features)
    number = found.probabilities.argmax()
    return explain.gradcam(score, features)

  return run


def integrated_map(net: nets.Prototypes) -> MapFn:
  """Size of the integrated gradients of each place, from the mean training picture, which is 0."""

  def run(params: Params, image: Array) -> Array:
    found: Any = net.apply(params, image)
    number = found.probabilities.argmax()
    score = lambda x: probability(net, params, x, number)  # noqa: E731
    return jnp.abs(explain.integrated_gradients(score, image, 0 * image).values.sum(-1))

  return run


def centre_map(net: nets.Prototypes) -> MapFn:
  """High in the middle, whatever the picture shows: the control for lesions that lie there."""
  del net

  def run(params: Params, image: Array) -> Array:
    del params
    rows, columns = (jnp.abs(jnp.linspace(-1, 1, size)) for size in image.shape[:2])
    return -(rows[:, None] ** 2) - columns[None] ** 2

  return run


def judged(
  net: nets.Prototypes,
  params: Params,
  map_fn: MapFn,
  images: np.ndarray,
  masks: np.ndarray | None,
  keys: Array,
  *,
  map_params: Params | None = None,
) -> dict[str, np.ndarray]:
  """Figures of a map, each [image].

  Args:
    net, params: whose score is explained.
    map_fn: the map.
    images: [image, height, width, channel].
    masks: [image, rows, columns] of the lesions, None if unknown.
    keys: [image], which break ties between places.
    map_params: weights that the map is made with, if others: shuffled ones.
  Returns:
    "inside": mean of the map in the lesion over that and the mean outside, .5 for a map that knows
    nothing (`attention_in_box`), NaN without masks. "hit": whether its highest place lies in the
    lesion, NaN without. "faithful": area of the insertion curve less that of the deletion curve, in
    probabilities; covered places are the mean training picture.
  """
  made_with = params if map_params is None else map_params

  def one(image: Array, mask: Array, key: Key) -> dict[str, Array]:
    values = map_fn(made_with, image)
    found: Any = net.apply(params, image)
    number = found.probabilities.argmax()
    score = lambda x: probability(net, params, x, number)  # noqa: E731
    large = explain.picture(values, image.shape[:2])
    curves = explain.map_curves(
      score, image, large, key, num_steps=min(NUM_STEPS, image[..., 0].size)
    )
    seen = explain.picture(values, mask.shape)
    inside = explain.attention_in_box(seen, mask).by_area
    hit = mask.ravel()[seen.argmax()].astype(jnp.float32)
    faithful = curves.insertion_area - curves.deletion_area
    return {"inside": inside, "hit": hit, "faithful": faithful}

  given = np.zeros(images.shape[:3], bool) if masks is None else masks
  run = jax.jit(lambda *own: jax.lax.map(lambda each: one(*each), own))
  unknown = ("inside", "hit") if masks is None else ()
  return {
    name: np.full(len(images), np.nan) if name in unknown else np.array(own)
    for name, own in run(images, jnp.asarray(given), keys).items()
  }


def sanity_of(map_fn: MapFn, params: Params, images: np.ndarray, key: Key) -> float:
  """Mean rank correlation of maps before and after all weights are shuffled."""
  own = jax.jit(lambda p, x, k: explain.randomised_weights(map_fn, p, x, k)[""])
  return float(own(params, jnp.asarray(images), rng.stream(key, "sanity")).mean())
