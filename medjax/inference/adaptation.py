"""Predictions that look at a test image again: averages, adapted weights, prototypes, noise.

One interface: `adapt(predict, params, image, ...)` gives the logits of ONE image, or its
log-probabilities, `predict(params, image) -> logits [class]` being the network; `jax.vmap` runs it
over images. Each image starts from the trained weights, so that no image changes another one's
answer and their order means nothing. `prototypes` is the exception: it learns from a stream.

The copies of an image are a batch under the name "batch": a `predict` that calls the network with
`train=True` normalises by the statistics of the copies, as Tent was published for BatchNorm. One
copy alone has no statistics and is refused.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from medjax import check, tree
from medjax.axes import BATCH_AXIS
from medjax.types import Array, Key, Params

ImageLogits = Callable[[Params, Array], Array]
"""`predict(params, image) -> logits [class]` of one image."""
Vary = Callable[[Key, Array], Array]
"""`vary(key, image)` -> the image moved, mirrored or tinted at random."""


def entropy(logits: Array) -> Array:
  """-sum p log p over the last axis, in nats; logits of any scale, probabilities of 0 included.

  >>> [round(float(h), 4) for h in entropy(jnp.array([[0.0, 0.0], [0.0, -1e9]]))]
  [0.6931, 0.0]
  """
  logs = jax.nn.log_softmax(logits)
  # p log p has the limit 0 at p = 0, where the logarithm may be infinite.
  return (jnp.exp(logs) * jnp.where(jnp.isneginf(logs), 0.0, -logs)).sum(-1)


def over_copies(
  predict: ImageLogits, params: Params, image: Array, key: Key, *, vary: Vary, num_copies: int
) -> Array:
  """Log of the mean probability over copies of an image: test-time augmentation.

  Args:
    predict, params, image: see above.
    key: of the copies.
    vary: what a copy looks like.
    num_copies: 1 or more; the paper of `channels` takes 50 for all methods.
  """
  logits = _of_copies(predict, image, key, vary, num_copies)(params)
  return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(num_copies)


def tent(
  predict: ImageLogits,
  params: Params,
  image: Array,
  key: Key,
  *,
  vary: Vary,
  num_copies: int,
  is_adapted: Callable[[str], bool],
  rate: float = 1e-3,
  num_steps: int = 1,
) -> Array:
  """Log of the mean probability after steps that make the network surer of this image's copies.

  Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization" (2021), on one image: the
  batch is its copies, and the weights are the trained ones again for the next image. Steps are
  those of plain gradient descent on the mean entropy of the copies.

  Args:
    predict, params, image, key, vary: as for `over_copies`.
    num_copies: 2 or more.
    is_adapted: which leaves move, by their path "GroupNorm_0/scale"; the paper moves scales and
      offsets of norms.
    rate: of descent, above 0.
    num_steps: 1 or more.
  Raises:
    InputError: one copy (batch statistics of one image say nothing about others), or no leaf that
      moves.
  """
  check.require(
    num_copies >= 2, "two copies of an image or more", f"{num_copies}", "raise num_copies"
  )
  check.positive("rate", rate)
  check.positive("num_steps", num_steps)
  names = list(tree.named_leaves(params))
  moves = [is_adapted(name) for name in names]
  check.require(
    any(moves), "a leaf that is_adapted accepts", f"none of {', '.join(names[:4])} ...", "look"
  )
  run = _of_copies(predict, image, key, vary, num_copies)
  leaves, structure = jax.tree.flatten(params)
  slope = jax.grad(lambda p: entropy(run(p)).mean())
  for _ in range(num_steps):
    gradient = jax.tree.leaves(slope(jax.tree.unflatten(structure, leaves)))
    leaves = [
      leaf - rate * g if is_moved else leaf
      for leaf, g, is_moved in zip(leaves, gradient, moves, strict=True)
    ]
  logits = run(jax.tree.unflatten(structure, leaves))
  return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(num_copies)


def surest(candidates: Array) -> Array:
  """Of several answers to one image the one with the least entropy.

  >>> surest(jnp.array([[0.0, 0.1], [5.0, 0.0], [1.0, 0.0]])).tolist()
  [5.0, 0.0]

  Args:
    candidates: [answer, class] logits.
  """
  return candidates[jnp.argmin(entropy(candidates))]


def prototypes(weights: Array, features: Array, *, num_kept: int) -> Array:
  """Logits [image, class] of a stream of images by prototypes that it moves itself (T3A).

  Iwasawa and Matsuo, "Test-Time Classifier Adjustment Module for Model-Agnostic Domain
  Generalization" (2021). Each class starts with the row of the last layer, brought to length 1. An
  image joins the class that the prototypes before it give it, and each class keeps its `num_kept`
  members of least entropy, the row itself always among them; a prototype is their mean.

  Args:
    weights: [class, feature] of the last layer, without its bias.
    features: [image, feature], what the last layer sees, in the order of the stream.
    num_kept: members of a class besides its row, 1 or more.
  Raises:
    InputError: features of another length than the weights'.
  """
  check.positive("num_kept", num_kept)
  check.same_shape("length of features", features.shape[1:], "weights", weights.shape[1:])
  unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # noqa: E731
  rows, seen = unit(weights), unit(features)
  num_classes, size = weights.shape

  def meet(state: tuple[Array, Array], feature: Array) -> tuple[tuple[Array, Array], Array]:
    members, doubts = state  # [class, kept, feature], [class, kept]: infinite where nobody is yet
    joined = lambda m, d: (  # noqa: E731
      (rows + (m * jnp.isfinite(d)[..., None]).sum(1)) / (1 + jnp.isfinite(d).sum(1))[:, None]
    )
    logits = joined(members, doubts) @ feature
    doubt, chosen = entropy(rows @ feature), jnp.argmax(logits)
    worst = jnp.argmax(doubts[chosen])  # an empty place if there is one
    is_in = doubt < doubts[chosen, worst]
    members = members.at[chosen, worst].set(jnp.where(is_in, feature, members[chosen, worst]))
    doubts = doubts.at[chosen, worst].min(doubt)
    return (members, doubts), joined(members, doubts) @ feature

  empty = jnp.zeros((num_classes, num_kept, size)), jnp.full((num_classes, num_kept), jnp.inf)
  return jax.lax.scan(meet, empty, seen)[1]


def noise_outside(key: Key, image: Array, mask: Array) -> Array:
  """The image where the mask is, and noise of the image's own mean and deviation elsewhere.

  The control of Bissoto et al. (2023), which needs the whole outline of the lesion.

  Args:
    key: of the noise.
    image: [*space, channel].
    mask: [*space] bool.
  """
  axes = tuple(range(image.ndim - 1))
  mean, deviation = image.mean(axes, keepdims=True), image.std(axes, keepdims=True)
  noise = mean + deviation * jax.random.normal(key, image.shape, image.dtype)
  return jnp.where(mask[..., None], image, noise)


def _of_copies(
  predict: ImageLogits, image: Array, key: Key, vary: Vary, num_copies: int
) -> Callable[[Params], Array]:
  """params -> logits [copy, class] of the copies of an image, drawn once."""
  check.positive("num_copies", num_copies)
  copies = jax.vmap(vary, (0, None))(jax.random.split(key, num_copies), image)
  return lambda params: jax.vmap(predict, (None, 0), axis_name=BATCH_AXIS)(params, copies)
