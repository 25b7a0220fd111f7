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
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lscl import style_autoencoder
from experiments.lscl.hospitals import DataConfig, Setting, Turn
from medjax import check, data, inference, losses, methods, nets, rng, study, synth, train
from medjax.data.seeds import generator
from medjax.methods import adversaries, mixing
from medjax.study import stack_scores
from medjax.types import Batch, Key, LossFn, Metrics, Model, Params, Step, Stream, TrainState

AUGMENTED = ("augmented", "augmented-lscl-chain")
CURRICULA = ("scl", "lscl-paper", "lscl-chain", "lscl-random", "augmented-lscl-chain")


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
  """Domain generalisation of a 2D U-Net by style curricula and what they compete with."""

  arms: tuple[str, ...] = (
    "u-net", "augmented", "mixup", "randconv", "mixstyle", "random-style", "scl", "lscl-paper",
    "lscl-chain", "lscl-random", "augmented-lscl-chain",
  )  # fmt: skip  # methods to compare
  # arms that are scored a second time with four rotations averaged on logits
  test_time: tuple[str, ...] = ("u-net", "lscl-paper")
  num_seeds: int = 1  # each with its own initial weights and draws; people stay in their parts
  widths: tuple[int, ...] = (8, 16, 32)  # channels of the U-Net's levels, group normalised
  batch_size: int = 8  # slices an update
  pretrain_updates: int = 600  # of the first phase
  finetune_updates: int = 400  # of the second phase, of every arm
  pretrain_rates: tuple[float, float] = (1e-3, 1e-5)  # Adam's first and last rate, cosine between
  finetune_rate: float = 1e-2  # of gradient descent, constant, the same for every arm
  momentum: float = 0.9  # of gradient descent
  # mirror and turn training slices by quarters at random, in every arm: what averaging over
  # rotations needs
  symmetric: bool = True
  num_updates: int = 4  # of the curriculum a batch
  eps: float = 0.25  # step of the fusion weight, in (0, 1]
  pool: int = 4  # window of the local gradient sign, in pixels
  # "sign_of_mean" as in the paper's Eq. 2, "mean_of_sign" as in its code
  order: Literal["sign_of_mean", "mean_of_sign"] = "sign_of_mean"
  # of the gradient's cells: "nearest", or "bilinear" as in the paper's code
  upsample: Literal["nearest", "bilinear"] = "nearest"
  # how styles are transferred: "wavelet", statistics of Haar bands, training-free; or an
  # "autoencoder" trained on the source slices
  style: Literal["wavelet", "autoencoder"] = "wavelet"
  levels: int = 3  # of the wavelet pyramid
  style_widths: tuple[int, ...] = (16, 32, 64)  # channels of the autoencoder's levels
  style_updates: int = 2000  # of the autoencoder
  style_rate: float = 1e-3  # Adam's, for the autoencoder
  # share of its class's volume that a connected component must reach to stay, in every arm's
  # predictions; 0 filters nothing. The published code takes 0.3, for its own method alone
  component_fraction: float = 0.0
  # weights of the last update, or of the best mean validation Dice on source sites
  keep: Literal["last", "best"] = "last"
  log_every: int = 40  # updates between two log rows
  eval_every: int = 400  # updates between two evaluations on validation people
  margin: float = 0.01  # of Dice, that a difference between arms has to exceed to be called one
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    for name in ("pool", "levels"):
      check.positive(name, getattr(self, name))
    check.ordered("pretrain_rates, last first", self.pretrain_rates[::-1])
    check.positive("pretrain_rates[1]", self.pretrain_rates[1])
    check.in_interval("momentum", self.momentum, 0.0, 1.0)
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
    study.chosen("arms", self.arms, ARMS)
    for name in self.test_time:
      check.one_of("test_time", name, self.arms)


class Task(NamedTuple):
  """The network and what it is trained on.

  Attributes:
    network: the Linen module.
    model: its `init` and `apply`; it expects standardised images.
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
    """Logits of an image whose first features take on part of the partner's style (MixStyle)."""
    mixed = nets.mixstyle(self.network)
    return mixed(params, standardise(image), standardise(partner), key)

  def loss_fn(self, params: Params, example: Batch, key: Key) -> jax.Array:
    del key
    return self.loss(self.logits(params, example.image), example.label)

  def augmented_loss_fn(self, params: Params, example: Batch, key: Key) -> jax.Array:
    """The loss after nnU-Net's augmentation, which expects standardised images."""
    augmentation = data.augmentation.nnunet(example.label.shape)
    image, label = augmentation(
      rng.stream(key, "augmentation"), standardise(example.image), example.label
    )
    assert label is not None
    return self.loss(self.model.apply(params, image)[0], label)


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
) -> study.Trained:
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
  arm: str,
  seed: int,
  start: study.Trained,
  bank: synth.StyleBank,
  directory: train.RunDirectory,
) -> study.Trained:
  """The second phase by the method of an arm, resumable, from the weights of the first."""
  task = task_of(config, setting)
  step = step_of(config, task, arm, bank)
  name = f"{arm}-{turn.name}-{seed}"
  total, updates = config.finetune_updates, updates_a_step(config, arm)
  start_from = start.params
  return _fit(
    config, task, turn, seed, name, step, start_from, total, updates, directory, start_from
  )


def updates_a_step(config: Config, arm: str) -> int:
  return config.num_updates if arm in CURRICULA else 1


def flops_of(config: Config, setting: Setting, arm: str, bank: synth.StyleBank) -> float:
  """Operations of one update of the second phase."""
  turn, task = setting.turns[0], task_of(config, setting)
  batch = data.batches(turn.train, config.batch_size, 0)(0)
  params, _ = jax.eval_shape(task.model.init, jax.random.key(0), batch.image[0])
  step = step_of(config, task, arm, bank)
  return study.flops(step, params, batch, updates_a_step=updates_a_step(config, arm))


def step_of(config: Config, task: Task, arm: str, bank: synth.StyleBank) -> Step:
  """The method of an arm."""
  return ARMS[arm].make(config, task, bank)


def _sgd(config: Config) -> optax.GradientTransformation:
  return optax.sgd(config.finetune_rate, momentum=config.momentum)


def _transformed(loss_fn: LossFn, change: mixing.KeyedTransform, config: Config) -> Step:
  return methods.supervised(mixing.transformed(loss_fn, change), _sgd(config))


def _mixup(config: Config, task: Task, bank: synth.StyleBank) -> Step:
  predict = lambda params, image, key: task.logits(params, image)  # noqa: E731
  return mixing.paired(methods.supervised(mixing.mixup(predict, task.loss), _sgd(config)))


def _mixstyle(config: Config, task: Task, bank: synth.StyleBank) -> Step:
  loss_fn = mixing.mixstyle(task.mixed_logits, task.loss)
  return mixing.paired(methods.supervised(loss_fn, _sgd(config)))


def _curriculum(arm: str) -> Callable[..., Step]:
  def make(config: Config, task: Task, bank: synth.StyleBank) -> Step:
    adversary = adversary_of(config, arm, bank)
    step = methods.adversarial(
      task.loss_fn, _sgd(config), adversary, num_updates=config.num_updates
    )
    return _on_augmented(step) if arm in AUGMENTED else step

  return make


ARMS = study.arms(
  study.Arm("u-net", "nothing", lambda c, task, _: methods.supervised(task.loss_fn, _sgd(c))),
  study.Arm(
    "augmented",
    "nnU-Net-strength augmentation in both phases",
    lambda c, task, _: methods.supervised(task.augmented_loss_fn, _sgd(c)),
  ),
  study.Arm("mixup", "two images and their labels, blended", _mixup),
  study.Arm(
    "randconv",
    "a random convolution, blended with the image",
    lambda c, task, _: _transformed(task.loss_fn, mixing.randconv(), c),
  ),
  study.Arm("mixstyle", "feature statistics of two images, blended", _mixstyle),
  study.Arm(
    "random-style",
    "an image in another image's style (the row WaveCT-AIN)",
    lambda c, task, bank: _transformed(task.loss_fn, bank, c),
  ),
  study.Arm("scl", "style curriculum by the sign of every pixel", _curriculum("scl")),
  study.Arm(
    "lscl-paper",
    "by the sign of local means of the gradient, as published",
    _curriculum("lscl-paper"),
  ),
  study.Arm(
    "lscl-chain",
    "by the sign of local means of the gradient times (stylised - image)",
    _curriculum("lscl-chain"),
  ),
  study.Arm(
    "lscl-random", "by random cells, half of them: the control", _curriculum("lscl-random")
  ),
  study.Arm(
    "augmented-lscl-chain",
    "lscl-chain on top of augmentation",
    _curriculum("augmented-lscl-chain"),
  ),
)


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
    tx = optax.adam(config.style_rate)
    job = study.Job(
      f"style-{turn.name}",
      mixing.paired(methods.supervised(style_autoencoder.style_loss(network), tx)),
      data.batches(turn.train, config.batch_size, key, name="style"),
      nets.from_linen(network).init(key, jnp.asarray(turn.train.image[0]))[0],
      key,
      config.style_updates,
    )
    one = study.train_job(
      job, directory, log_every=config.log_every, checkpoint_every=config.eval_every
    )
    how = style_autoencoder.style_transfer(network, one.params)
  return synth.style_bank(turn.styles, how=how)


def adversary_of(config: Config, arm: str, bank: synth.StyleBank) -> adversaries.Adversary:
  """What makes the samples of a curriculum."""
  if arm == "scl":
    return adversaries.scl_fusion(bank, eps=config.eps)
  directions: dict[str, adversaries.fusion.FusionDirection] = {
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
  inherited: Params = (),
) -> study.Trained:
  # One key for all arms of a phase: they see the same slices, and curricula the same styles.
  phase = "first phase" if name.startswith("pretrained") else "second phase"
  key = rng.stream(jax.random.key(seed), phase)
  stream = data.batches(turn.train, config.batch_size, key, name="slices")
  if config.symmetric:
    stream = oriented(stream, key, config.shape)
  predict = segmenter(task)
  label_of = lambda state, image: predict(state.params, image)  # noqa: E731
  evaluators = stack_scores.validation(label_of, turn.validation, task.num_classes)
  job = study.Job(
    name,
    step,
    stream,
    params,
    key,
    num_updates // updates_a_step,
    evaluators,
    updates_a_step,
    keep_best="validation/dice" if config.keep == "best" and evaluators else "",
    inherited=inherited,
  )
  return study.train_job(
    job,
    directory,
    log_every=config.log_every,
    eval_every=config.eval_every,
    checkpoint_every=config.eval_every,
  )


def segmenter(
  task: Task, symmetries: tuple[inference.Symmetry, ...] = (inference.IDENTITY,)
) -> Callable[[Params, np.ndarray], np.ndarray]:
  """`(params, images) -> class ids` [slice, height, width], logits averaged over symmetries."""
  predictor = study.ChunkedPredictor(_logits(task.model.apply), symmetries=symmetries)
  return lambda params, images: predictor(params, images).argmax(-1).astype(np.int32)


@functools.lru_cache(maxsize=4)
def _logits(apply: Callable[..., Any]) -> Callable[[Params, jax.Array], jax.Array]:
  """One function for all trainings of a network, so that prediction compiles once."""
  return lambda params, image: apply(params, standardise(image))[0]
