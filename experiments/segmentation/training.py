"""Plain supervised segmentation over folds: what a method is compared with, and starts from.

Each fold holds subjects out for testing. Of the others a few more are set aside for validation: the
curves, the checkpoint rule and the temperature look at these, so that nothing was chosen on the
subjects whose scores are reported.
"""

import dataclasses
import functools
import pathlib
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import check, data, inference, loading, losses, methods, nets, rng, train
from medjax.study import jobs
from medjax.types import Batch, Example, Key, TrainState

Arm = Literal["augmented", "plain"]


@dataclasses.dataclass(frozen=True)
class Config:
  """A U-Net trained on labelled images, fold by fold.

  Attributes:
    fold: the fold to train, from 0; -1 trains all.
    num_folds: folds over subjects.
    subject_pattern: regular expression with one group that finds the subject in a case name; ""
      makes every case its own subject.
    splits_final: nnU-Net's splits_final.json, whose folds are taken; "" draws them.
    plans: nnU-Net's nnUNetPlans.json, whose spacing, normalisation, patch and batch size replace
      those below; "" takes those below.
    plans_configuration: the configuration of the plans, for example "3d_fullres".
    near_duplicates: similarity from which cases of two people are taken for one scan, and refused
      on two sides of a fold; -1 takes the measured default (.55 for volumes, .8 for pictures), 0
      does not look.
    validation_fraction: share of a fold's training subjects set aside for curves, the checkpoint
      rule and the temperature.
    spacing: voxel size in mm that images are resampled to, one per axis; () keeps the files' own.
    normalise: intensities: "zscore", "masked_zscore" (non-zero voxels), "percentile", "minmax",
      "none", or "ct" (clipped and scaled by the foreground of the training cases).
    patch: voxels per axis of the images that the network sees; 2 axes of 3D files train on slices.
    slice_axis: axis that 2D work slices along (0 sagittal, 1 coronal, 2 axial).
    batch_size: patches an update.
    foreground_fraction: share of the patches centred on foreground.
    arms: trainings to compare: with nnU-Net-strength augmentation, and with none, no mirroring.
    num_seeds: seeds, each with its own initial weights and draws.
    num_steps: updates.
    widths: channels of the U-Net's levels.
    num_auxiliary: auxiliary outputs for deep supervision.
    learning_rate: AdamW's first rate; decays to 0 as (1 - t / num_steps)^0.9.
    weight_decay: of AdamW, relative to the rate.
    average_decay: of the moving average of the weights, which is what is kept; 0 keeps the weights.
    keep: the checkpoint rule: weights of the last step, or of the best mean validation Dice.
    log_every: steps between two log rows.
    eval_every: steps between two evaluations on validation cases.
    checkpoint_every: steps between two checkpoints.
    overlap: of the windows of prediction, as a fraction of the patch.
    mirror: average predictions over all mirrorings, for arms that trained on mirrored images.
    known: what is known of these data, a sentence shown beside the scores.
    margin: of Dice, that a difference between arms has to exceed to be called one.
  """

  fold: int = -1
  num_folds: int = 5
  subject_pattern: str = ""
  splits_final: str = ""
  plans: str = ""
  plans_configuration: str = "3d_fullres"
  near_duplicates: float = -1.0
  validation_fraction: float = 0.1
  spacing: tuple[float, ...] = ()
  normalise: Literal["zscore", "masked_zscore", "percentile", "minmax", "none", "ct"] = "zscore"
  patch: tuple[int, ...] = (40, 56, 40)
  slice_axis: Literal[0, 1, 2] = 2
  batch_size: int = 2
  foreground_fraction: float = 1 / 3
  arms: tuple[Arm, ...] = ("augmented",)
  num_seeds: int = 1
  num_steps: int = 1000
  widths: tuple[int, ...] = (16, 32, 64)
  num_auxiliary: int = 1
  learning_rate: float = 3e-3
  weight_decay: float = 1e-2
  average_decay: float = 0.99
  keep: Literal["last", "best"] = "last"
  log_every: int = 20
  eval_every: int = 200
  checkpoint_every: int = 200
  overlap: float = 0.5
  mirror: bool = True
  known: str = ""
  margin: float = 0.01

  def __post_init__(self):
    check.in_interval("number of axes of patch", len(self.patch), 2, 3)
    counts = ("num_seeds", "num_steps", "batch_size", "log_every", "eval_every", "checkpoint_every")
    for name in (*counts, "learning_rate"):
      check.positive(name, getattr(self, name))
    check.in_interval("fold", self.fold, -1, self.num_folds - 1)
    check.in_interval("validation_fraction", self.validation_fraction, 0.0, 0.5)
    check.in_interval("average_decay", self.average_decay, 0.0, 1.0)
    check.require(self.arms, "at least one arm", "none", "pass --arms augmented")
    check.require(
      self.keep == "last" or self.validation_fraction > 0,
      "validation_fraction > 0 for --keep best",
      "0",
      "set subjects aside, or keep the last weights",
    )


class Fold(NamedTuple):
  """Case positions by part; no subject is in two of them."""

  number: int
  train: tuple[int, ...]
  validation: tuple[int, ...]
  test: tuple[int, ...]


class Setting(NamedTuple):
  """The data of a run.

  Attributes:
    source: labelled cases, preprocessed.
    folds: those to train.
    splits: what splits.json holds.
    preprocess: how files become input; its patch is the input of the network.
    batch_size: patches an update.
    network: the Linen module.
  """

  source: data.NnUNetFolder
  folds: tuple[Fold, ...]
  splits: dict[str, Any]
  preprocess: data.Preprocessing
  batch_size: int
  network: nets.UNet


class Trained(NamedTuple):
  """One training.

  Attributes:
    name: arm, fold and seed; names its checkpoints, rows and weights.
    member: the weights kept, ready to predict.
    fit: rows and times.
    kept_step: the step whose weights were kept.
    flops: of one update, compiled; measured in the first fold, NaN elsewhere.
  """

  name: str
  member: inference.Member
  fit: train.Fit
  kept_step: int
  flops: float


def load(
  config: Config, root: pathlib.Path, seed: int, picture: pathlib.Path | None = None
) -> Setting:
  """Reads the folder, draws or imports folds, and refuses what would leak between their parts.

  Two cases that look like one scan are shown in the file `picture`.
  """
  plan = data.read_plans(config.plans, config.plans_configuration) if config.plans else None
  options: dict[str, Any] = {
    "subject_pattern": config.subject_pattern or None,
    "spacing": (config.spacing or None) if plan is None else plan.spacing,
    "reorient": True if plan is None else plan.reorient,
    "cache": True,
  }
  raw = data.NnUNetFolder(root, normalise="none", **options)
  folds = _folds(config, raw, seed)
  if plan is not None:
    how: Any = [data.from_spec(spec) for spec in plan.normalisation]
  elif config.normalise == "ct":
    check.require(
      len(folds) == 1,
      "one --fold at a time with --normalise ct",
      f"{len(folds)}",
      "its statistics are those of the fold's training cases; medjax.predict averages the runs",
    )
    channels = range(len(raw.channel_names))
    how = [data.foreground_statistics(raw, folds[0].train, channel) for channel in channels]
  else:
    how = config.normalise
  source = data.NnUNetFolder(root, normalise=how, **options)
  recorded = []
  for fold in folds:
    parts = {part: _subjects(source, getattr(fold, part)) for part in Fold._fields[1:]}
    drawn = data.Splits({name: people for name, people in parts.items() if people}, seed)
    data.check_content(source, drawn)
    if config.near_duplicates:
      threshold = None if config.near_duplicates < 0 else config.near_duplicates
      data.check_near_duplicates(source, drawn, threshold=threshold, picture=picture)
    recorded.append({"fold": fold.number, **parts})
  patch = config.patch if plan is None else plan.patch
  network = nets.UNet(
    num_outputs=len(source.class_names),
    widths=config.widths,
    num_auxiliary=min(config.num_auxiliary, max(len(config.widths) - 2, 0)),
  )
  return Setting(
    source,
    folds,
    {"kind": "folds over subjects", "seed": seed, "folds": recorded},
    source.preprocessing(patch=patch, axis=_axis(config, plan, source)),
    config.batch_size if plan is None else plan.batch_size,
    network,
  )


def fit(
  config: Config, setting: Setting, fold: Fold, arm: Arm, seed: int, directory: train.RunDirectory
) -> Trained:
  """Trains one network, resumable, and writes its weights."""
  name = f"{arm}-fold{fold.number}-{seed}"
  key = jax.random.fold_in(jax.random.key(seed), fold.number)
  model, preprocess = nets.from_linen(setting.network), setting.preprocess
  assert preprocess.patch is not None
  patch, num_channels = preprocess.patch, len(preprocess.channel_names)
  params, _ = model.init(rng.stream(key, "parameters"), jnp.zeros((*patch, num_channels)))
  augmentation = data.augmentation.nnunet(patch)
  stream = data.patches(
    data.load_cases(setting.source, fold.train),
    patch,
    setting.batch_size,
    rng.stream(key, "patches"),
    foreground_fraction=config.foreground_fraction,
    axis=preprocess.axis,
    block=augmentation.source_shape if arm == "augmented" else None,
  )
  segmentation_loss = losses.deep_supervision(
    losses.weighted_sum(
      (1.0, functools.partial(losses.soft_dice, include_background=False, smooth=1e-5)),
      (1.0, losses.cross_entropy),
    )
  )

  def loss_fn(params: Any, example: Batch, key: Key) -> jax.Array:
    image, label = example.image, example.label
    if arm == "augmented":
      image, label = augmentation(rng.stream(key, "augmentation"), image, label)
    return segmentation_loss(model.apply(params, image, train=True)[0], label)

  rate = optax.polynomial_schedule(config.learning_rate, 0.0, 0.9, config.num_steps)
  tx = optax.chain(
    optax.clip_by_global_norm(12.0), optax.adamw(rate, weight_decay=config.weight_decay)
  )
  step = methods.averaged(methods.supervised(loss_fn, tx), config.average_decay)
  evaluators = {}
  if fold.validation:
    cases = [setting.source[i] for i in fold.validation]
    predictor = inference.Predictor(model, patch, overlap=config.overlap, axis=preprocess.axis)
    evaluators["validation"] = ValidationDice(predictor, cases, len(setting.source.class_names))
  fitted = train.fit(
    step,
    stream,
    params,
    rng.stream(key, "training"),
    num_steps=config.num_steps,
    evaluators=evaluators,
    workdir=directory.path,
    writers=directory.writers,
    name=name,
    log_every=config.log_every,
    eval_every=config.eval_every,
    checkpoint_every=config.checkpoint_every,
    keep_best="validation/dice" if config.keep == "best" else None,
    allow_change=directory.is_longer,  # the schedule knows the number of steps
  )
  state, kept_step = fitted.state, config.num_steps
  if fitted.best is not None:
    state, kept_step = fitted.best.state, int(fitted.best.step)
  kept = state.extra.params
  path = directory.path / loading.FOLDER / f"{name}{loading.SUFFIX}"
  loading.save_member(path, kept, preprocess, network=setting.network)
  member = inference.Member(model, kept, preprocess, name)
  is_first = fold.number == setting.folds[0].number
  flops = jobs.flops(step, params, stream(0)) if is_first else float("nan")
  return Trained(name, member, fitted, kept_step, flops)


@dataclasses.dataclass(frozen=True)
class ValidationDice:
  """Evaluator: mean foreground Dice of the averaged weights over cases and classes."""

  predictor: inference.Predictor
  cases: list[Example]
  num_classes: int

  def __call__(self, state: TrainState) -> dict[str, float]:
    scores = []
    for case in self.cases:
      assert case.image is not None and case.label is not None
      label = self.predictor(state.extra.params, case.image).argmax(-1)
      scores.append(dice(label, case.label, self.num_classes))
    return {"dice": float(np.nanmean(scores))}


def dice(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
  """[class] Dice of the foreground classes, in NumPy: cases differ in shape, and jit would compile
  each."""
  known = target >= 0
  pairs = np.bincount(
    prediction[known] * num_classes + target[known], minlength=num_classes**2
  ).reshape(num_classes, num_classes)
  both, total = np.diag(pairs), pairs.sum(0) + pairs.sum(1)
  with np.errstate(invalid="ignore"):
    return (2 * both / total)[1:]


def _folds(config: Config, source: data.NnUNetFolder, seed: int) -> tuple[Fold, ...]:
  if config.splits_final:
    drawn = data.read_splits_final(config.splits_final, source.names, source.subjects)
  else:
    drawn = data.folds(source.subjects, config.num_folds, seed=seed)
  check.in_interval("fold", config.fold, -1, len(drawn) - 1)
  numbers = range(len(drawn)) if config.fold < 0 else [config.fold]
  return tuple(_fold(config, source, drawn[n], n, seed) for n in numbers)


def _fold(
  config: Config, source: data.NnUNetFolder, drawn: data.Splits, number: int, seed: int
) -> Fold:
  """The fold's held-out subjects test; of the others a few validate."""
  train_subjects = drawn.parts["train"]
  kept, aside = train_subjects, ()
  if config.validation_fraction > 0:
    shares = {"train": 1 - config.validation_fraction, "validation": config.validation_fraction}
    inner = data.split_subjects(train_subjects, shares, seed=seed + number)
    kept, aside = inner.parts["train"], inner.parts["validation"]

  def cases(people: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(i for i, subject in enumerate(source.subjects) if subject in set(people))

  return Fold(number, cases(kept), cases(aside), cases(drawn.parts["validation"]))


def _subjects(source: data.NnUNetFolder, indices: tuple[int, ...]) -> tuple[str, ...]:
  return tuple(sorted({source.subjects[i] for i in indices}))


def _axis(config: Config, plan: Any, source: data.NnUNetFolder) -> int | None:
  if plan is not None:
    return plan.axis
  is_volume = source.spec.file_ending != ".png"
  return config.slice_axis if is_volume and len(config.patch) == 2 else None
