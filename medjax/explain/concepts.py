"""Concept bottlenecks: classes from how well an image fits phrases, and which phrases to keep.

  g(x)   = I(x) E'                                   scores of an image, one a concept    (Eq. 5)
  y^     = argmax 100 g(x) softmax(W)'                                                    (LaBo)
  P_y(x) = g(x) * softmax(W)_y                       influence of each concept            (Eq. 6)
  V(c)   = stdev over images of I(x) . T(c)          how visual a concept is              (Eq. 7)
  D(c)   = sum_y s(y|c) log s(y|c),  s(y|c) = sim(y, c) / sum_y' sim(y', c)          (Eqs. 3, 4)

Kim et al., "Concept Bottleneck with Visual Concept Filtering for Explainable Medical Image
Classification" (2023); Yang et al., "Language in a Bottle" (LaBo, 2023). I and T are the image and
text encoders of a joint embedding such as CLIP. All vectors are brought to length 1 here: a
standard deviation grows with the length of a text's vector, so that V would choose long ones.
"""

import math

import jax
import jax.numpy as jnp

from medjax import check
from medjax.types import Array

SCALE = 100.0
"""Of the logits, as in CLIP."""


def concept_scores(images: Array, text: Array) -> Array:
  """Cosines g in [-1, 1], [image, concept], of images [image, d] and concepts [concept, d].

  >>> concept_scores(jnp.array([[2.0, 0.0]]), jnp.array([[3.0, 0.0], [0.0, 1.0]])).tolist()
  [[1.0, 0.0]]

  Raises:
    InputError: vectors of two lengths: of two encoders.
  """
  check.require(
    images.ndim == text.ndim == 2 and images.shape[1] == text.shape[1],
    "images [n, d] and concepts [m, d] of one joint embedding",
    f"{images.shape} and {text.shape}",
    "take both from one model",
  )
  return jnp.matmul(_unit(images), _unit(text).T, precision="highest")


def visual_activation(scores: Array) -> Array:
  """V: standard deviation over images of each concept's scores (Eq. 7).

  >>> visual_activation(jnp.array([[0.25, 0.5], [0.75, 0.5]])).tolist()
  [0.25, 0.0]

  Args:
    scores: [image, concept] of `concept_scores`, of any unlabelled images.
  Returns:
    [concept], 0 or more.
  """
  return scores.std(0)


def discriminability(scores: Array, labels: Array, num_classes: int) -> Array:
  """log(number of classes) + D: how unevenly a concept fits the classes (Eqs. 3, 4).

  The constant changes no choice of a fixed number of concepts, and makes the value that of a
  divergence from the even distribution: 0 for a concept that fits all classes alike.

  >>> scores = jnp.array([[0.2, 0.4], [0.2, 0.0]])  # an image of each of two classes
  >>> [round(float(d), 4) for d in discriminability(scores, jnp.array([0, 1]), 2)]
  [0.0, 0.6931]

  Args:
    scores: [image, concept] of labelled images.
    labels: [image] class ids; every class has one or more.
    num_classes: of them.
  Returns:
    [concept] in [0, log(num_classes)]. NaN for a concept with a negative mean score of a class:
    shares of negative numbers are no probabilities; see `explain.check_scores`.
  """
  is_class = jax.nn.one_hot(labels, num_classes, dtype=scores.dtype)
  sums = jnp.matmul(is_class.T, scores, precision="highest")
  means = sums / is_class.sum(0)[:, None]  # sim(y, c)
  shares = means / means.sum(0, keepdims=True)
  # x log x has the limit 0 at 0; the inner `where` keeps the logarithm defined there.
  terms = jnp.where(shares == 0, 0.0, shares * jnp.log(jnp.where(shares == 0, 1.0, shares)))
  return math.log(num_classes) + terms.sum(0)


def check_scores(scores: Array) -> None:
  """Refuses scores from which `discriminability` cannot make shares.

  Raises:
    InputError: a score that is negative or not finite.
  """
  lowest = float(scores.min())
  check.require(
    lowest >= 0,  # NaN is refused too
    "cosines of 0 or more, of which the paper makes shares",
    f"{lowest:.3g}",
    f"some texts point away from images here: add {max(-lowest, 0.0):.3g} or more to all cosines",
  )


def concept_logits(scores: Array, weights: Array, *, axis: int = 1) -> Array:
  """Logits of classes, [image, class].

  Args:
    scores: [image, concept] g.
    weights: [class, concept] W; LaBo starts at 1 where a concept was chosen for the class, else 0.
    axis: over which the softmax runs: 1, the concepts of a class, is LaBo's code and the paper's
      text; 0, the classes of a concept, is the paper's formula.
  """
  shares = jax.nn.softmax(weights, axis)
  return SCALE * jnp.matmul(scores, shares.T, precision="highest")


def concept_influence(scores: Array, weights: Array, *, axis: int = 1) -> Array:
  """P: what each concept adds to each class, [image, class, concept]; times 100 the logits' parts.

  >>> scores, weights = jnp.array([[0.5, 0.1]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
  >>> parts = SCALE * concept_influence(scores, weights).sum(-1)
  >>> bool(jnp.allclose(parts, concept_logits(scores, weights)))
  True

  Args:
    scores, weights, axis: as for `concept_logits`.
  """
  return scores[:, None, :] * jax.nn.softmax(weights, axis)[None]


def _unit(vectors: Array) -> Array:
  length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / jnp.where(length > 0, length, 1.0)
