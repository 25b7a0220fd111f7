"""The frozen segmenter of CEmb-SAM, and the decoders behind it that are told a group.

Not a study: networks and losses of `cemb_sam`. `mask_loss` serves the other studies of prompts.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import prompted_sets
from medjax import adapt, data, methods, metrics, nets, rng, study
from medjax.nets.condition import ConditionBlock
from medjax.types import Array, Key, Params, PyTree, Step


def mask_loss(logits: Array, mask: Array) -> Array:
  """Dice loss and cross-entropy, unweighted, of logits [h, w] brought to the mask's grid."""
  large = jax.image.resize(logits, mask.shape, "linear")
  share, mask = jax.nn.sigmoid(large), mask.astype(jnp.float32)
  overlap = (2 * (share * mask).sum() + 1) / (share.sum() + mask.sum() + 1)
  return 1 - overlap + optax.sigmoid_binary_cross_entropy(large, mask).mean()


def jittered(box: Array, key: Key, side: int) -> Array:
  """A box with each side moved by up to 4 % of the picture, inside of it."""
  moved = box + jax.random.uniform(key, (4,), minval=-0.04, maxval=0.04) * side
  return jnp.clip(moved, 0.0, side - 1.0)


def pretrained(config: Any, directory: Any, seed: int) -> tuple[nets.Promptable, Params]:
  """The small segmenter, trained with boxes on shapes that have no groups."""
  net = nets.promptable(nets.mini_promptable(num_masks=1))
  own = prompted_sets.drawn(1024, 64, seed + 1000, has_groups=False)
  store = {"image": own.image, "mask": own.mask, "box": prompted_sets.boxes(own.mask)}

  def loss(params: Params, example: PyTree, key: Key) -> Array:
    asked = nets.box_prompt(jittered(example["box"], key, 64))
    return mask_loss(net.apply(params, example["image"], asked).logits[..., 0], example["mask"])

  key = jax.random.key(seed)
  start = net.init(rng.stream(key, "parameters"), jnp.asarray(own.image[0]))
  step = methods.supervised(
    loss, optax.adam(optax.cosine_decay_schedule(1e-3, config.num_pretraining))
  )
  stream = data.batches(store, 8, key, name="pretraining")
  job = study.Job("pretraining", step, stream, start, key, config.num_pretraining)
  return net, study.train_job(job, directory, log_every=config.log_every).params


@dataclasses.dataclass(frozen=True)
class Kind:
  """A way to train: what stands before the decoder, and what it is told."""

  has_block: bool = False
  has_skip: bool = True
  told: str = "one"  # "group", "shuffled", or "one" for all


class Problem:
  """The frozen segmenter, the block and the decoder behind it."""

  def __init__(self, config: Any, net: nets.Promptable, params: Params, sets: Any):
    self.config, self.net, self.frozen = config, net, params
    self.side, self.num_groups = sets.image.shape[1], len(sets.groups)

  def start(self, kind: Kind, key: Key, embedding: Array) -> tuple[adapt.SmallPart, PyTree]:
    """What trains - the decoder and the block - and the frozen prompt encoder."""
    params = {name: self.frozen[name] for name in ("prompts", "decoder")}
    if kind.has_block:
      init = jax.jit(self._block(kind).init)
      params["block"] = init(rng.stream(key, "block"), embedding, jnp.int32(0))["params"]
    return adapt.take(params, trains=adapt.under("decoder/*", "block/*"))

  def logits(self, kind: Kind, params: Params, example: PyTree, key: Key) -> Array:
    seen = example["embedding"]
    if kind.has_block:
      found: Any = self._block(kind).apply({"params": params["block"]}, seen, example["group"])
      seen = found
    asked = nets.box_prompt(jittered(example["box"], key, self.side))
    return self.net.decode(params, seen, asked).logits[..., 0]

  def step(self, kind: Kind, frozen: PyTree) -> Step:
    def loss(params: Params, example: PyTree, key: Key) -> Array:
      return mask_loss(self.logits(kind, params, example, key), example["mask"])

    return methods.supervised(
      adapt.adapted_loss(loss, frozen), optax.adam(self.config.learning_rate)
    )

  def program(self, kind: Kind) -> Any:
    """(params, store) -> Dice of each picture; its box is moved by a key of its own."""

    def dice(params: Params, example: PyTree) -> Array:
      key = rng.stream(jax.random.fold_in(jax.random.key(0), example["index"]), "test box")
      logits = self.logits(kind, params, example, key)
      inside = jax.image.resize(logits, example["mask"].shape, "linear") > 0
      truth = example["mask"].astype(jnp.int32)
      return metrics.dice(inside.astype(jnp.int32), truth, num_classes=2)[0]

    one = jax.jit(dice)
    # A picture at a time: the decoder of LiteMedSAM holds 100 MB for each.
    return lambda params, store: np.array(
      [one(params, {k: v[i] for k, v in store.items()}) for i in range(len(store["box"]))]
    )

  def _block(self, kind: Kind) -> ConditionBlock:
    return ConditionBlock(self.num_groups, has_skip=kind.has_skip)


def nearest_group(train: Mapping[str, Any], test: Mapping[str, Any]) -> np.ndarray:
  """The group whose mean is nearest to each test picture, by standardised means of embeddings."""
  pooled = [np.asarray(part["embedding"]).mean((1, 2)) for part in (train, test)]
  centre, spread = pooled[0].mean(0), pooled[0].std(0) + 1e-6
  known, asked = ((values - centre) / spread for values in pooled)
  labels = np.asarray(train["group"])
  means = np.stack([known[labels == g].mean(0) for g in range(labels.max() + 1)])
  return np.square(asked[:, None] - means[None]).sum(-1).argmin(1).astype(np.int32)
