"""Networks of AViT of which some part trains, and the hairs over their pictures.

Not a study: the networks, losses and folds of `avit`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import prompt_free, prompted_sets
from experiments.grouped_prompts import mask_loss
from medjax import data, metrics, nets, rng, study
from medjax.data.augmentation import Corrupted
from medjax.nets.avit import AViT
from medjax.types import Array, Key, Params, PyTree


def hairy(pictures: np.ndarray, seed: int) -> np.ndarray:
  """Simulated lesions with hairs over them."""
  spoil = Corrupted("hairs", 3)
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(len(pictures)))

  @jax.jit
  def one(key: Key, image: Array) -> Array:
    return spoil.apply(spoil.draw(key, image.shape), image)

  return np.asarray(jax.vmap(one)(keys, jnp.asarray(pictures)))


def turns_of(config: Any, sets: prompted_sets.Pictures, seed: int) -> list[study.Turn]:
  """One split of the people, or folds of them, each of which is tested once."""
  subject = np.unique(np.array(sets.subjects), return_inverse=True)[1].astype(np.int32)
  every = {"image": sets.image, "mask": sets.mask, "subject": subject,
           "row": np.arange(len(subject), dtype=np.int32)}  # fmt: skip
  shares = {"train": config.train_fraction, "test": 1 - config.train_fraction}
  parted = {"": study.parted(sets.subjects, shares, seed)}
  if config.num_folds > 1:
    parted = {
      f"fold{i}": {
        "train": own.indices("train", sets.subjects),
        "test": own.indices("validation", sets.subjects),
      }
      for i, own in enumerate(data.folds(sets.subjects, config.num_folds, seed=seed))
    }
  turns = []
  for name, parts in parted.items():
    train, test = ({k: v[np.array(parts[p])] for k, v in every.items()} for p in ("train", "test"))
    people = study.people_by_part(sets.subjects, parts)
    turns.append(study.Turn(name, train, (), {"test": test}, people))
  return turns


@dataclasses.dataclass(frozen=True)
class Kind:
  """What trains, by paths, and how it begins."""

  trains: tuple[str, ...]
  has_prompt: bool = False
  is_pretrained: bool = True
  is_private: bool = False


class Task:
  """The network, its first training, and its losses."""

  def __init__(self, config: Any, channels: int):
    self.config, side = config, config.size // config.patch_size
    self.encoder = nets.ViT(
      patch=config.patch_size, width=config.width, depth=config.num_layers, num_heads=4,
      grid=(side, side), mlp_ratio=2, adapter_width=config.width // 4,
    )  # fmt: skip
    self.shape = (config.size, config.size, channels)

  def net(self, kind: Kind) -> AViT:
    return AViT(
      self.encoder, width=24, has_prompt=kind.has_prompt, has_lite_prompt=bool(self.config.weights)
    )

  def start(self, key: Key) -> Params:
    """Drawn parameters; a prompt network of EfficientNet-Lite0 has those of its file."""
    init = jax.jit(self.net(Kind(())).init)
    params = init(rng.stream(key, "parameters"), jnp.zeros(self.shape))["params"]
    if not self.config.weights:
      return params
    whole = prompt_free.imagenet_weights(self.config.weights)
    return {**params, "prompt": {name: whole[name] for name in nets.LiteStart.PARTS}}

  def rebuilt(self, params: Params, example: PyTree, key: Key) -> Array:
    """Squared error of the hidden patches, which the transformer does not see."""
    patch, side = self.config.patch_size, self.config.size // self.config.patch_size
    image = example["image"]
    hidden = jax.random.bernoulli(key, self.config.hidden_fraction, (side, side, 1))
    cover = jnp.repeat(jnp.repeat(hidden, patch, 0), patch, 1)
    seen: Any = self.encoder.apply({"params": params["encoder"]}, jnp.where(cover, 0.5, image))
    pixels = seen @ params["pixels"]  # [side, side, patch * patch * channel]
    channels = image.shape[-1]
    blocks = pixels.reshape(side, side, patch, patch, channels).transpose(0, 2, 1, 3, 4)
    error = jnp.square(blocks.reshape(image.shape) - image)
    return (error * cover).sum() / jnp.maximum(cover.sum() * channels, 1)

  def loss(self, kind: Kind) -> Any:
    apply: Any = self.net(kind).apply

    def one(params: Params, example: PyTree, key: Key) -> Array:
      del key
      logits = apply({"params": params}, example["image"])[..., 0]
      return mask_loss(logits, example["mask"])

    return one

  def program(self, kind: Kind) -> Any:
    """(params, store) -> Dice of each picture."""
    apply: Any = self.net(kind).apply

    def dice(params: Params, image: Array, mask: Array) -> Array:
      inside = apply({"params": params}, image)[..., 0] > 0
      return metrics.dice(inside.astype(jnp.int32), mask.astype(jnp.int32), num_classes=2)[0]

    many = jax.jit(jax.vmap(dice, (None, 0, 0)))
    return lambda params, store: np.asarray(many(params, store["image"], store["mask"]))
