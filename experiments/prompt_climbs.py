"""A click through a segmenter and a scorer of its masks, and the climb of the score.

Not a study: networks, losses and searches of `sampot`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.grouped_prompts import mask_loss
from medjax import nets
from medjax.types import Array, Key, Params, PyTree

SIDE = 64


class Task:
  """Networks and what a click is worth."""

  def __init__(self, config: Any):
    self.config = config
    self.net = nets.promptable(nets.mini_promptable(num_masks=1))
    self.scorer = nets.from_linen(nets.SmallCNN(1, (8, 16, 16), num_groups=1))

  def answered(self, params: Params, embedding: Array, point: Array) -> tuple[Array, Array]:
    """Logits [side, side] and the segmenter's own estimate for one click."""
    asked = nets.point_prompt(point[None], jnp.ones(1, jnp.int32))
    out = self.net.decode(params, embedding, asked)
    return jax.image.resize(out.logits[..., 0], (SIDE, SIDE), "linear"), out.quality[0]

  def segmenter_loss(self, params: Params, example: PyTree, key: Key) -> Array:
    """Mask loss for a random click inside, and the squared error of the estimate."""
    inside = example["mask"].ravel().astype(jnp.float32)
    place = jax.random.categorical(key, jnp.log(inside + 1e-9))
    point = jnp.stack([place % SIDE, place // SIDE]).astype(jnp.float32)
    embedding = self.net.embed(params, example["image"])
    logits, quality = self.answered(params, embedding, point)
    found, mask = logits > 0, example["mask"]
    share = (found & mask).sum() / jnp.maximum((found | mask).sum(), 1)
    return mask_loss(logits, mask) + jnp.square(quality - share)

  def score(self, params: Params, image: Array, soft: Array) -> Array:
    """The Dice that the scorer expects of a soft mask."""
    logits, _ = self.scorer.apply(params, jnp.concatenate([image, soft[..., None]], -1))
    return jax.nn.sigmoid(logits[0])

  def scorer_loss(self, params: Params, example: PyTree, key: Key) -> Array:
    del key
    return jnp.square(self.score(params, example["image"], example["soft"]) - example["dice"])

  def worth(self, both: Any, image: Array, embedding: Array, point: Array) -> tuple[Array, ...]:
    """Score, own estimate and logits of a click."""
    segmenter, scorer = both
    logits, quality = self.answered(segmenter, embedding, point)
    return self.score(scorer, image, jax.nn.sigmoid(self.config.slope * logits)), quality, logits


def dice_of(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """[n] Dice of logits [n, side, side]."""
  inside = logits > 0
  both, total = (inside & mask).sum((1, 2)), inside.sum((1, 2)) + mask.sum((1, 2))
  return 2 * both / np.maximum(total, 1)


def level_sets(mask: np.ndarray, count: int) -> np.ndarray:
  """[count, side, side] masks from much too small to much too large."""
  from scipy import ndimage

  inner, outer = (np.asarray(ndimage.distance_transform_edt(x)) for x in (mask, ~mask))
  depth = inner - outer
  return np.stack([depth > cut for cut in np.linspace(0.8 * inner.max(), -10, count)])


def candidates(task: Task, params: Params, store: Any, seed: int) -> dict[str, np.ndarray]:
  """What the scorer learns from: level sets and masks of random clicks, with their Dice."""
  config, random = task.config, np.random.default_rng(seed)
  ask = jax.jit(jax.vmap(lambda e, p: task.answered(params, e, p)[0]))
  images, softs, values = [], [], []
  truth = store["mask"]
  for level in range(config.num_candidates):
    points = random.uniform(0, SIDE - 1, (len(truth), 2)).astype(np.float32)
    logits = np.asarray(ask(store["embedding"], points))
    sets = np.stack([level_sets(mask, config.num_candidates)[level] for mask in truth])
    for found, soft in (
      (logits, 1 / (1 + np.exp(-np.clip(config.slope * logits, -30, 30)))),
      (np.where(sets, 1.0, -1.0), sets.astype(np.float32)),
    ):
      images.append(store["image"])
      softs.append(soft)
      values.append(dice_of(found, truth))
  stacked = {"image": images, "soft": softs, "dice": values}
  return {name: np.concatenate(x).astype(np.float32) for name, x in stacked.items()}


def climb(task: Task, both: Any, store: Any, objective: int, radius: float) -> np.ndarray:
  """[n, 2] the best click on each climb: of the score (objective 0) or of the own estimate (1)."""
  tx = optax.adam(task.config.move_rate)
  start = jnp.full((len(store["mask"]), 2), (SIDE - 1) / 2)

  def value(point: Array, image: Array, embedding: Array) -> Array:
    return task.worth(both, image, embedding, point)[objective]

  @jax.jit
  def move(points: Array, state: Any, radius: Array) -> tuple[Array, Array, Any]:
    values, slope = jax.vmap(jax.value_and_grad(value))(points, store["image"], store["embedding"])
    updates, state = tx.update(-slope, state)
    moved = jnp.clip(points + jnp.asarray(updates), 0, SIDE - 1)
    apart = moved - start
    far = jnp.linalg.norm(apart, axis=-1, keepdims=True)
    return values, start + apart * jnp.minimum(1, radius / jnp.maximum(far, 1e-6)), state

  points, state = start, tx.init(start)
  best, best_value = np.asarray(start), np.full(len(start), -np.inf)
  for _ in range(task.config.num_moves + 1):
    values, moved, state = move(points, state, jnp.float32(radius))
    is_better = np.asarray(values) > best_value
    best = np.where(is_better[:, None], np.asarray(points), best)
    best_value = np.where(is_better, np.asarray(values), best_value)
    points = moved
  return best
