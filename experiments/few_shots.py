"""A pretrained 3D network and what is trained of it for one organ from a few volumes.

Not a study. An arm of `experiments.fseft` is a call of a method of `Task`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import check, data, losses, methods, nets, rng, study, tree
from medjax.train import RunDirectory
from medjax.types import Array, Batch, Key, Params

_LAST = "decoder0"  # the finest level: its output are the features of the paper


@dataclasses.dataclass(frozen=True)
class Settings(study.Settings):
  """What the networks are told."""

  shape: tuple[int, ...] = (12, 24, 24)  # voxels of a volume
  widths: tuple[int, ...] = (8, 16, 32)  # channels of each level of the 3D U-Net
  num_updates: int = 240  # of the pretraining
  batch_size: int = 3  # volumes an update of the pretraining
  learning_rate: float = 3e-3  # Adam's, of the pretraining
  max_tunings: int = 80  # updates of an adaptation, a volume each; the prior acts on the last half
  adapter_rate: float = 3e-2  # AdamW's, of the adapter, cosine to 0; .5 in the paper
  probe_rate: float = 0.3  # of the linear probe; .5 in the paper
  tuning_rate: float = 1e-3  # AdamW's, of the last layers and of all
  prior_weight: float = 0.3  # of the penalty on sizes, which is counted in the wanted size
  log_every: int = 40


class Shots(NamedTuple):
  """An organ of a new site: labelled volumes, and volumes to segment.

  Attributes:
    organ: class id.
    images, masks: [shot, *space, 1] and [shot, *space].
    queries: [query, *space, 1].
    wanted: mean size of the organ in the shots, in voxels.
    margin: by the shots alone, see `losses.size_margin`.
  """

  organ: int
  images: np.ndarray
  masks: np.ndarray
  queries: np.ndarray
  wanted: float
  margin: float


def shots_of(
  images: np.ndarray, labels: np.ndarray, organ: int, queries: np.ndarray, name: str = ""
) -> Shots:
  """Checks that every shot shows the organ: a size of 0 would be a wrong prior, silently.

  Raises:
    InputError: no labelled volume, or one without the organ.
  """
  masks = (labels == organ).astype(np.float32)
  sizes = masks.sum(tuple(range(1, masks.ndim)))
  check.require(
    len(sizes) and sizes.all(),
    f"{name or f'organ {organ}'}, an organ that every labelled volume shows",
    f"sizes of {sizes.tolist()} voxels",
    "label it in all of them, or leave the class out of both sites",
  )
  margin = losses.size_margin(sizes)
  return Shots(organ, images, masks, queries, float(sizes.mean()), margin)


class Task:
  """The pretrained network, and its adaptations; all return masks [query, *space]."""

  def __init__(self, config: Settings, class_names: tuple[str, ...]):
    self.config = config
    self.num_structures = len(class_names) - 1
    self.module = nets.UNet(self.num_structures, config.widths)
    self.model = nets.from_linen(self.module)
    self._features = jax.jit(jax.vmap(nets.features(self.module, _LAST), (None, 0)))
    self.params: Params = None  # of the pretraining, see `pretrain`

  def pretrain(
    self, batch: Batch, labelled: np.ndarray, seed: int, directory: RunDirectory
  ) -> study.Trained:
    """On volumes of several sets, each of which labels its own organs."""
    config, key = self.config, jax.random.key(seed)

    def loss_fn(params: Params, example: Batch, key: Key) -> Array:
      del key
      logits = self.model.apply(params, example.image)[0]
      own = jnp.asarray(labelled)[example.domain]
      return losses.labelled_dice(logits, example.label, own)

    step = methods.supervised(loss_fn, optax.adam(config.learning_rate))
    params, _ = self.model.init(rng.stream(key, "parameters"), batch.image[0])
    stream = data.batches(batch, config.batch_size, key, name="pretraining")
    job = study.Job(f"pretraining-{seed}", step, stream, params, key, config.num_updates)
    one = study.train_job(job, directory, log_every=config.log_every)
    self.params = one.params
    return one

  # --- arms

  def general(self, shots: Shots, seed: int) -> np.ndarray:
    """Nothing is trained."""
    del seed
    return self._said(self.params, shots)

  def tuned(self, shots: Shots, seed: int, *, what: str = "", scratch: bool = False) -> np.ndarray:
    """The whole network, or the leaves whose path holds a word of `what`, from its weights."""
    params = self.params
    if scratch:
      key = rng.stream(jax.random.key(seed), "scratch")
      params, _ = self.model.init(key, shots.images[0])
    chosen, rest = tree.split(params, lambda name: not what or any(w in name for w in what.split()))
    logits = _whole(self.config.widths, self.num_structures)
    rate = self.config.learning_rate if scratch else self.config.tuning_rate
    kept = (rest, shots.organ - 1)
    total = self.config.max_tunings
    fitted = _fit(logits, rate, total, chosen, kept, shots.images, shots.masks, span=(0, total))
    return self._said(tree.merge(fitted, rest), shots)

  def adapted(
    self,
    shots: Shots,
    seed: int,
    *,
    convolves: bool = True,
    prior: Callable[..., Array] | None = None,
    factor: float = 1.0,
  ) -> np.ndarray:
    """An adapter or a probe on frozen features; with a prior the second half for each query.

    Args:
      shots: of one organ.
      seed: of the first weights.
      convolves: False is the linear probe.
      prior: `prior(size, wanted, margin=...)`, of sizes over the wanted one.
      factor: of the wanted size; not 1: the control.
    """
    config, net = self.config, nets.SpatialAdapter(convolves)
    images, queries = (
      np.asarray(self._features(self.params, x)) for x in (shots.images, shots.queries)
    )
    params = jax.jit(net.init)(rng.stream(jax.random.key(seed), "adapter"), images[0])
    total = config.max_tunings
    half = total // 2
    rate = config.adapter_rate if convolves else config.probe_rate
    logits = _adapter(convolves)
    given = (images, shots.masks)
    first = _fit(logits, rate, total, params, None, *given, span=(0, half))

    def finished(size: tuple[Any, ...] | None) -> Params:
      span = (half, total)
      return _fit(logits, rate, total, first, None, *given, span=span, prior=prior, size=size)

    say = _probability(logits)
    if prior is None:  # all queries share the second half, too
      last = finished(None)
      return np.stack([np.asarray(say(last, None, query)) > 0.5 for query in queries])
    found = []
    for query in queries:
      size = (query, shots.wanted * factor, shots.margin, config.prior_weight)
      found.append(np.asarray(say(finished(size), None, query)) > 0.5)
    return np.stack(found)

  def _said(self, params: Params, shots: Shots) -> np.ndarray:
    say = _probability(_whole(self.config.widths, self.num_structures))
    kept = (jax.tree.map(lambda _: None, params), shots.organ - 1)
    return np.stack([np.asarray(say(params, kept, query)) > 0.5 for query in shots.queries])


# --- one program for all adaptations of a kind


@functools.cache
def _adapter(convolves: bool) -> Callable[..., Any]:
  net = nets.SpatialAdapter(convolves)
  return lambda params, rest, features: net.apply(params, features)


@functools.cache
def _whole(widths: tuple[int, ...], num_structures: int) -> Callable[..., Any]:
  """Logits of one organ by the whole network; frozen leaves and the organ's channel come apart."""
  model = nets.from_linen(nets.UNet(num_structures, widths))

  def logits(params: Params, kept: tuple[Params, Any], image: Array) -> Any:
    rest, channel = kept
    return jnp.take(model.apply(tree.merge(params, rest), image)[0], channel, axis=-1)

  return logits


@functools.cache
def _probability(logits: Callable[..., Any]) -> Callable[..., Array]:
  return jax.jit(lambda params, rest, image: jax.nn.sigmoid(logits(params, rest, image)))


def mask_dice(logits: Array, mask: Array) -> Array:
  """Soft Dice of one structure by its sigmoid."""
  labelled = np.array([False, True])
  return losses.labelled_dice(logits[..., None], mask.astype(jnp.int32), labelled)


def _fit(
  logits: Callable[..., Any],
  rate: float,
  length: int,
  params: Params,
  rest: Params,
  images: np.ndarray,
  masks: np.ndarray,
  *,
  span: tuple[int, int],
  prior: Callable[..., Array] | None = None,
  size: tuple[Any, ...] | None = None,
) -> Params:
  """Updates `span[0]` to `span[1]` of `length`, a shot each in turn, under one cosine."""
  init, update = _updates(logits, rate, length, prior)
  state = init(params)
  for number in range(*span):
    shot = number % len(images)
    params, state = update(params, state, rest, images[shot], masks[shot], size, number)
  return params


@functools.cache
def _updates(
  logits: Callable[..., Any], rate: float, length: int, prior: Callable[..., Array] | None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  check.positive("length", length)
  schedule = optax.cosine_decay_schedule(rate, length)
  tx = optax.inject_hyperparams(optax.adamw)(learning_rate=rate)

  def loss(params: Params, rest: Params, image: Array, mask: Array, size: Any) -> Array:
    total = mask_dice(logits(params, rest, image), mask)
    if prior is None:
      return total
    query, wanted, margin, weight = size
    found = jax.nn.sigmoid(logits(params, rest, query)).sum() / wanted
    return total + weight * prior(found, jnp.ones(()), margin=margin)

  @jax.jit
  def update(
    params: Params, state: Any, rest: Params, image: Array, mask: Array, size: Any, step: Any
  ) -> tuple[Params, Any]:
    gradient = jax.grad(loss)(params, rest, image, mask, size)
    state.hyperparams["learning_rate"] = schedule(step)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  return tx.init, update
