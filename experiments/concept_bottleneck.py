"""A concept bottleneck as LaBo fits it: phrases chosen for each class, and weights on them.

Not a study: what the study of visual concepts computes. All seeds and classes run in one compiled
program; a number of labelled images is one shape.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.concept_sets import ConceptSet
from medjax import check, explain
from medjax.data.seeds import generator
from medjax.types import Array


class Phrases(NamedTuple):
  """What an arm may look at.

  Attributes:
    coverage: weight of covering the other phrases of a class.
    told: [seed, phrase] D, from the labelled images of each seed.
    visual: name of images -> [phrase] V.
    seeds: of the draws.
  """

  coverage: float
  told: np.ndarray
  visual: dict[str, np.ndarray]
  seeds: range


class Worth(NamedTuple):
  """Parts of the value of a phrase, and the weight of covering the others."""

  told: np.ndarray
  visual: np.ndarray
  coverage: float


class Way(NamedTuple):
  """An arm: `worth(phrases) -> Worth`, the axis of the softmax and the images that V needs."""

  worth: Callable[[Phrases], Worth]
  axis: int = 1
  needs: str = ""


def at_random() -> Way:
  """Phrases without a look at anything."""

  def worth(p: Phrases) -> Worth:
    drawn = [generator(seed, "phrases").uniform(size=p.told.shape[1]) for seed in p.seeds]
    return Worth(np.stack(drawn), np.zeros(p.told.shape), 0.0)

  return Way(worth)


def by_images(images: str, *, axis: int = 1) -> Way:
  """Phrases by D and coverage, and by V over the images of that name unless it is ""."""

  def worth(p: Phrases) -> Worth:
    visual = p.visual[images] if images else np.zeros(p.told.shape[1], np.float32)
    return Worth(p.told, np.broadcast_to(visual, p.told.shape), p.coverage)

  return Way(worth, axis, images)


def measured(
  held: ConceptSet, train: np.ndarray, shift: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Cosines [image, phrase], and V [phrase] over each set of images.

  "own" are the training images; "lengths" are these with vectors that keep their length.

  Raises:
    InputError: cosines from which no shares can be made, `shift` added.
  """
  text = jnp.asarray(held.text)
  scores = explain.concept_scores(jnp.asarray(held.image), text)
  explain.check_scores(scores[train] + shift)
  visual = {
    "own": np.asarray(explain.visual_activation(scores[train])),
    "lengths": (held.image[train] @ held.text.T).std(0),
  }
  for name, images in held.unlabelled.items():
    found = explain.concept_scores(jnp.asarray(images), text)
    visual[name] = np.asarray(explain.visual_activation(found))
  return np.asarray(scores), visual


class Kept(NamedTuple):
  """Of the phrases of an arm: share [seed] that is visual, and the others' share of the logits."""

  seen: np.ndarray
  influence: float


class Fitted(NamedTuple):
  """A bottleneck of each seed.

  Attributes:
    logits: [seed, image, class] of new images.
    phrases: [seed, concept] numbers of the phrases that were kept, those of class 0 first.
    influence: [seed, image, concept]: what each adds to the logit of a class of each image, over
      100.
  """

  logits: np.ndarray
  phrases: np.ndarray
  influence: np.ndarray


def bottleneck(
  scores: np.ndarray,
  labels: np.ndarray,
  own: np.ndarray,
  new: np.ndarray,
  chosen: np.ndarray,
  *,
  rate: float,
  num_steps: int,
  axis: int,
) -> Fitted:
  """Fits the weights of chosen phrases on some images and applies them to others.

  Args:
    scores: [image, phrase] cosines of all images.
    labels: [image] class ids; those of new images say whose influence is returned.
    own: [seed, shown] numbers of the labelled images.
    new: [test] numbers of the new images.
    chosen: [seed, class, kept] numbers of phrases.
    rate, num_steps, axis: see `fit`.
  """
  num_seeds, num_classes, num_kept = chosen.shape
  flat = np.asarray(chosen).reshape(num_seeds, -1)
  start = np.kron(np.eye(num_classes), np.ones(num_kept)).astype(np.float32)
  seen, asked = (
    np.stack([scores[np.ix_(rows, own)] for rows, own in zip(each, flat, strict=True)])
    for each in (own, [new] * num_seeds)
  )
  weights = fit(seen, labels[own], start, rate, num_steps, axis)
  logits, influence = applied(asked, labels[new], weights, axis)
  return Fitted(np.asarray(logits), flat, np.asarray(influence))


@functools.partial(jax.jit, static_argnames=("axis",))
def applied(scores: Array, labels: Array, weights: Array, axis: int) -> tuple[Array, Array]:
  """Logits [seed, image, class], and influences [seed, image, concept] on the labelled class."""

  def of_seed(scores: Array, weights: Array) -> tuple[Array, Array]:
    parts = explain.concept_influence(scores, weights, axis=axis)
    return (
      explain.concept_logits(scores, weights, axis=axis),
      parts[jnp.arange(len(labels)), labels],
    )

  return jax.vmap(of_seed)(scores, weights)


def lists_of(owner: np.ndarray, num_classes: int, num_kept: int) -> np.ndarray:
  """[class, place] numbers of the phrases of each class, -1 where its list has ended."""
  own = [np.flatnonzero(owner == k) for k in range(num_classes)]
  check.in_interval("num_kept", num_kept, 1, min(map(len, own)), "no class has fewer phrases")
  return np.stack([np.pad(i, (0, max(map(len, own)) - len(i)), constant_values=-1) for i in own])


@functools.partial(jax.jit, static_argnames=("num_kept",))
def choose(text: Array, lists: Array, told: Array, visual: Array, weights: Array, num_kept: int) -> Array:  # fmt: skip  # noqa: E501
  """[seed, class, kept] numbers of the chosen phrases, all seeds and classes in one program.

  Args:
    text: [phrase, d] of length 1.
    lists: [class, place] of `lists_of`.
    told, visual: [seed, phrase].
    weights: of both terms and of coverage, [3].
    num_kept: phrases of each class.
  """

  def of_class(told: Array, visual: Array, places: Array) -> Array:
    allowed = places >= 0
    own = text[places] * allowed[:, None]
    parts = [jnp.where(allowed, term[places], 0.0) for term in (told, visual)]
    scaled = [part / jnp.maximum(part.max(), 1e-12) for part in parts]
    similarity = jnp.matmul(own, own.T, precision="highest")
    # Divided by the number of phrases, the whole list covered perfectly counts 1.
    found = explain.greedy_choice(
      weights[0] * scaled[0] + weights[1] * scaled[1],
      similarity,
      num_kept,
      coverage=weights[2] / allowed.sum(),
      allowed=allowed,
    )
    return places[found.items]

  of_seed = jax.vmap(of_class, (None, None, 0))
  return jax.vmap(of_seed, (0, 0, None))(told, visual, lists)


@functools.partial(jax.jit, static_argnames=("num_steps", "axis"))
def fit(
  scores: Array, labels: Array, start: Array, rate: Array, num_steps: int, axis: int
) -> Array:
  """[seed, class, concept] weights W after Adam on all labelled images (LaBo's objective).

  Args:
    scores: [seed, image, concept] g.
    labels: [seed, image].
    start: [class, concept]: 1 where a concept was chosen for the class, else 0.
    rate: Adam's.
    num_steps, axis: updates, and over what the softmax runs.
  """
  tx = optax.adam(rate)

  def loss(weights: Array, scores: Array, labels: Array) -> Array:
    logits = explain.concept_logits(scores, weights, axis=axis)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  def of_seed(scores: Array, labels: Array) -> Array:
    def update(state: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
      weights, moments = state
      step, moments = tx.update(jax.grad(loss)(weights, scores, labels), moments)
      return (optax.apply_updates(weights, step), moments), None

    (weights, _), _ = jax.lax.scan(update, (start, tx.init(start)), None, length=num_steps)
    return weights

  return jax.vmap(of_seed)(scores, labels)


def shown(labels: np.ndarray, rows: np.ndarray, shots: int, seed: int, names: tuple[str, ...]) -> np.ndarray:  # fmt: skip  # noqa: E501
  """Positions of the labelled images of a seed; those of fewer shots are among those of more."""
  if shots == 0:
    return rows
  random = generator(seed, "shots")
  own = [random.permutation(rows[labels[rows] == k]) for k in range(len(names))]
  few = min(range(len(names)), key=lambda k: len(own[k]))
  check.require(
    len(own[few]) >= shots,
    f"{shots} training images of every class",
    f"{len(own[few])} of {names[few]}",
    "pass smaller --shots",
  )
  return np.concatenate([one[:shots] for one in own])
