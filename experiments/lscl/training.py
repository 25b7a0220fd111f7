"""Arms of the style-curriculum study: one U-Net a method, from common pre-trained weights.

Two phases as published: supervised training with Adam, then fine-tuning by the method with gradient
descent and momentum. All arms start the second phase from the same weights of their seed and make
the same number of updates in it; the augmented ones had their augmentation in the first phase too.
An update of the curriculum sees the same images as the one before, as published: it needs
`num_updates` times fewer new images.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lscl.hospitals import DataConfig, Setting, Turn
from experiments.slice_stacks import Stack
from medjax import check, data, inference, losses, methods, nets, rng, synth, train
from medjax.data.seeds import generator
from medjax.methods import adversaries, mixing, style_autoencoder
from medjax.types import Batch, Key, Metrics, Model, Params, Step, Stream, TrainState

Arm = Literal[
  "u-net", "augmented", "mixup", "randconv", "mixstyle", "random-style", "scl", "lscl-paper",
  "lscl-chain", "lscl-random", "augmented-lscl-chain",
]  # fmt: skip
ARMS: tuple[Arm, ...] = get_args(Arm)
AUGMENTED = ("augmented", "augmented-lscl-chain")
CURRICULA = ("scl", "lscl-paper", "lscl-chain", "lscl-random", "augmented-lscl-chain")


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
  """Domain generalisation of a 2D U-Net by style curricula and what they compete with.

  Attributes:
    arms: methods to compare.
    test_time: arms that are scored a second time with four rotations averaged on logits.
    num_seeds: seeds, each with its own initial weights and draws; people stay in their parts.
    widths: channels of the U-Net's levels, group normalised.
    batch_size: slices an update.
    pretrain_updates: of the first phase.
    finetune_updates: of the second phase, of every arm.
    pretrain_rates: Adam's first and last rate, cosine between.
    finetune_rate: of gradient descent, constant, the same for every arm.
    momentum: of gradient descent.
    symmetric: mirror and turn training slices by quarters at random, in every arm: what averaging
      over rotations needs.
    num_updates: of the curriculum a batch.
    eps: step of the fusion weight, in (0, 1].
    pool: window of the local gradient sign, in pixels.
    order: "sign_of_mean" as in the paper's Eq. 2, "mean_of_sign" as in its code.
    upsample: of the gradient's cells: "nearest", or "bilinear" as in the paper's code.
    style: how styles are transferred: "wavelet", statistics of Haar bands, training-free; or an
      "autoencoder" trained on the source slices.
    levels: of the wavelet pyramid.
    style_widths: channels of the autoencoder's levels.
    style_updates: of the autoencoder.
    style_rate: Adam's, for the autoencoder.
    component_fraction: share of its class's volume that a connected component must reach to stay,
      in every arm's predictions; 0 filters nothing. The published code takes 0.3, for its own
      method alone.
    keep: weights of the last update, or of the best mean validation Dice on source sites.
    log_every: updates between two log rows.
    eval_every: updates between two evaluations on validation people.
    margin: of Dice, that a difference between arms has to exceed to be called one.
    known: what is known of these data, a sentence shown beside the scores.
  """

  arms: tuple[Arm, ...] = ARMS
  test_time: tuple[Arm, ...] = ("u-net", "lscl-paper")
  num_seeds: int = 1
  widths: tuple[int, ...] = (8, 16, 32)
  batch_size: int = 8
  pretrain_updates: int = 600
  finetune_updates: int = 400
  pretrain_rates: tuple[float, float] = (1e-3, 1e-5)
  finetune_rate: float = 1e-2
  momentum: float = 0.9
  symmetric: bool = True
  num_updates: int = 4
  eps: float = 0.25
  pool: int = 4
  order: Literal["sign_of_mean", "mean_of_sign"] = "sign_of_mean"
  upsample: Literal["nearest", "bilinear"] = "nearest"
  style: Literal["wavelet", "autoencoder"] = "wavelet"
  levels: int = 3
  style_widths: tuple[int, ...] = (16, 32, 64)
  style_updates: int = 2000
  style_rate: float = 1e-3
  component_fraction: float = 0.0
  keep: Literal["last", "best"] = "last"
  log_every: int = 40
  eval_every: int = 400
  margin: float = 0.01
  known: str = ""

  def __post_init__(self):
    super().__post_init__()
    counts = ("num_seeds", "batch_size", "pretrain_updates", "finetune_updates", "style_updates")
    for name in (*counts, "num_updates", "style_rate", "pool", "levels", "log_every", "eval_every"):
      check.positive(name, getattr(self, name))
    check.positive("finetune_rate", self.finetune_rate)
    check.ordered("pretrain_rates, last first", self.pretrain_rates[::-1])
    check.positive("pretrain_rates[1]", self.pretrain_rates[1])
    check.in_interval("momentum", self.momentum, 0.0, 1.0)
    check.in_interval("component_fraction", self.component_fraction, 0.0, 1.0)
    for name in ("finetune_updates", "log_every", "eval_every"):
      check.require(
        getattr(self, name) % self.num_updates == 0,
        f"{name} as a multiple of num_updates={self.num_updates}",
        f"{getattr(self, name)}",
        "a curriculum makes that many updates a batch",
      )
    least = min(self.shape)
    check.in_interval("pool", self.pool, 1, least, "a cell must fit the image")
    check.in_interval("2^levels", 2**self.levels, 2, least, "a band must hold a pixel")
    check.require(self.arms, "at least one arm", "none", "pass --arms u-net lscl-paper")
    for name in self.test_time:
      check.one_of("test_time", name, self.arms)


class Task(NamedTuple):
  """The network and what it is trained on.

  Attributes:
    network: the Linen module.
    model: the same; it expects standardised images.
    loss: 0.6 cross-entropy + 0.4 soft Dice.
    num_classes: background included.
  """

  network: nets.UNet
  model: Model
  loss: losses.SegmentationLoss
  num_classes: int

  def logits(self, params: Params, image: jax.Array) -> jax.Array:
    """[height, width, class] of an image in [0, 1]."""
    return self.model.apply(params, standardise(image))[0]

  def mixed_logits(
    self, params: Params, image: jax.Array, partner: jax.Array, key: Key
  ) -> jax.Array:
    """The same with part of the partner's style in its first features (MixStyle)."""
    mixed = nets.mixstyle(self.network)
    return mixed(params, standardise(image), standardise(partner), key)

  def loss_fn(self, params: Params, example: Batch, key: Key) -> jax.Array:
    del key
    return self.loss(self.logits(params, example.image), example.label)

  def augmented_loss_fn(self, params: Params, example: Batch, key: Key) -> jax.Array:
    """The same under nnU-Net's augmentation, which is made for standardised images."""
    augmentation = data.augmentation.nnunet(example.label.shape)
    image, label = augmentation(
      rng.stream(key, "augmentation"), standardise(example.image), example.label
    )
    assert label is not None
    return self.loss(self.model.apply(params, image)[0], label)


class Trained(NamedTuple):
  """One training of a phase.

  Attributes:
    name: names its checkpoints, rows and weights.
    params: those kept.
    fit: rows and times.
    updates: made in the phase.
    updates_a_step: of these in one step of the loop.
  """

  name: str
  params: Params
  fit: train.Fit
  updates: int
  updates_a_step: int

  @property
  def seconds_an_update(self) -> float:
    return self.fit.timing.seconds_per_step / self.updates_a_step

  @property
  def hours(self) -> float:
    """Of training, compilation and evaluation left out."""
    return self.updates * self.seconds_an_update / 3600


def task_of(config: Config, setting: Setting) -> Task:
  return _task(config.widths, len(setting.class_names))


@functools.lru_cache(maxsize=4)
def _task(widths: tuple[int, ...], num_classes: int) -> Task:
  """One object for all trainings, so that prediction compiles once."""
  network = nets.UNet(num_outputs=num_classes, widths=widths, norm="group")
  loss = losses.weighted_sum((0.6, losses.cross_entropy), (0.4, losses.soft_dice))
  return Task(network, nets.from_linen(network), loss, num_classes)


def standardise(image: jax.Array) -> jax.Array:
  """Mean 0 and deviation 1 a channel, [*space, channel]; a constant channel becomes 0.

  DEVIATION: the published code divides by the bare deviation, NaN for constant slices.
  """
  axes = tuple(range(image.ndim - 1))
  centred = image - image.mean(axes, keepdims=True)
  variance = (centred**2).mean(axes, keepdims=True)
  return centred * jax.lax.rsqrt(variance + 1e-8)


def oriented(stream: Stream, key: Key, shape: tuple[int, int]) -> Stream:
  """Mirrors and turns the slices of each batch at random; half turns only where sides differ."""
  quarter = 1 if shape[0] == shape[1] else 2

  def draw(step: int) -> Batch:
    batch = stream(step)
    random = generator(key, "orientation", step)
    moves = [
      inference.Symmetry((0,) * int(flip), ((0, 1, quarter * int(turn)),))
      for flip, turn in zip(
        random.integers(2, size=len(batch.weight)),
        random.integers(4 // quarter, size=len(batch.weight)),
        strict=True,
      )
    ]
    image = [move.forward(x) for move, x in zip(moves, batch.image, strict=True)]
    label = [move.forward(x) for move, x in zip(moves, batch.label, strict=True)]
    return batch.replace(image=np.stack(image), label=np.stack(label))

  return draw


def pretrain(
  config: Config,
  setting: Setting,
  turn: Turn,
  seed: int,
  directory: train.RunDirectory,
  *,
  augmented: bool,
) -> Trained:
  """The first phase, resumable."""
  task = task_of(config, setting)
  name = f"pretrained-{'augmented' if augmented else 'plain'}-{turn.name}-{seed}"
  first, last = config.pretrain_rates
  tx = optax.adam(optax.cosine_decay_schedule(first, config.pretrain_updates, alpha=last / first))
  params, _ = task.model.init(
    rng.stream(jax.random.key(seed), "parameters"), jnp.asarray(turn.train.image[0])
  )
  step = methods.supervised(task.augmented_loss_fn if augmented else task.loss_fn, tx)
  return _fit(config, task, turn, seed, name, step, params, config.pretrain_updates, 1, directory)


def finetune(
  config: Config,
  setting: Setting,
  turn: Turn,
  arm: Arm,
  seed: int,
  start: Trained,
  bank: synth.StyleBank,
  directory: train.RunDirectory,
) -> Trained:
  """The second phase by the method of an arm, resumable, from the weights of the first."""
  task = task_of(config, setting)
  step = step_of(config, task, arm, bank)
  name = f"{arm}-{turn.name}-{seed}"
  total, updates = config.finetune_updates, updates_a_step(config, arm)
  return _fit(config, task, turn, seed, name, step, start.params, total, updates, directory)


def updates_a_step(config: Config, arm: Arm) -> int:
  return config.num_updates if arm in CURRICULA else 1


def flops_of(config: Config, setting: Setting, arm: Arm, bank: synth.StyleBank) -> float:
  """Of one update of the second phase as XLA counts them before it optimises."""
  turn, task = setting.turns[0], task_of(config, setting)
  step = step_of(config, task, arm, bank)
  batch = data.batches(turn.train, config.batch_size, 0)(0)
  key = jax.random.key(0)
  state = jax.eval_shape(lambda key: step.init(task.model.init(key, batch.image[0])[0], key), key)
  cost = jax.jit(step.update).lower(state, batch, key).cost_analysis()
  return float((cost or {}).get("flops", float("nan"))) / updates_a_step(config, arm)


def step_of(config: Config, task: Task, arm: Arm, bank: synth.StyleBank) -> Step:
  """The method of an arm."""
  tx = optax.sgd(config.finetune_rate, momentum=config.momentum)
  predict = lambda params, image, key: task.logits(params, image)  # noqa: E731
  match arm:
    case "u-net":
      return methods.supervised(task.loss_fn, tx)
    case "augmented":
      return methods.supervised(task.augmented_loss_fn, tx)
    case "random-style":
      return methods.supervised(mixing.transformed(task.loss_fn, bank), tx)
    case "randconv":
      return methods.supervised(mixing.transformed(task.loss_fn, mixing.randconv()), tx)
    case "mixup":
      return mixing.paired(methods.supervised(mixing.mixup(predict, task.loss), tx))
    case "mixstyle":
      return mixing.paired(methods.supervised(mixing.mixstyle(task.mixed_logits, task.loss), tx))
  step = methods.adversarial(
    task.loss_fn, tx, adversary_of(config, arm, bank), num_updates=config.num_updates
  )
  return _on_augmented(step) if arm in AUGMENTED else step


def _on_augmented(step: Step) -> Step:
  """The method on augmented examples, whose images keep the mean and deviation that they had.

  In the loss itself augmentation would not do: a gradient through its gamma is not finite.
  """

  def augment(key: Key, example: Batch) -> Batch:
    axes = tuple(range(example.image.ndim - 1))
    mean = example.image.mean(axes, keepdims=True)
    deviation = example.image.std(axes, keepdims=True)
    augmentation = data.augmentation.nnunet(example.label.shape)
    image, label = augmentation(key, standardise(example.image), example.label)
    return example.replace(image=image * deviation + mean, label=label)

  def update(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
    keys = rng.example_keys(rng.stream(key, "augmentation"), batch)
    return step.update(state, jax.vmap(augment)(keys, batch), key)

  return dataclasses.replace(step, update=update)


def bank_of(
  config: Config, setting: Setting, turn: Turn, seed: int, directory: train.RunDirectory
) -> synth.StyleBank:
  """Styles of the turn's sources; an autoencoder is trained on their slices first."""
  how = synth.wavelet_style(config.levels)
  if config.style == "autoencoder":
    network = nets.WaveletAutoencoder(len(setting.channel_names), config.style_widths)
    key = rng.stream(jax.random.key(seed), "style")
    fitted = train.fit(
      mixing.paired(
        methods.supervised(style_autoencoder.style_loss(network), optax.adam(config.style_rate))
      ),
      data.batches(turn.train, config.batch_size, key, name="style"),
      nets.from_linen(network).init(key, jnp.asarray(turn.train.image[0]))[0],
      key,
      num_steps=config.style_updates,
      workdir=directory.path,
      writers=directory.writers,
      name=f"style-{turn.name}",
      log_every=config.log_every,
      checkpoint_every=config.eval_every,
    )
    how = style_autoencoder.style_transfer(network, fitted.state.params)
  return synth.style_bank(turn.styles, how=how)


def adversary_of(config: Config, arm: Arm, bank: synth.StyleBank) -> adversaries.Adversary:
  """What makes the samples of a curriculum."""
  if arm == "scl":
    return adversaries.scl_fusion(bank, eps=config.eps)
  directions: dict[str, adversaries.fusion.Direction] = {
    "lscl-paper": "paper",
    "lscl-chain": "chain",
    "augmented-lscl-chain": "chain",
    "lscl-random": "random",
  }
  return adversaries.lgs_fusion(
    bank,
    eps=config.eps,
    pool=config.pool,
    order=config.order,
    direction=directions[arm],
    upsample=config.upsample,
  )


def _fit(
  config: Config,
  task: Task,
  turn: Turn,
  seed: int,
  name: str,
  step: Step,
  params: Params,
  num_updates: int,
  updates_a_step: int,
  directory: train.RunDirectory,
) -> Trained:
  # One key for all arms of a phase: they see the same slices, and curricula the same styles.
  phase = "first phase" if name.startswith("pretrained") else "second phase"
  key = rng.stream(jax.random.key(seed), phase)
  stream = data.batches(turn.train, config.batch_size, key, name="slices")
  if config.symmetric:
    stream = oriented(stream, key, config.shape)
  evaluators = {}
  if turn.validation:
    evaluators["validation"] = ValidationDice(Segmenter(task, config.shape), turn.validation)
  num_steps = num_updates // updates_a_step
  fitted = train.fit(
    step,
    stream,
    params,
    key,
    num_steps=num_steps,
    evaluators=evaluators,
    workdir=directory.path,
    writers=directory.writers,
    name=name,
    log_every=max(config.log_every // updates_a_step, 1),
    eval_every=max(config.eval_every // updates_a_step, 1),
    checkpoint_every=max(config.eval_every // updates_a_step, 1),
    keep_best="validation/dice" if config.keep == "best" and evaluators else None,
  )
  state = fitted.state if fitted.best is None else fitted.best.state
  return Trained(name, state.params, fitted, num_updates, updates_a_step)


class Segmenter:
  """`segmenter(params, images) -> class ids`, slice by slice; logits averaged over symmetries."""

  _CHUNK = 16  # slices a call

  def __init__(
    self,
    task: Task,
    shape: tuple[int, int],
    symmetries: tuple[inference.Symmetry, ...] = (inference.IDENTITY,),
  ):
    self.task, self._symmetries = task, symmetries
    self._logits = _logits(task.model.apply)

  def __call__(self, params: Params, images: np.ndarray) -> np.ndarray:
    """[slice, height, width] of images [slice, height, width, channel]."""
    total = 0.0
    for symmetry in self._symmetries:
      moved = np.stack([symmetry.forward(image) for image in images])
      spare = -len(moved) % self._CHUNK
      filled = np.pad(moved, [(0, spare), (0, 0), (0, 0), (0, 0)])
      parts = [
        np.asarray(self._logits(params, filled[i : i + self._CHUNK]))
        for i in range(0, len(filled), self._CHUNK)
      ]
      values = np.concatenate(parts)[: len(moved)]
      total = total + np.stack([symmetry.backward(value) for value in values])
    return np.asarray(total).argmax(-1).astype(np.int32)


@functools.lru_cache(maxsize=4)
def _logits(apply: Callable[..., Any]) -> Callable[[Params, np.ndarray], jax.Array]:
  """Compiled once for all trainings of a network."""
  one = lambda params, image: apply(params, standardise(image))[0]  # noqa: E731
  return jax.jit(jax.vmap(one, (None, 0)))


@dataclasses.dataclass(frozen=True)
class ValidationDice:
  """Evaluator: mean foreground Dice over cases and classes, on the network's grid."""

  segmenter: Segmenter
  stacks: tuple[Stack, ...]

  def __call__(self, state: TrainState) -> dict[str, float]:
    scores = []
    for stack in self.stacks:
      predicted = self.segmenter(state.params, stack.image)
      for k in range(1, self.segmenter.task.num_classes):
        known = stack.label >= 0
        first, second = (predicted == k) & known, stack.label == k
        total = first.sum() + second.sum()
        scores.append(2 * (first & second).sum() / total if total else np.nan)
    return {"dice": float(np.nanmean(scores))}
