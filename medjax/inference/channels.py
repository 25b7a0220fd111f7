"""Which channels of a feature map to keep for one image, by points that a person gives.

  S_c = alpha sum_{k in P} f(x)_c[k] - (1 - alpha) sum_{k in N} f(x)_c[k]        (Eqs. 1 to 3)

P are points on what the answer should rest on (the lesion), N points on what it should not (a
ruler, the skin around). Channels with the highest S_c stay, all others become 0, and the rest of
the network sees what is left. No weight changes, one image at a time.

Bissoto et al., "Test-Time Selection for Robust Skin Lesion Analysis" (2023). The paper enlarges the
feature map to the size of the image before it reads it at the points. Enlarging by the nearest
value and then reading at k is reading at the place of the map whose block holds k, so nothing is
enlarged here, and the numbers are the same.

`select_channels` is the whole method for one image, in the shape of the functions of `adaptation`.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from medjax import check
from medjax.types import Array, Params


def select_channels(
  seen: Callable[[Params, Array], Array],
  head: Callable[[Params, Array, Array], Array],
  params: Params,
  image: Array,
  positive: Array,
  negative: Array,
  *,
  alpha: Array | float = 0.2,
  share: float = 0.1,
  by: Literal["activity", "slope"] = "activity",
) -> Array:
  """Logits of one image from the channels that its points leave; `jax.vmap` runs over images.

  >>> seen = lambda params, image: image  # two channels, of which the second answers at (0, 1)
  >>> head = lambda params, features, image: features.sum((0, 1))
  >>> image = jnp.array([[[3.0, 1.0], [0.0, 5.0]]])
  >>> lesion, ruler = jnp.array([[0, 0]]), jnp.array([[0, 1]])
  >>> select_channels(seen, head, {}, image, lesion, ruler, share=0.5).tolist()
  [3.0, 0.0]

  Args:
    seen: `seen(params, image) -> features [height, width, channel]`, such as `nets.features`.
    head: `head(params, features, image) -> logits`, the rest of the network, such as
      `nets.from_features`.
    params: of the network; they stay what they are.
    image: [height, width, channel].
    positive, negative, alpha: as for `channel_scores`.
    share: as for `highest`.
    by: what a channel is ranked by at the points, its "activity", as published, or the part of it
      that raises the log-probability of the predicted class, activity times "slope".
  Raises:
    InputError: no positive or no negative points.
  """
  check.one_of("by", by, ("activity", "slope"))
  features = seen(params, image)
  ranked = features
  if by == "slope":
    slope = jax.grad(lambda x: jax.nn.log_softmax(head(params, x, image)).max())(features)
    ranked = jax.nn.relu(features * slope)
  height, width = image.shape[:2]
  scores = channel_scores(ranked, positive, negative, size=(height, width), alpha=alpha)
  return head(params, features * highest(scores, share)[None, None], image)


def at_points(features: Array, points: Array, size: tuple[int, int]) -> Array:
  """What a feature map holds at points of the image, [point, channel].

  >>> features = jnp.arange(4.0).reshape(2, 2, 1)  # of an image of 8 x 8 pixels
  >>> at_points(features, jnp.array([[0, 0], [3, 4], [7, 7]]), (8, 8)).ravel().tolist()
  [0.0, 1.0, 3.0]

  Args:
    features: [height, width, channel].
    points: [point, 2] row and column in pixels of the image; points outside are moved to its edge.
    size: height and width of the image in pixels, static.
  """
  check.require(
    points.ndim == 2 and points.shape[1] == 2, "points [n, 2]", f"{points.shape}", "give rows"
  )
  # Row k of the enlarged map is row floor(k h / H) of the map, for any ratio of the two sizes.
  rows, columns = (
    jnp.clip(points[:, axis].astype(jnp.int32), 0, size[axis] - 1)
    * features.shape[axis]
    // size[axis]
    for axis in (0, 1)
  )
  return features[rows, columns]


def channel_scores(
  features: Array,
  positive: Array,
  negative: Array,
  *,
  size: tuple[int, int],
  alpha: Array | float = 0.2,
) -> Array:
  """S, [channel]: how much more a channel answers to the positive points than to the negative ones.

  Args:
    features: [height, width, channel], 0 or more (behind a rectifier): the sums are of activity.
    positive, negative: [point, 2] rows and columns in pixels of the image.
    size: height and width of the image in pixels, static.
    alpha: weight of the positive points in [0, 1]; the paper takes 0.2 for points on artefacts and
      0.4 for points on the background. It may be traced and differentiated.
  Raises:
    InputError: no positive or no negative points.
  """
  for name, points in {"positive": positive, "negative": negative}.items():
    check.require(
      len(points) > 0,
      f"{name} points, one or more",
      "none",
      "give one, or do not choose among channels for this image",
    )
  liked = at_points(features, positive, size).sum(0)
  disliked = at_points(features, negative, size).sum(0)
  return alpha * liked - (1 - alpha) * disliked


def highest(scores: Array, share: float) -> Array:
  """1 for the channels with the highest scores and 0 for the others, [channel].

  >>> highest(jnp.array([0.3, -1.0, 2.0, 0.1]), 0.5).tolist()
  [1.0, 0.0, 1.0, 0.0]

  Args:
    scores: [channel].
    share: of the channels that stay, in (0, 1]; the paper keeps 0.1. At least one stays, and of
      equal scores the first.
  """
  check.require(0 < share <= 1, "share in (0, 1]", f"{share}", "keep one channel or more")
  kept = max(round(share * len(scores)), 1)
  order = jnp.argsort(-scores, stable=True)
  return jnp.zeros(len(scores), scores.dtype).at[order[:kept]].set(1.0)


def softly_highest(scores: Array, share: float, temperature: Array | float) -> Array:
  """`highest` with slopes: each channel's weight in (0, 1), by how far it is from the threshold.

  The threshold lies midway between the last score that stays and the first that goes, and moves
  with them. As the temperature falls to 0 the weights become those of `highest`; their gradient in
  alpha, in the features and in the temperature lets these be learnt.

  >>> softly_highest(jnp.array([0.3, -1.0, 2.0, 0.1]), 0.5, 1e-3).round().tolist()
  [1.0, 0.0, 1.0, 0.0]

  Args:
    scores, share: as for `highest`.
    temperature: above 0, in units of the scores.
  """
  check.require(0 < share <= 1, "share in (0, 1]", f"{share}", "keep one channel or more")
  kept = max(round(share * len(scores)), 1)
  ordered = jnp.sort(scores)[::-1]
  below = ordered[kept] if kept < len(scores) else ordered[-1] - temperature
  return jax.nn.sigmoid((scores - (ordered[kept - 1] + below) / 2) / temperature)
