"""Plain supervised segmentation over folds: what a method is compared with, and starts from.

Each fold holds subjects out for testing. Of the others a few more are set aside for validation: the
curves, the checkpoint rule and the temperature look at these, so that nothing was chosen on the
subjects whose scores are reported.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import check, data, inference, loading, losses, methods, nets, rng, study, train
from medjax.study import stack_scores
from medjax.types import Batch, Key, Model, Step

ARMS = study.arms(
  study.Arm(
    "augmented",
    "nnU-Net-strength augmentation, mirrored at test time",
    lambda patch: data.augmentation.nnunet(patch),
  ),
  study.Arm("plain", "no augmentation and no mirroring", lambda patch: None),
)


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """A U-Net trained on labelled images, fold by fold."""

  fold: int = -1  # the fold to train, from 0; -1 trains all
  num_folds: int = 5  # folds over subjects
  # regular expression with one group that finds the subject in a case name; "" makes every case its
  # own subject
  subject_pattern: str = ""
  splits_final: str = ""  # nnU-Net's splits_final.json, whose folds are taken; "" draws them
  # nnU-Net's nnUNetPlans.json, whose spacing, normalisation, patch and batch size replace those
  # below, except for what the command line sets itself; "" takes those below
  plans: str = ""
  plans_configuration: str = "3d_fullres"  # the configuration of the plans
  # similarity from which cases of two people are taken for one scan, and refused on two sides of a
  # fold; -1 takes the measured default (.55 for volumes, .8 for pictures), 0 does not look
  near_duplicates: float = -1.0
  # share of a fold's training subjects set aside for curves, the checkpoint rule and the
  # temperature
  validation_fraction: float = 0.1
  # voxel size in mm that images are resampled to, one per axis; () keeps the files' own
  spacing: tuple[float, ...] = ()
  # intensities: "zscore", "masked_zscore" (non-zero voxels), "percentile", "minmax", "none", or
  # "ct" (clipped and scaled by the foreground of the training cases)
  normalise: Literal["zscore", "masked_zscore", "percentile", "minmax", "none", "ct"] = "zscore"
  # voxels per axis of the images that the network sees; 2 axes of 3D files train on slices
  patch: tuple[int, ...] = (40, 56, 40)
  # axis that 2D work slices along (0 sagittal, 1 coronal, 2 axial)
  slice_axis: Literal[0, 1, 2] = 2
  batch_size: int = 2  # patches an update
  foreground_fraction: float = 1 / 3  # share of the patches centred on foreground
  # trainings to compare: with nnU-Net-strength augmentation, and with none, no mirroring
  arms: tuple[str, ...] = ("augmented",)
  num_seeds: int = 1  # seeds, each with its own initial weights and draws
  num_steps: int = 1000  # updates
  widths: tuple[int, ...] = (16, 32, 64)  # channels of the U-Net's levels
  num_auxiliary: int = 1  # auxiliary outputs for deep supervision; 0 has none
  learning_rate: float = 3e-3  # AdamW's first; decays to 0 as (1 - t / num_steps)^0.9
  weight_decay: float = 1e-2  # of AdamW, relative to the rate
  # of the moving average of the weights, which is what is kept; 0 keeps the weights
  average_decay: float = 0.99
  # the checkpoint rule: weights of the last step, or of the best mean validation Dice
  keep: Literal["last", "best"] = "last"
  log_every: int = 20  # steps between two log rows
  eval_every: int = 200  # steps between two evaluations on validation cases
  checkpoint_every: int = 200  # steps between two checkpoints
  overlap: float = 0.5  # of the windows of prediction, as a fraction of the patch
  # average predictions over all mirrorings, for arms that trained on mirrored images
  mirror: bool = True
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    study.check_fields(self, may_be_zero=("num_auxiliary",))
    check.in_interval("number of axes of patch", len(self.patch), 2, 3)
    check.in_interval("fold", self.fold, -1, self.num_folds - 1)
    check.in_interval("validation_fraction", self.validation_fraction, 0.0, 0.5)
    check.in_interval("average_decay", self.average_decay, 0.0, 1.0)
    study.chosen("arms", self.arms, ARMS)
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
    config: of the run.
    source: labelled cases, preprocessed.
    folds: those to train.
    splits: what splits.json holds.
    preprocess: how files become input; its patch is the input of the network.
    batch_size: patches an update.
    network: the Linen module.
  """

  config: Config
  source: data.NnUNetFolder
  folds: tuple[Fold, ...]
  splits: dict[str, Any]
  preprocess: data.Preprocessing
  batch_size: int
  network: nets.UNet


class Trained(NamedTuple):
  """One training.

  Attributes:
    job: its name (arm, fold and seed), rows and times.
    member: the weights kept, ready to predict.
    flops: of one update; counted in the first fold, NaN elsewhere.
  """

  job: study.Trained
  member: inference.Member
  flops: float


def load(
  config: Config,
  root: pathlib.Path,
  seed: int,
  picture: pathlib.Path | None = None,
  given: Collection[str] = (),
) -> Setting:
  """Reads the folder, draws or imports folds, and refuses what would leak between their parts.

  Two cases that look like one scan are shown in the file `picture`. Fields of `config` that are
  `given` stand against the plans.
  """
  plan = data.read_plans(config.plans, config.plans_configuration) if config.plans else None
  fields = [name for name in ("patch", "spacing", "batch_size") if name not in given]
  planned = {name: getattr(plan, name) for name in fields if plan is not None}
  patch = planned.get("patch", config.patch)
  options: dict[str, Any] = {
    "subject_pattern": config.subject_pattern or None,
    "spacing": planned.get("spacing", config.spacing or None),
    "reorient": True if plan is None else plan.reorient,
    "cache": True,
  }
  raw = data.NnUNetFolder(root, normalise="none", **options)
  folds = _folds(config, raw, seed)
  if plan is not None and "normalise" not in given:
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
    parts = {
      part: study.people_of(source.subjects, getattr(fold, part)) for part in Fold._fields[1:]
    }
    drawn = data.Splits({name: people for name, people in parts.items() if people}, seed)
    data.check_content(source, drawn)
    study.check_alike(source, drawn.parts, config.near_duplicates, picture)
    recorded.append({"fold": fold.number, **parts})
  # 2D work on volumes slices along the plan's axis where it plans slices.
  axis = config.slice_axis if plan is None or plan.axis is None else plan.axis
  has_axis = len(patch) == 2 and source.spec.file_ending != ".png"
  network = nets.UNet(
    num_outputs=len(source.class_names),
    widths=config.widths,
    num_auxiliary=min(config.num_auxiliary, max(len(config.widths) - 2, 0)),
  )
  return Setting(
    config,
    source,
    folds,
    {"kind": "folds over subjects", "seed": seed, "folds": recorded},
    source.preprocessing(patch=patch, axis=axis if has_axis else None),
    planned.get("batch_size", config.batch_size),
    network,
  )


def job_of(setting: Setting, fold: Fold, arm: str, seed: int) -> tuple[study.Job, Model]:
  """The training of a fold, and its model; what is kept are the averaged weights of the state."""
  config, source = setting.config, setting.source
  key = jax.random.fold_in(jax.random.key(seed), fold.number)
  model, preprocess = nets.from_linen(setting.network), setting.preprocess
  assert preprocess.patch is not None
  patch, num_channels = preprocess.patch, len(preprocess.channel_names)
  params, _ = model.init(rng.stream(key, "parameters"), jnp.zeros((*patch, num_channels)))
  augmentation = ARMS[arm].make(patch)
  stream = data.patches(
    data.load_cases(source, fold.train),
    patch,
    setting.batch_size,
    rng.stream(key, "patches"),
    foreground_fraction=config.foreground_fraction,
    axis=preprocess.axis,
    block=augmentation.source_shape if augmentation else None,
  )
  step = step_of(config, model, augmentation)
  predictor = inference.Predictor(model, patch, overlap=config.overlap, axis=preprocess.axis)
  evaluators = stack_scores.validation(
    lambda state, image: predictor(state.extra.params, image).argmax(-1),
    [source[i] for i in fold.validation],
    len(source.class_names),
  )
  best = "validation/dice" if config.keep == "best" else ""
  key, name = rng.stream(key, "training"), f"{arm}-fold{fold.number}-{seed}"
  job = study.Job(name, step, stream, params, key, config.num_steps, evaluators, keep_best=best)
  return job, model


def fit(
  setting: Setting, fold: Fold, arm: str, seed: int, directory: train.RunDirectory
) -> Trained:
  """Trains one network, resumable, and writes its weights."""
  config = setting.config
  job, model = job_of(setting, fold, arm, seed)
  one = study.train_job(
    job,
    directory,
    log_every=config.log_every,
    eval_every=config.eval_every,
    checkpoint_every=config.checkpoint_every,
  )
  kept = one.state.extra.params
  path = directory.path / loading.FOLDER / f"{job.name}{loading.SUFFIX}"
  loading.save_member(path, kept, setting.preprocess, network=setting.network)
  member = inference.Member(model, kept, setting.preprocess, job.name)
  is_first = fold.number == setting.folds[0].number
  flops = study.flops(job.step, job.params, job.stream(0)) if is_first else float("nan")
  return Trained(one, member, flops)


def step_of(
  config: Config, model: Model, augmentation: data.augmentation.Augmentation | None
) -> Step:
  """The training of an arm: deep supervision by Dice and cross-entropy, weights averaged."""
  segmentation_loss = losses.deep_supervision(
    losses.weighted_sum(
      (1.0, functools.partial(losses.soft_dice, include_background=False, smooth=1e-5)),
      (1.0, losses.cross_entropy),
    )
  )

  def loss_fn(params: Any, example: Batch, key: Key) -> jax.Array:
    image, label = example.image, example.label
    if augmentation is not None:
      image, label = augmentation(rng.stream(key, "augmentation"), image, label)
    return segmentation_loss(model.apply(params, image, train=True)[0], label)

  rate = optax.polynomial_schedule(config.learning_rate, 0.0, 0.9, config.num_steps)
  tx = optax.chain(
    optax.clip_by_global_norm(12.0), optax.adamw(rate, weight_decay=config.weight_decay)
  )
  return methods.averaged(methods.supervised(loss_fn, tx), config.average_decay)


def _folds(config: Config, source: data.NnUNetFolder, seed: int) -> tuple[Fold, ...]:
  """The held-out subjects of each fold test; of the others a few validate."""
  if config.splits_final:
    drawn = data.read_splits_final(config.splits_final, source.names, source.subjects)
  else:
    drawn = data.folds(source.subjects, config.num_folds, seed=seed)
  check.in_interval("fold", config.fold, -1, len(drawn) - 1)
  found, aside = [], config.validation_fraction
  for number in range(len(drawn)) if config.fold < 0 else [config.fold]:
    whole, held_out = (drawn[number].parts[part] for part in ("train", "validation"))
    parts = {"train": whole, "validation": (), "test": held_out}
    if aside > 0:
      shares = {"train": 1 - aside, "validation": aside}
      parts |= data.split_subjects(whole, shares, seed=seed + number).parts
    own = data.Splits(parts)
    found.append(Fold(number, *(own.indices(part, source.subjects) for part in parts)))
  return tuple(found)
