"""Segmentation by a support: which labelled slices are shown, and how much each is trusted.

Kim et al., "Empirical Analysis of a Segmentation Foundation Model in Prostate Imaging" (2023): of
the labelled slices t a query slice q is shown some, drawn without replacement by

  P(t) ~ 1 / (|Z_t - Z_q| + 1)           Z: slice index in its volume

either of those with the structure alone ("inclusive") or of all ("agnostic"); with more than two
labelled volumes several draws are averaged.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, Shaped

from medjax import check
from medjax.data.seeds import Seed, generator
from medjax.types import Array, Params

ApplySupport = Callable[..., Any]
"""`apply(params, query, images, masks, weights) -> logits [*space]`, as of `nets.CrossConvUNet`."""
Nearness = Callable[[np.ndarray, int], np.ndarray]
"""`weigh(places [n], place)` -> weight [n] of each labelled slice for a query at `place`."""
MaskLoss = Callable[[Array, Array], Array]


class SupportPool(NamedTuple):
  """Labelled slices of one structure.

  Attributes:
    images: [n, *space, channel] float32.
    masks: [n, *space] float32, 1 inside the structure.
    places: [n] slice index of each in its volume.
    volumes: [n] number of its volume.
  """

  images: Float[np.ndarray, "n *space channel"]
  masks: Float[np.ndarray, " n *space"]
  places: Integer[np.ndarray, " n"]
  volumes: Integer[np.ndarray, " n"]


def support_pool(
  images: Sequence[np.ndarray], labels: Sequence[np.ndarray], target: int, name: str = ""
) -> SupportPool:
  """All slices of the labelled volumes.

  Args:
    images: [slice, height, width, channel] of each volume, one size in plane.
    labels: [slice, height, width] class ids of each.
    target: class id of the structure.
    name: of the structure, for messages.
  Raises:
    InputError: no volume, shapes that do not fit, or a structure that none of the volumes has: a
      support of another class would segment that one.
  """
  what = name or f"class {target}"
  check.require(images, "one labelled volume or more", "an empty support", f"label {what} in one")
  for image, label in zip(images, labels, strict=True):
    check.same_shape("labels", label.shape, "image", image.shape[:-1])
  present = sorted({int(k) for label in labels for k in np.unique(label) if k > 0})
  check.require(
    target in present,
    f"a support that shows {what} (class id {target})",
    f"class ids {present}",
    "label it in one of these volumes, or ask for a structure that they show",
  )
  lengths = [len(image) for image in images]
  return SupportPool(
    np.concatenate(images).astype(np.float32),
    (np.concatenate(labels) == target).astype(np.float32),
    np.concatenate([np.arange(n) for n in lengths]),
    np.repeat(np.arange(len(lengths)), lengths),
  )


def near(places: np.ndarray, place: int) -> np.ndarray:
  """1 / (|Z_t - Z_q| + 1): slices of about the same height.

  >>> near(np.array([2, 3, 6]), 3).tolist()
  [0.5, 1.0, 0.25]
  """
  return 1 / (np.abs(places - place) + 1)


def anywhere(places: np.ndarray, place: int) -> np.ndarray:
  """All slices alike."""
  del place
  return np.ones(len(places))


def draw_support(
  pool: SupportPool,
  place: int,
  number: int,
  random: np.random.Generator,
  *,
  weigh: Nearness = near,
  inclusive: bool = False,
) -> np.ndarray:
  """Positions in the pool, ascending; all slices where there are no more than `number`.

  Args:
    pool: labelled slices.
    place: slice index of the query.
    number: slices that are shown at most.
    random: draws them.
    weigh: `near` or `anywhere`.
    inclusive: whether only slices with the structure are shown.
  Raises:
    InputError: a pool without a slice that may be shown; weights of 0 alone would give NaN.
  """
  check.positive("number", number)
  rows = np.arange(len(pool.masks))
  if inclusive:
    rows = rows[pool.masks.reshape(len(rows), -1).any(1)]
  check.require(
    len(rows),
    "a labelled slice that shows the structure" if inclusive else "one labelled slice or more",
    "an empty support",
    "label one",
  )
  if len(rows) <= number:
    return rows
  weight = weigh(pool.places[rows], place)
  return np.sort(random.choice(rows, number, replace=False, p=weight / weight.sum()))


class SupportSegmenter:
  """`segmenter(queries, places, pool, seed) -> probabilities [n, *space]`, on the host."""

  def __init__(
    self,
    apply: ApplySupport,
    params: Params,
    *,
    number: int = 64,
    chunk: int = 4,
    draws: int = 1,
    weigh: Nearness = near,
    inclusive: bool = False,
  ):
    """Keeps a program for supports of `number` pairs; smaller ones are filled up with weight 0.

    Args:
      apply, params: of a trained network; a pair of weight 0 must count for nothing.
      number: pairs that a query is shown, at most; 64 in the paper.
      chunk: queries a call.
      draws: supports whose probabilities are averaged; 5 in the paper for more than two volumes.
      weigh, inclusive: see `draw_support`.
    """
    for name, value in (("number", number), ("chunk", chunk), ("draws", draws)):
      check.positive(name, value)
    self._params, self._number, self._chunk, self._draws = params, number, chunk, draws
    self._weigh, self._inclusive = weigh, inclusive
    self._program = _program(apply)

  def __call__(
    self,
    queries: Float[np.ndarray, "m *space channel"],
    places: Sequence[int] | np.ndarray,
    pool: SupportPool,
    seed: Seed,
    *,
    trust: Shaped[np.ndarray, " n"] | None = None,
  ) -> np.ndarray:
    """Probability of the structure in each query.

    Args:
      queries: slices.
      places: slice index of each in its volume.
      pool: what may be shown.
      seed: of the draws.
      trust: weight of each slice of the pool, see `fit_trust`; None: all alike.
    """
    check.require(len(queries) == len(places), f"{len(queries)} places", f"{len(places)}", "fix it")
    trust = np.ones(len(pool.masks)) if trust is None else trust
    total = np.zeros(queries.shape[:-1], np.float32)
    for draw in range(self._draws):
      rows, weights = [], []
      for i, place in enumerate(places):
        random = generator(seed, f"support {draw}", i)
        own = draw_support(
          pool, int(place), self._number, random, weigh=self._weigh, inclusive=self._inclusive
        )
        spare = self._number - len(own)
        rows.append(np.pad(own, (0, spare)))
        weights.append(np.pad(trust[own], (0, spare)))
      total += self._said(queries, pool, np.stack(rows), np.stack(weights).astype(np.float32))
    return total / self._draws

  def _said(
    self, queries: np.ndarray, pool: SupportPool, rows: np.ndarray, weights: np.ndarray
  ) -> np.ndarray:
    found = []
    for start in range(0, len(queries), self._chunk):
      part = np.arange(start, start + self._chunk) % len(queries)  # the last call is filled up
      own = rows[part]
      logits = self._program(
        self._params, queries[part], pool.images[own], pool.masks[own], weights[part]
      )
      found.append(np.asarray(jax.nn.sigmoid(logits)))
    return np.concatenate(found)[: len(queries)]


def fit_trust(
  apply: ApplySupport,
  params: Params,
  pool: SupportPool,
  loss: MaskLoss,
  seed: Seed,
  *,
  number: int = 8,
  num_steps: int = 30,
  learning_rate: float = 0.3,
  batch_size: int = 4,
) -> np.ndarray:
  """How much each labelled slice is to be trusted, by gradients on the support itself.

  The trust is exp(a_t), and a_t starts at 0. Each step takes slices of the pool as queries whose
  masks are known, shows them others (of other volumes, where there are several), and moves a by
  Adam along the gradient of the loss through the weights of the network's means. The network stays.
  It is no part of the paper.

  Args:
    apply, params: of a trained network whose weights are differentiable.
    pool: labelled slices, two or more.
    loss: `loss(logits [*space], mask [*space])`.
    seed: of the draws.
    number: pairs shown at most.
    num_steps, learning_rate: of Adam.
    batch_size: queries a step.
  Returns:
    [n] float32, above 0, mean 1.
  """
  import optax

  count = len(pool.masks)
  check.require(count >= 2, "two labelled slices or more", f"{count}", "label another slice")
  tx = optax.adam(learning_rate)

  def total(scores: Array, queries: Any, support: Any, rows: Array, is_shown: Array) -> Array:
    def one(query: Any, support: Any, rows: Array, is_shown: Array) -> Array:
      # Of those shown the largest score is taken off: weights are divided by their sum anyway.
      own = scores[rows] - jnp.max(jnp.where(is_shown, scores[rows], -jnp.inf))
      weights = jnp.where(is_shown, jnp.exp(jnp.where(is_shown, own, 0)), 0)
      return loss(apply(params, query[0], *support, weights), query[1])

    return jax.vmap(one)(queries, support, rows, is_shown).mean()

  @jax.jit
  def step(scores: Array, state: Any, *given: Any) -> tuple[Array, Any]:
    updates, state = tx.update(jax.grad(total)(scores, *given), state)
    return jnp.asarray(optax.apply_updates(scores, updates)), state

  scores = jnp.zeros(count)
  state = tx.init(scores)
  has_several = len(np.unique(pool.volumes)) > 1
  for number_of_step in range(num_steps):
    random = generator(seed, "trust", number_of_step)
    queries = random.choice(count, batch_size)
    rows, shown = [], []
    for query in queries:
      other = pool.volumes != pool.volumes[query] if has_several else np.arange(count) != query
      others = np.flatnonzero(other)
      weight = near(pool.places[others], int(pool.places[query]))
      size = min(number, len(others))
      own = random.choice(others, size, replace=False, p=weight / weight.sum())
      rows.append(np.pad(own, (0, number - size)))
      shown.append(np.arange(number) < size)
    place, is_shown = np.stack(rows), np.stack(shown)
    query = pool.images[queries], pool.masks[queries]
    support = pool.images[place], pool.masks[place]
    scores, state = step(scores, state, query, support, place, is_shown)
  trust = np.asarray(jax.nn.softmax(scores)) * count
  return trust.astype(np.float32)


def _program(apply: ApplySupport) -> Callable[..., Array]:
  return jax.jit(jax.vmap(apply, (None, 0, 0, 0, 0)))
