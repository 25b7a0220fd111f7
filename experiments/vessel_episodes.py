"""The network that draws vessels, its views of a group of pictures, and the terms it is held to.

Not a study: what the arms of `experiments.map` are made of. An episode has two halves: the network
learns from one view of a group of pictures, and is held to mixtures of the other views. Beside the
loss of the mixtures stand two terms: features are near those that the first half gave ("similarity"
to the anchor), and features of different pictures are apart ("decorrelation").
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import left_out_sites, vessel_looks
from medjax import check, losses, methods, nets, rng, study
from medjax.methods import episodic
from medjax.types import Array, Key, Params, PyTree, Step, TrainState

TERMS = ("similarity", "decorrelation")
"""What may be added to the loss of the mixtures."""


@dataclasses.dataclass(frozen=True)
class Settings(left_out_sites.Settings):
  """What a `Task` is told beside its number of updates."""

  size: int = 48  # side of a picture in pixels
  widths: tuple[int, ...] = (8, 16)  # channels of the U-Net's levels
  halvings: int = 5  # of the learning rate over a training
  batch_size: int = 4  # pictures an update, a multiple of `group`
  group: int = 4  # pictures that are told apart
  num_mixtures: int = 2  # of each picture in an update
  alpha: float = 1.0  # of the Dirichlet distribution of mixtures
  learning_rate: float = 3e-3  # Adam's
  rate: float = 0.05  # of the look ahead
  period: int = 10  # updates of a phase of the alternation
  similarity: float = 1.0  # weight of the distance to the anchor
  decorrelation: float = 1.0  # weight of the cosines

  def __post_init__(self):
    super().__post_init__()
    check.require(
      self.group > 1 and self.batch_size % self.group == 0,
      "a batch of whole groups of two pictures or more",
      f"batch_size={self.batch_size}, group={self.group}",
      "pass for example --batch_size 8 --group 4",
    )


class Task:
  """The network, its views of a group of pictures, and the three terms."""

  def __init__(self, config: Settings):
    self.config = config
    self.module = nets.UNet(2, config.widths, num_convs=1)

  def tx(self, num_steps: int) -> optax.GradientTransformation:
    """Adam, whose rate is halved `halvings` times in so many updates of its own."""
    every = max(num_steps // (self.config.halvings + 1), 1)
    rate = optax.exponential_decay(self.config.learning_rate, every, 0.5, staircase=True)
    return optax.adam(rate, eps_root=1e-12)

  def alternation_flops(self, *terms: str) -> float:
    """Operations of an update of an alternation: the mean over its two phases."""
    phases = (self.first(), self.mixed(*terms))
    return float(np.mean([study.flops(step, *self.shapes) for step in phases]))

  @functools.cached_property
  def long_steps(self) -> int:
    """Updates with which the alternation costs what the exact look ahead costs in `num_steps`."""
    exact = study.flops(self.episodes("exact", *TERMS), *self.shapes)
    return round(self.config.num_steps * exact / self.alternation_flops(*TERMS))

  @functools.cached_property
  def shapes(self) -> tuple[PyTree, PyTree]:
    """Shapes of the parameters and of a batch."""
    size, number = self.config.size, self.config.batch_size
    image = jax.ShapeDtypeStruct((size, size, 1), jnp.float32)
    params = jax.eval_shape(self.module.init, jax.random.key(0), image)["params"]
    views = jax.ShapeDtypeStruct((number, vessel_looks.NUM_LOOKS, *image.shape), jnp.float32)
    batch = {
      "image": jax.ShapeDtypeStruct((number, *image.shape), jnp.float32),
      "views": views,
      "looks": views,
      "label": jax.ShapeDtypeStruct((number, size, size), jnp.int32),
      "index": jax.ShapeDtypeStruct((number,), jnp.int32),
      "draw": jax.ShapeDtypeStruct((number,), jnp.int32),
    }
    return params, batch

  def start(self, arm: str, key: Key, image: Array) -> Params:
    del arm  # all start from the same weights
    return jax.jit(self.module.init)(rng.stream(key, "parameters"), image)["params"]

  def logits(self, params: Params, image: Array) -> Array:
    return self.seen(params, image)[0]

  def seen(self, params: Params, image: Array) -> tuple[Array, Array]:
    """Logits, and features before the last layer."""
    found: Any = self.module.apply(
      {"params": params},
      image,
      capture_intermediates=lambda own, method: own.name == "decoder0" and method == "__call__",
    )
    return found[0], found[1]["intermediates"]["decoder0"]["__call__"][0][0]

  def segment(self, logits: Array, label: Array) -> Array:
    """Mean over pictures [..., height, width, class] of cross-entropy and soft Dice."""
    logits = logits.reshape(-1, *logits.shape[-3:])
    label = label.reshape(-1, *label.shape[-2:])
    each = jax.vmap(lambda x, y: losses.cross_entropy(x, y) + losses.soft_dice(x, y))
    return each(logits, label).mean()

  def mixtures(self, example: PyTree, key: Key) -> Array:
    """[picture, mixture, height, width, 1] of the picture itself and all views but the first."""
    bases = jnp.concatenate([example["image"][:, None], example["views"][:, 1:]], 1)
    pictures, number = bases.shape[:2]
    alpha = jnp.full(number, self.config.alpha)
    shares = jax.random.dirichlet(key, alpha, (pictures, self.config.num_mixtures))
    return jnp.einsum("pmk,pkhwc->pmhwc", shares, bases)

  def on_first_view(self, params: Params, example: PyTree, key: Key) -> Array:
    del key
    logits = jax.vmap(self.logits, (None, 0))(params, example["views"][:, 0])
    return self.segment(logits, example["label"])

  def on_mixtures(
    self, params: Params, anchor: Params, example: PyTree, key: Key, *, terms: Sequence[str]
  ) -> Array:
    shown = self.mixtures(example, key)
    run = jax.vmap(jax.vmap(self.seen, (None, 0)), (None, 0))
    logits, z = run(params, shown)
    label = jnp.broadcast_to(example["label"][:, None], logits.shape[:-1])
    total = self.segment(logits, label)
    if "similarity" in terms:
      held = jax.vmap(self.seen, (None, 0))(anchor, example["views"][:, 0])[1]
      total = total + self.config.similarity * losses.view_similarity(z, held)
    if "decorrelation" in terms:
      total = total + self.config.decorrelation * losses.decorrelation(z)
    return total

  def plain(self) -> Step:
    def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
      del key
      logits = jax.vmap(self.logits, (None, 0))(params, example["image"])
      return self.segment(logits, example["label"])

    return self.grouped(methods.supervised(loss_fn, self.tx(self.config.num_steps)))

  def first(self) -> Step:
    """One view alone: the first phase of an alternation, whose operations are counted."""
    return self.grouped(methods.supervised(self.on_first_view, self.tx(self.config.num_steps)))

  def mixed(self, *terms: str, views: str = "views") -> Step:
    def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
      return self.on_mixtures(params, params, example, key, terms=terms)

    return self.grouped(methods.supervised(loss_fn, self.tx(self.config.num_steps)), views)

  def episodes(
    self,
    mode: episodic.EpisodeMode,
    *terms: str,
    views: str = "views",
    num_steps: int | None = None,
  ) -> Step:
    """Episodes in a `mode`; the rate is halved over `num_steps` updates, None: those of all."""
    test = functools.partial(self.on_mixtures, terms=terms)
    num_steps = self.config.num_steps if num_steps is None else num_steps
    # Each phase of an alternation has an optimiser of its own, which makes half of the updates.
    own = num_steps // 2 if mode == "alternate" else num_steps
    step = episodic.episodic(
      self.on_first_view, test, self.tx(own), mode=mode, rate=self.config.rate,
      period=self.config.period,
    )  # fmt: skip
    return self.grouped(step, views)

  def grouped(self, step: Step, views: str = "views") -> Step:
    """The Step on groups of pictures, each group one example."""
    size = self.config.group

    def update(state: TrainState, batch: PyTree, key: Key) -> Any:
      groups = {
        name: batch[key].reshape(-1, size, *batch[key].shape[1:])
        for name, key in (("image", "image"), ("views", views), ("label", "label"))
      }
      # A group takes the key of its first picture, whose draw no other group has.
      first = {name: batch[name][::size] for name in ("index", "draw")}
      return step.update(state, {**groups, **first}, key)

    return dataclasses.replace(step, update=update)
