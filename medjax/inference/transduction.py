"""Labels of new samples straight from known ones: attention as a nearest-neighbour rule.

Zhang and Chen, "GPT4MIA: Utilizing Generative Pre-trained Transformer (GPT-3) as a Plug-and-Play
Transductive Model for Medical Image Analysis" (2023), argue that a language model which is shown
"feature is in class label" lines classifies a further feature by attention over them:

  attention(Q, K, V) = softmax(Q K^T / s) V,   K: features of unit length, V: one-hot labels.

As s -> 0 all weight goes to the most similar known sample, which is the nearest neighbour by angle
(Proposition 1). Proposition 2 says the same of self-attention, K = V = Q = rows [feature | label]
with a label of zeros in the row of the new sample. That is FALSE as printed: no key is more similar
to a row than the row itself, so as s -> 0 the new sample reads its own label of zeros. With the
diagonal masked it holds (`self_attention`). For every s > 0 the two differ by a factor only,

  printed = (1 - w) masked,   w = the weight that the new sample gives to itself,

so the largest entry is the same until 1 - w underflows. Proposition 3, that a stack of layers
clusters the rows, is repeated application of `self_attention`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax import check


def unit(features: Float[Array, "n feature"]) -> Float[Array, "n feature"]:
  """Rows divided by their lengths, so that inner products are cosines; zero rows stay.

  >>> [[f"{x:.1f}" for x in row] for row in unit(jnp.array([[3.0, 4.0], [0.0, 0.0]]))]
  [['0.6', '0.8'], ['0.0', '0.0']]
  """
  lengths = jnp.linalg.norm(features, axis=-1, keepdims=True)
  return features / jnp.where(lengths > 0, lengths, 1)


def kernel_attention(
  queries: Float[Array, "m feature"],
  keys: Float[Array, "n feature"],
  values: Float[Array, "n class"],
  scale: float,
) -> Float[Array, "m class"]:
  """softmax(queries keys^T / scale) values: a mean of values, similar keys first (Eq. 1).

  >>> keys, labels = jnp.eye(2), jnp.eye(2)
  >>> kernel_attention(jnp.array([[0.8, 0.6]]), keys, labels, 1e-3).tolist()
  [[1.0, 0.0]]

  Args:
    queries, keys: new and known features; of unit length for cosines, see `unit`.
    values: one-hot labels of the known samples.
    scale: s, above 0. Towards 0 the nearest neighbour, towards infinity the share of each class.
  """
  _check_scale(scale)
  return jax.nn.softmax(queries @ keys.T / scale, axis=-1) @ values


def leave_one_out(
  keys: Float[Array, "n feature"], values: Float[Array, "n class"], scale: float
) -> Float[Array, "n class"]:
  """What `kernel_attention` says of each known sample from the OTHER ones, to choose a scale by.

  >>> keys = unit(jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]))
  >>> leave_one_out(keys, jnp.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]), 1e-3).argmax(-1).tolist()
  [0, 0, 1, 1]
  """
  _check_scale(scale)
  check.require(len(keys) > 1, "two known samples or more", f"{len(keys)}", "give more")
  return _masked(keys @ keys.T / scale) @ values


def balanced_values(labels: Int[np.ndarray, " n"], num_classes: int) -> Float[Array, "n class"]:
  """One-hot labels over the size of their class, so that attention hears rare classes as well.

  >>> balanced_values(np.array([1, 0, 1]), 2).tolist()
  [[0.0, 0.5], [1.0, 0.0], [0.0, 0.5]]
  """
  sizes = np.maximum(np.bincount(labels, minlength=num_classes), 1)
  return jnp.asarray((np.eye(num_classes) / sizes)[labels], jnp.float32)


def best_scale(
  keys: Float[Array, "n feature"],
  labels: Int[np.ndarray, " n"],
  num_classes: int,
  scales: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0),
) -> float:
  """The scale whose `leave_one_out` has the best balanced accuracy; the smallest of equals.

  >>> keys = unit(jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]))
  >>> best_scale(keys, np.array([0, 0, 1, 1]), 2)
  0.001
  """
  values = balanced_values(labels, num_classes)
  found = []
  for scale in scales:
    said = np.asarray(leave_one_out(keys, values, scale)).argmax(1)
    found.append(np.mean([(said[labels == k] == k).mean() for k in np.unique(labels)]))
  return scales[int(np.argmax(found))]


def self_attention(
  rows: Float[Array, "n width"], scale: float, *, masked: bool = True
) -> Float[Array, "n width"]:
  """One layer with keys, values and queries alike, softmax(X X^T / scale) X.

  Args:
    rows: [feature | label], the label of a new sample 0 (Setup 2 of the paper).
    scale: as for `kernel_attention`.
    masked: whether a row does not see itself. False is what the paper prints.
  """
  _check_scale(scale)
  scores = rows @ rows.T / scale
  return (_masked(scores) if masked else jax.nn.softmax(scores, axis=-1)) @ rows


def representatives(
  features: np.ndarray, labels: np.ndarray, number: int, *, balanced: bool = True
) -> np.ndarray:
  """Which known samples to show, in which order: the paper's selection and ordering (Section 2.2).

  A sample represents the others by the sum of its cosines with them, and the most representative
  one comes last, next to the question. With `balanced` this is done class by class and the classes
  are interleaved, as the paper does where they are unequal.

  >>> features = np.array([[1.0, 0.0], [0.9, 0.1], [0.6, 0.8], [0.0, 1.0]])
  >>> representatives(features, np.zeros(4, int), 2).tolist()  # the middle of all comes last
  [1, 2]
  >>> representatives(features, np.array([0, 0, 0, 1]), 2).tolist()
  [3, 1]

  Args:
    features: [n, feature].
    labels: [n] class ids.
    number: how many to show, 1 to n. A class with too few members leaves its places empty.
    balanced: whether each class gets the same number of places.
  Returns:
    Positions, at most `number`.
  """
  check.require(
    1 <= number <= len(features),
    f"1 to {len(features)} samples to show",
    f"{number}",
    "show fewer, or give more known samples",
  )
  check.same_shape("labels", labels.shape, "features", features.shape[:1])
  if not balanced:
    return _ranked(features, np.arange(len(features)))[:number][::-1]
  groups = [np.flatnonzero(labels == name) for name in np.unique(labels)]
  places = -(-number // len(groups))
  ranked = [_ranked(features, group)[:places] for group in groups]
  # Rank by rank through the classes, best first, then cut and turned around.
  order = [own[rank] for rank in range(places) for own in ranked if rank < len(own)]
  return np.array(order[:number][::-1], np.int64)


def _ranked(features: np.ndarray, members: np.ndarray) -> np.ndarray:
  """Members, the most representative among them first."""
  own = features[members].astype(np.float64)
  lengths = np.linalg.norm(own, axis=1, keepdims=True)
  own = own / np.where(lengths > 0, lengths, 1)
  # sum_j cos(f_i, f_j) = f_i . sum_j f_j for rows of unit length.
  return members[np.argsort(-own @ own.sum(0), kind="stable")]


def _masked(scores: Float[Array, "n n"]) -> Float[Array, "n n"]:
  return jax.nn.softmax(jnp.where(jnp.eye(len(scores), dtype=bool), -jnp.inf, scores), axis=-1)


def _check_scale(scale: float) -> None:
  check.require(scale > 0, "a scale above 0", f"{scale}", "use a small positive number for s -> 0")
