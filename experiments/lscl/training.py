"""Arms of the style-curriculum study: one U-Net a method, from common pre-trained weights.

Two phases as published: supervised training with Adam, then fine-tuning by the method with gradient
descent and momentum. All arms start the second phase from the same weights of their seed and make
the same number of updates in it; the augmented ones had their augmentation in the first phase too.
An update of the curriculum sees the same images as the one before, as published: it needs
`num_updates` times fewer new images.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

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
from medjax.types import Batch, Key, LossFn, Metrics, Params, Step, Stream, TrainState

PLAIN, AUGMENTED = "plain", "augmented"
"""The two first phases."""


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


class Task:
  """What is known of a run, and the network, of standardised images, that all its trainings share.

  Attributes:
    config, setting: of the run.
    network, model: the Linen module, and its `init` and `apply`.
    loss: 0.6 cross-entropy + 0.4 soft Dice.
    tx: gradient descent of the second phase.
  """

  def __init__(self, config: Config, setting: Setting):
    self.config, self.setting = config, setting
    self.network = nets.UNet(
      num_outputs=len(setting.class_names), widths=config.widths, norm="group"
    )
    self.model = nets.from_linen(self.network)
    self.loss = losses.weighted_sum((0.6, losses.cross_entropy), (0.4, losses.soft_dice))
    self.tx = optax.sgd(config.finetune_rate, momentum=config.momentum)
    turns = inference.rotations(config.shape)
    if config.shape[0] != config.shape[1]:
      turns = (inference.IDENTITY, inference.Symmetry(turns=((0, 1, 2),)))
    self._plain = study.ChunkedPredictor(self.logits)
    self._rotated = study.ChunkedPredictor(self.logits, symmetries=turns)

  def labels(self, params: Params, images: np.ndarray, *, is_rotated: bool = False) -> np.ndarray:
    """Class ids [slice, height, width]; `is_rotated` averages logits over rotations."""
    predictor = self._rotated if is_rotated else self._plain
    return predictor(params, images).argmax(-1).astype(np.int32)

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


Rule = Callable[[Config, synth.StyleBank], adversaries.Adversary]
"""What makes the samples of a curriculum."""
Make = Callable[[Task, synth.StyleBank], Step]


def _lgs(direction: adversaries.fusion.FusionDirection) -> Rule:
  return lambda config, bank: adversaries.lgs_fusion(
    bank,
    eps=config.eps,
    pool=config.pool,
    order=config.order,
    direction=direction,
    upsample=config.upsample,
  )


RULES: dict[str, Rule] = {
  "scl": lambda config, bank: adversaries.scl_fusion(bank, eps=config.eps),
  "lscl-paper": _lgs("paper"),
  "lscl-chain": _lgs("chain"),
  "lscl-random": _lgs("random"),
}


def _supervised(loss_of: Callable[[Task, synth.StyleBank], LossFn]) -> Make:
  return lambda task, bank: methods.supervised(loss_of(task, bank), task.tx)


def _paired(loss_of: Callable[[Task], Any]) -> Make:
  return lambda task, bank: mixing.paired(methods.supervised(loss_of(task), task.tx))


def _mixup(task: Task) -> Any:
  return mixing.mixup(lambda params, image, key: task.logits(params, image), task.loss)


def _curriculum(rule: str) -> Make:
  def make(task: Task, bank: synth.StyleBank) -> Step:
    adversary, number = RULES[rule](task.config, bank), task.config.num_updates
    return methods.adversarial(task.loss_fn, task.tx, adversary, num_updates=number)

  return make


ARMS = study.arms(
  study.Arm("u-net", "nothing", _supervised(lambda task, _: task.loss_fn)),
  study.Arm(
    "augmented",
    "nnU-Net-strength augmentation in both phases",
    _supervised(lambda task, _: task.augmented_loss_fn),
  ),
  study.Arm("mixup", "two images and their labels, blended", _paired(_mixup)),
  study.Arm(
    "randconv",
    "a random convolution, blended with the image",
    _supervised(lambda task, _: mixing.transformed(task.loss_fn, mixing.randconv())),
  ),
  study.Arm(
    "mixstyle",
    "feature statistics of two images, blended",
    _paired(lambda task: mixing.mixstyle(task.mixed_logits, task.loss)),
  ),
  study.Arm(
    "random-style",
    "an image in another image's style (the row WaveCT-AIN)",
    _supervised(lambda task, bank: mixing.transformed(task.loss_fn, bank)),
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
    lambda task, bank: _on_augmented(_curriculum("lscl-chain")(task, bank)),
  ),
)


def start_of(arm: str) -> str:
  """The first phase that an arm starts from."""
  return AUGMENTED if arm.startswith(AUGMENTED) else PLAIN


def updates_a_step(config: Config, arm: str) -> int:
  return config.num_updates if arm.removeprefix("augmented-") in RULES else 1


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
  config: Config, turn: Turn, seed: int, directory: train.RunDirectory
) -> synth.StyleBank:
  """Styles of the turn's sources; an autoencoder is trained on their slices first."""
  how = synth.wavelet_style(config.levels)
  if config.style == "autoencoder":
    image = jnp.asarray(turn.train.image[0])
    network = nets.WaveletAutoencoder(image.shape[-1], config.style_widths)
    key, tx = rng.stream(jax.random.key(seed), "style"), optax.adam(config.style_rate)
    job = study.Job(
      f"style-{turn.name}",
      mixing.paired(methods.supervised(style_autoencoder.style_loss(network), tx)),
      data.batches(turn.train, config.batch_size, key, name="style"),
      nets.from_linen(network).init(key, image)[0],
      key,
      config.style_updates,
    )
    one = study.train_job(
      job, directory, log_every=config.log_every, checkpoint_every=config.eval_every
    )
    how = style_autoencoder.style_transfer(network, one.params)
  return synth.style_bank(turn.styles, how=how)


def flops_of(task: Task, arm: str, bank: synth.StyleBank) -> float:
  """Operations of one update of the second phase."""
  config = task.config
  batch = data.batches(task.setting.turns[0].train, config.batch_size, 0)(0)
  params, _ = jax.eval_shape(task.model.init, jax.random.key(0), batch.image[0])
  each = updates_a_step(config, arm)
  return study.flops(ARMS[arm].make(task, bank), params, batch, updates_a_step=each)


class Trainer:
  """Both phases of a turn and a seed, resumable.

  One key for all arms of a phase: they see the same slices, and curricula the same styles.
  """

  def __init__(self, task: Task, turn: Turn, seed: int, directory: train.RunDirectory):
    self._task, self._turn, self._seed, self._directory = task, turn, seed, directory
    self._evaluators = stack_scores.validation(
      lambda state, image: task.labels(state.params, image),
      turn.validation,
      len(task.setting.class_names),
    )

  def first_phase(self, kind: str) -> study.Trained:
    """Supervised, with or without augmentation: `PLAIN` or `AUGMENTED`."""
    task, total = self._task, self._task.config.pretrain_updates
    first, last = task.config.pretrain_rates
    tx = optax.adam(optax.cosine_decay_schedule(first, total, alpha=last / first))
    key = rng.stream(jax.random.key(self._seed), "parameters")
    params, _ = task.model.init(key, jnp.asarray(self._turn.train.image[0]))
    loss_fn = task.augmented_loss_fn if kind == AUGMENTED else task.loss_fn
    step = methods.supervised(loss_fn, tx)
    return self._fit(f"pretrained-{kind}", "first phase", step, params, total)

  def second_phase(self, arm: str, start: study.Trained, bank: synth.StyleBank) -> study.Trained:
    """By the method of an arm, from the weights of the first phase."""
    config, step = self._task.config, ARMS[arm].make(self._task, bank)
    each, params = updates_a_step(config, arm), start.params
    return self._fit(arm, "second phase", step, params, config.finetune_updates, each, params)

  def _fit(
    self,
    name: str,
    phase: str,
    step: Step,
    params: Params,
    num_updates: int,
    each: int = 1,
    inherited: Params = (),
  ) -> study.Trained:
    config, train_on = self._task.config, self._turn.train
    key = rng.stream(jax.random.key(self._seed), phase)
    stream = data.batches(train_on, config.batch_size, key, name="slices")
    if config.symmetric:
      stream = oriented(stream, key, config.shape)
    job = study.Job(
      f"{name}-{self._turn.name}-{self._seed}",
      step,
      stream,
      params,
      key,
      num_updates // each,
      self._evaluators,
      each,
      keep_best="validation/dice" if config.keep == "best" and self._evaluators else "",
      inherited=inherited,
    )
    every = config.eval_every
    return study.train_job(
      job, self._directory, log_every=config.log_every, eval_every=every, checkpoint_every=every
    )
