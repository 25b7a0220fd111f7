"""A click or a box through a segmenter and a scorer of its masks, and the climb of the score.

Not a study: networks, losses and searches of `sampot`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.grouped_prompts import mask_loss
from medjax import nets
from medjax.types import Array, Evaluator, Key, Params, PyTree, TrainState

SCORED = 64  # side in pixels at which the scorer sees picture and mask


class Task:
  """Networks and what a place - a click (x, y), or a box of four numbers - is worth."""

  def __init__(self, config: Any, module: nets.PromptableSegmenter, side: int, channels: int):
    self.config, self.side, self.channels = config, side, channels
    self.net = nets.promptable(module)
    self.scorer = nets.from_linen(nets.SmallCNN(1, config.widths, num_groups=4))

  def each(self, one: Callable[..., Any]) -> Callable[..., Any]:
    """`one` over pictures: at once, or one after the other where the decoder takes 100 MB."""
    if self.side <= SCORED:
      return jax.vmap(one)
    return lambda *rows: jax.lax.map(lambda row: one(*row), rows)

  def asked(self, place: Array) -> nets.Prompts:
    """The prompt of a place; corners of a box may have crossed."""
    if place.shape[0] == 2:
      return nets.point_prompt(place[None], jnp.ones(1, jnp.int32))
    one, two = place[:2], place[2:]
    return nets.box_prompt(jnp.concatenate([jnp.minimum(one, two), jnp.maximum(one, two)]))

  def answered(self, params: Params, embedding: Array, place: Array) -> tuple[Array, Array]:
    """Logits [side, side] and the segmenter's own estimate for one prompt."""
    out = self.net.decode(params, embedding, self.asked(place))
    return jax.image.resize(out.logits[..., 0], (self.side, self.side), "linear"), out.quality[0]

  def segmenter_loss(self, params: Params, example: PyTree, key: Key) -> Array:
    """Mask loss for a random click inside, and the squared error of the estimate."""
    inside = example["mask"].ravel().astype(jnp.float32)
    place = jax.random.categorical(key, jnp.log(inside + 1e-9))
    point = jnp.stack([place % self.side, place // self.side]).astype(jnp.float32)
    embedding = self.net.embed(params, example["image"])
    logits, quality = self.answered(params, embedding, point)
    found, mask = logits > 0, example["mask"]
    share = (found & mask).sum() / jnp.maximum((found | mask).sum(), 1)
    return mask_loss(logits, mask) + jnp.square(quality - share)

  def score(self, params: Params, image: Array, soft: Array) -> Array:
    """The Dice that the scorer expects of a soft mask.

    It sees the picture, the mask and their product, which leaves the picture inside alone.
    """
    mask = jax.image.resize(soft, (SCORED, SCORED), "linear")[..., None]
    seen = jax.image.resize(image, (SCORED, SCORED, image.shape[-1]), "linear")
    logits, _ = self.scorer.apply(params, jnp.concatenate([seen, mask, seen * mask], -1))
    return jax.nn.sigmoid(logits[0])

  def scorer_loss(self, params: Params, example: PyTree, key: Key) -> Array:
    del key
    return jnp.square(self.score(params, example["image"], example["soft"]) - example["dice"])

  def worth(self, both: Any, image: Array, embedding: Array, place: Array) -> tuple[Array, ...]:
    """Score, own estimate and logits of a prompt."""
    segmenter, scorer = both
    logits, quality = self.answered(segmenter, embedding, place)
    return self.score(scorer, image, jax.nn.sigmoid(self.config.slope * logits)), quality, logits


def dice_of(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """[n] Dice of logits [n, side, side]."""
  inside = logits > 0
  both, total = (inside & mask).sum((1, 2)), inside.sum((1, 2)) + mask.sum((1, 2))
  return 2 * both / np.maximum(total, 1)


def correlation(one: np.ndarray, two: np.ndarray) -> float:
  """Of all values of both; 0 where either is constant."""
  if min(one.std(), two.std()) < 1e-9:
    return 0.0
  return float(np.corrcoef(one.ravel(), two.ravel())[0, 1])


# --- places


def starts(task: Task, mask: np.ndarray, seed: int) -> np.ndarray:
  """Where climbs begin: clicks in the middle of the picture, or boxes that are moved at random.

  A box has each side moved by up to `start_fraction` of the picture, as a careless hand would draw
  it; a click knows nothing of the object.
  """
  if not task.config.weights:
    return np.full((len(mask), 2), (task.side - 1) / 2)
  boxes = []
  for own in mask:
    rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
    boxes.append((columns[0], rows[0], columns[-1], rows[-1]))
  return nearby(task, np.array(boxes, float), np.random.default_rng(seed))


def nearby(task: Task, places: np.ndarray, random: np.random.Generator) -> np.ndarray:
  """Random places: clicks anywhere, boxes within `start_fraction` of the given ones."""
  if places.shape[1] == 2:
    return random.uniform(0, task.side - 1, places.shape)
  far = task.config.start_fraction * task.side
  return np.clip(places + random.uniform(-far, far, places.shape), 0, task.side - 1)


# --- what the scorer learns from


def _scored(x: np.ndarray) -> np.ndarray:
  """Pictures or masks [n, side, side, ...] at the size at which the scorer sees them."""
  return np.asarray(jax.image.resize(x, (len(x), SCORED, SCORED, *x.shape[3:]), "linear"))


def level_sets(mask: np.ndarray, count: int) -> np.ndarray:
  """[count, side, side] masks from much too small to much too large."""
  from scipy import ndimage

  inner, outer = (np.asarray(ndimage.distance_transform_edt(x)) for x in (mask, ~mask))
  depth = inner - outer
  most = 10 / SCORED * mask.shape[0]
  return np.stack([depth > cut for cut in np.linspace(0.8 * inner.max(), -most, count)])


def candidates(task: Task, params: Params, store: Any, seed: int) -> dict[str, np.ndarray]:
  """Level sets, some of them shifted, and masks of random prompts, all with their Dice.

  Shifted sets have the size of the object and the wrong place, which neither level sets nor the
  masks of a good segmenter show.
  """
  config, random = task.config, np.random.default_rng(seed)
  image = _scored(store["image"])
  ask = jax.jit(task.each(lambda e, p: task.answered(params, e, p)[0]))
  truth, images, softs, values = store["mask"], [], [], []
  sets = np.stack([level_sets(mask, config.num_candidates) for mask in truth], 1)
  for level in range(config.num_candidates):
    places = nearby(task, starts(task, truth, seed + level), random)
    logits = np.asarray(ask(store["embedding"], places.astype(np.float32)))
    shifts = random.integers(-task.side // 4, task.side // 4 + 1, (len(truth), 2))
    shifts[level % 2 :: 2] = 0
    moved = np.stack([np.roll(x, s, (0, 1)) for x, s in zip(sets[level], shifts, strict=True)])
    for found, soft in (
      (logits, 1 / (1 + np.exp(-np.clip(config.slope * logits, -30, 30)))),
      (np.where(moved, 1.0, -1.0), moved.astype(np.float32)),
    ):
      images.append(image)
      softs.append(_scored(soft))
      values.append(dice_of(found, truth))
  stacked = {"image": images, "soft": softs, "dice": values}
  return {name: np.concatenate(x).astype(np.float32) for name, x in stacked.items()}


def held_out(task: Task, params: Params, store: Any, seed: int) -> Evaluator:
  """Correlation of score and Dice on pictures that the scorer has not learnt from."""
  pairs = candidates(task, params, store, seed)
  look = jax.jit(jax.vmap(task.score, (None, 0, 0)))

  def evaluate(state: TrainState) -> dict[str, float]:
    scores = np.asarray(look(state.params, pairs["image"], pairs["soft"]))
    return {"correlation": correlation(scores, pairs["dice"])}

  return evaluate


# --- the climb


def climb(
  task: Task, both: Any, store: Any, start: np.ndarray, objective: int, radius: float
) -> np.ndarray:
  """[n, 2 or 4] the best place on each climb: of the score (objective 0) or own estimate (1).

  Args:
    task: with `worth`, `each`, `side` and `config`.
    both: weights of segmenter and scorer.
    store: pictures, embeddings and masks.
    start: where each climb begins.
    objective: what is climbed.
    radius: how far a place may go from its start, in pixels.
  """
  tx = optax.adam(task.config.move_rate)
  first = jnp.asarray(start, jnp.float32)

  def value(place: Array, image: Array, embedding: Array) -> Array:
    return task.worth(both, image, embedding, place)[objective]

  @jax.jit
  def move(places: Array, state: Any, radius: Array) -> tuple[Array, Array, Any]:
    values, slope = task.each(jax.value_and_grad(value))(places, store["image"], store["embedding"])
    updates, state = tx.update(-slope, state)
    moved = jnp.clip(places + jnp.asarray(updates), 0, task.side - 1)
    apart = moved - first
    far = jnp.linalg.norm(apart, axis=-1, keepdims=True)
    return values, first + apart * jnp.minimum(1, radius / jnp.maximum(far, 1e-6)), state

  places, state = first, tx.init(first)
  best, best_value = np.asarray(first), np.full(len(start), -np.inf)
  for _ in range(task.config.num_moves + 1):
    values, moved, state = move(places, state, jnp.float32(radius))
    is_better = np.asarray(values) > best_value
    best = np.where(is_better[:, None], np.asarray(places), best)
    best_value = np.where(is_better, np.asarray(values), best_value)
    places = moved
  return best
