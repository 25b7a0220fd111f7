"""Learn2Synth beside naive randomisation on real images: a folder of yours, or the MNI152 template.

Three rows on the same test images: a vote of the training label maps (no image at all), a network
trained under fixed, broad randomisation of noise and bias field, and one whose synthesiser learns
them from the real training images. Same network, initial weights, label maps, class intensities and
number of updates.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learn2synth import released, synthetic_training
from experiments.learn2synth.synthetic_training import Task
from medjax import check, data, methods, metrics, rng, study, synth, train
from medjax.data import manifest
from medjax.types import Batch, Json, Source

ARMS = ("naive", "learn2synth")
_LEAST_SIGMA = 1e-4  # lower end of naive randomisation's noise levels


@dataclasses.dataclass(frozen=True)
class Config:
  """Learn2Synth and naive randomisation on real, labelled images."""

  # voxels per axis that every case is cropped or padded to; 2 axes cut volumes into slices
  shape: tuple[int, ...] = (64, 80)
  # voxel size in mm, one per axis of the file; () keeps the files' own
  spacing: tuple[float, ...] = ()
  # voxel size in mm of the MNI152 template, used without --data
  template_resolution: float = 3.0
  # axis that 2D work slices along (0 sagittal, 1 coronal, 2 axial)
  slice_axis: Literal[0, 1, 2] = 2
  # slices with a smaller fraction of labelled voxels are left out, of all parts
  min_labelled: float = 0.01
  # regular expression with one group that finds the subject in a case name; "" makes every case its
  # own subject
  subject_pattern: str = ""
  # folder of NIfTI label maps to synthesise from, with the label values of --data; people of whom
  # there is no image. "" takes the label maps of the training people
  labels: str = ""
  # similarity from which cases of two people are taken for one scan, and refused in two parts; -1
  # takes the measured default (.55 for volumes, .8 for pictures), 0 does not look
  near_duplicates: float = -1.0
  # what unlabelled tissue is synthesised as: "clusters" of intensity (skull, skin), "strip" (images
  # cut to their labels by the truth: a control, no claim), or "zero"
  background: Literal["clusters", "strip", "zero"] = "zero"
  num_clusters: int = 3  # intensity clusters of unlabelled tissue
  # class intensities of synthetic images: "random" (SynthSeg's randomisation) or "matched" (the
  # mean of each class in the real training images, give or take 0.1)
  contrast: Literal["random", "matched"] = "matched"
  # noise added to the template, in image intensities; not used with --data
  hidden_sigma: float = 0.08
  # exponents of the non-uniformity applied to the template, low to high frequency; not used with
  # --data
  hidden_exponents: tuple[float, float, float] = (0.6, 0.3, 0.1)
  initial_sigma: float = 0.02  # noise level that Learn2Synth starts from, in image intensities
  initial_exponents: float = 0.0  # non-uniformity exponent that Learn2Synth starts from
  # highest noise level of naive randomisation, in image intensities
  naive_sigma: float = 0.2
  naive_exponent: float = 0.5  # non-uniformity exponent of naive randomisation
  num_seeds: int = 1  # seeds, each with its own initial weights and draws
  num_steps: int = 500  # updates of each arm
  batch_size: int = 8  # images an update, synthetic and real alike
  widths: tuple[int, ...] = (8, 16, 32)  # channels of the U-Net's levels
  # Adam's first rate for the network; decays to a twentieth along a cosine
  learning_rate: float = 3e-3
  theta_learning_rate: float = 3e-3  # Adam's first rate for the augmentation; decays likewise
  log_every: int = 20  # steps between two log rows
  eval_every: int = 100  # steps between two evaluations on validation images
  # Departures of the released code from the paper, each a name of its own; see `released`.
  doubled: bool = False  # the image is added to what the augmentation makes of it
  batch_field: bool = False  # one random field for all images of a batch
  released_dice: bool = False  # soft Dice alone, with voxels / classes added above and below
  one_rate: bool = False  # the network's rate for the augmentation too, and no decay
  raw_parameters: bool = False  # noise level without bounds, exponents between 0 and 1
  beside_published: bool = False  # whether the page shows the paper's figures beside

  def __post_init__(self):
    study.check_fields(self)
    check.in_interval("number of axes of shape", len(self.shape), 2, 3)
    for name in ("initial_sigma", "template_resolution"):
      check.positive(name, getattr(self, name))
    check.non_negative("hidden_sigma", self.hidden_sigma)
    check.positive("naive_sigma", self.naive_sigma - _LEAST_SIGMA, "pass a larger noise level")
    check.in_interval("min_labelled", self.min_labelled, 0, 1)
    check.require(
      not self.labels or self.background != "clusters",
      "--background zero or strip with --labels",
      "clusters",
      "clusters are found in images, which label maps alone do not have",
    )


class Cases(NamedTuple):
  """Stacked arrays: label maps for synthesis (training subjects only) and real images by part."""

  maps: Batch
  training: Batch
  validation: Batch
  test: Batch


class Setting(NamedTuple):
  """Where the images come from, before a network is made.

  `splits` is what splits.json holds; `positions` [case of source] says where along the axis a slice
  lies, 0 for volumes.
  """

  source: Source
  splits: dict[str, Any]
  cases: Cases
  positions: np.ndarray
  grouping: synth.Grouping
  class_names: tuple[str, ...]
  is_template: bool
  folder: data.NnUNetFolder | None  # that the images come from
  label_maps: dict[str, Json] | None  # manifest of --labels


class Found(NamedTuple):
  """All that a report needs.

  Attributes:
    setting: images and splits.
    task: network, generator and augmentation.
    scored: row name -> seed by seed, Dice [case, foreground class] and pictures of the first seed.
    trained: arm -> trainings, seed by seed.
    synthetic: name -> (images [n, *space], labels [n, *space]) before and after learning.
  """

  setting: Setting
  task: Task
  scored: dict[str, list[study.Scored]]
  trained: dict[str, list[study.Trained]]
  synthetic: dict[str, tuple[np.ndarray, np.ndarray]]

  @property
  def dice(self) -> dict[str, np.ndarray]:
    """Row name -> [seed, case, foreground class]; the vote of label maps has no seeds."""
    return {name: np.stack([one.more["dice"] for one in own]) for name, own in self.scored.items()}

  @property
  def learned(self) -> list[dict[str, float]]:
    """Natural parameters of the augmentation after training, seed by seed."""
    thetas = [one.state.extra.theta for one in self.trained["learn2synth"]]
    return [{k: float(v) for k, v in self.task.augmentation.describe(t).items()} for t in thetas]


def load(
  config: Config,
  paths: tuple[pathlib.Path, ...],
  seed: int,
  picture: pathlib.Path | None = None,
) -> Setting:
  """Reads, splits over subjects, crops to one shape, and prepares label maps for synthesis.

  Two cases in two parts that look like one scan are shown in the file `picture`.
  """
  check.require(len(paths) <= 1, "one nnU-Net folder after --data", f"{len(paths)}", "pass one")
  check.require(
    paths or not config.labels, "real images beside --labels", "none", "pass --data FOLDER as well"
  )
  source: Source
  folder = drawn = label_maps = None
  if paths:
    folder = whole = _folder(config, paths[0])
    source = _sliced(config, whole)
    drawn = data.split_subjects(
      source.subjects, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=seed
    )
    parts = {part: drawn.indices(part, source.subjects) for part in drawn.parts}
    data.check_content(source, drawn)
    study.check_alike(whole, drawn.parts, config.near_duplicates, picture)
    splits = {"kind": "subjects", "seed": seed, "parts": drawn.parts}
  else:
    source = _template(config)
    # One averaged head: there is no second subject to test on, and the report claims nothing.
    every = tuple(range(len(source)))
    parts = {"train": every[::2], "validation": every[1::4], "test": every[3::4]}
    splits = {"kind": "slices of one subject: no claim", "seed": seed, "parts": parts}
  stacked = {part: data.stack(source, index, config.shape) for part, index in parts.items()}
  num_classes = len(source.class_names)
  grouping = synth.identity(num_classes, source.class_names)
  if not paths:
    stacked = {part: _acquired(config, batch, seed) for part, batch in stacked.items()}
  maps = stacked["train"]
  if config.background == "clusters":
    grouping = synth.with_clusters(grouping, config.num_clusters)
    maps = maps.replace(
      label=np.stack(
        [
          synth.split_background(image, label, config.num_clusters, first_value=num_classes)
          for image, label in zip(maps.image, maps.label, strict=True)
        ]
      )
    )
  elif config.background == "strip":
    stacked = {part: _stripped(batch) for part, batch in stacked.items()}
    maps = stacked["train"]
  if config.labels:
    held_out = [stacked["validation"], stacked["test"]]
    maps, label_maps = _label_maps(config, folder, drawn, held_out)
  cases = Cases(maps, stacked["train"], stacked["validation"], stacked["test"])
  positions = np.array(getattr(source, "positions", (0,) * len(source)))
  return Setting(
    source, splits, cases, positions, grouping, source.class_names, not paths, folder, label_maps
  )


def run(config: Config, seed: int, setting: Setting, directory: train.RunDirectory) -> Found:
  """Trains both arms for every seed, resumable run by run, and scores the test images."""
  task = make_task(config, setting)
  cases = setting.cases
  vote = label_vote(
    cases.training.label,
    setting.positions[cases.training.index],
    setting.positions[cases.test.index],
    len(setting.class_names),
  )
  scored = {"label vote": [score(vote, setting, "label vote", seed, is_shown=True)]}
  trained: dict[str, list[study.Trained]] = {}
  for arm in ARMS:
    trained[arm] = [
      _fit(arm, config, seed + s, task, cases, directory, f"{arm}-{s}")
      for s in range(config.num_seeds)
    ]
    if setting.folder is not None:
      module = synthetic_training.network(setting.grouping.num_targets, config.widths)
      axis = None if setting.source is setting.folder else config.slice_axis
      for one in trained[arm]:
        synthetic_training.save(
          directory, one, task, module, setting.folder, patch=config.shape, axis=axis
        )
    scored[arm] = [
      study.kept(
        directory,
        one.name,
        one.params,
        lambda s=s, one=one, arm=arm: score(
          task.predict(one.params, cases.test.image), setting, arm, seed + s, is_shown=s == 0
        ),
      )
      for s, one in enumerate(trained[arm])
    ]
  last = trained["learn2synth"][0].state.extra.theta
  synthetic = {
    "before learning": examples(task, initial_theta(config), cases.maps),
    "after learning": examples(task, last, cases.maps),
  }
  return Found(setting, task, scored, trained, synthetic)


def make_task(config: Config, setting: Setting) -> Task:
  generator = synth.learn2synth_base(setting.grouping)
  if config.contrast == "matched":
    cases = setting.cases
    images = cases.training if cases.maps.image is None else cases.maps
    means = class_means(images, setting.grouping.num_generation)
    generator = synth.Generator(
      setting.grouping,
      mixture=synth.Mixture(
        mean=tuple((max(m - 0.1, 0.0), m + 0.1) for m in means),
        std=(0.0, 0.05),
        zero_background=0.0,
        dark_background=0.0,
      ),
      deformation=generator.deformation,
      quantiles=None,
    )
  return Task(
    model=synthetic_training.unet(setting.grouping.num_targets, config.widths),
    generator=generator,
    augmentation=released.augmentation(config),
    loss=released.loss(config),
  )


def class_means(cases: Batch, num_classes: int) -> list[float]:
  """Mean intensity of every class over the images; 0 for a class that no case holds."""
  known = cases.label >= 0
  labels, values = cases.label[known], cases.image[..., 0][known]
  counts = np.bincount(labels, minlength=num_classes)
  sums = np.bincount(labels, values, minlength=num_classes)
  return (sums / np.maximum(counts, 1)).tolist()


def initial_theta(config: Config) -> Any:
  augmentation = released.augmentation(config)
  return augmentation.init(sigma=config.initial_sigma, exponents=config.initial_exponents)


def results(found: Found) -> dict[str, Any]:
  """results.json: fixed keys, no times. A mean is over scored structures, then over classes."""
  names, cases = found.setting.class_names[1:], found.setting.cases.test

  def row(values: np.ndarray) -> dict[str, Any]:
    by_class = {name: float(np.nanmean(values[..., k])) for k, name in enumerate(names)}
    scored = np.isfinite(values)
    return {
      "mean": float(np.mean(list(by_class.values()))),
      **by_class,
      "scored": int(scored.sum()),
      "missed": int((values[scored] == 0).sum()),
    }

  return {
    "test_cases": len(cases.weight),
    "test_subjects": len(set(cases.subject.tolist())),
    "dice": {name: row(values) for name, values in found.dice.items()},
    "learned": found.learned,
    "comparison": _comparison(found),
  }


def _comparison(found: Found) -> list[dict[str, Any]]:
  """Paired verdicts against naive randomisation over test subjects; none on the template."""
  subjects = found.setting.cases.test.subject
  if found.setting.is_template or len(set(subjects.tolist())) < 2:
    return []
  dice = found.dice
  num_seeds = len(dice["naive"])
  tables = {}
  for name, values in dice.items():
    is_scored = np.isfinite(values)
    sums = np.where(is_scored, values, 0.0).sum(-1)
    count = is_scored.sum(-1)  # a case without any structure, found or to be found, is right
    table = np.where(count > 0, sums / np.maximum(count, 1), 1.0)
    tables[name] = np.broadcast_to(table, (num_seeds, table.shape[-1]))
  return metrics.comparison_table(
    {"equal updates": tables}, reference="naive", subjects=subjects.tolist()
  )


def score(
  prediction: np.ndarray, setting: Setting, arm: str, seed: int, *, is_shown: bool
) -> study.Scored:
  """Rows, and Dice [case, foreground class], of class ids [case, *space].

  Pictures of three cases if they are to be shown.
  """
  cases, names = setting.cases.test, setting.class_names
  dice = synthetic_training.dice(prediction, cases.label, len(names))
  rows = [
    {
      "arm": arm,
      "seed": seed,
      "case": setting.source[int(i)].name,
      "subject": setting.source.subjects[i],
      "domain": "",
      **{f"dice/{name}": float(v) for name, v in zip(names[1:], values, strict=True)},
    }
    for i, values in zip(cases.index, dice, strict=True)
  ]
  shown = np.linspace(0, len(cases.weight) - 1, 5).round().astype(int)[1:-1] if is_shown else []
  planes = [
    study.ShownPlane(
      rows[i]["case"],
      "",
      plane(cases.image[i, ..., 0]),
      plane(cases.label[i]),
      plane(prediction[i]),
      float(np.nanmean(dice[i])) if np.isfinite(dice[i]).any() else 1.0,
    )
    for i in shown
  ]
  return study.Scored(rows, planes, more={"dice": dice})


def plane(array: np.ndarray) -> np.ndarray:
  """A picture of [*space]: the plane itself, or the middle axial one; anterior up."""
  return np.rot90(array if array.ndim == 2 else array[..., array.shape[-1] // 2])


def label_vote(
  labels: np.ndarray, positions: np.ndarray, wanted: np.ndarray, num_classes: int
) -> np.ndarray:
  """Most frequent class at every voxel of the common grid: what anatomy alone achieves.

  Args:
    labels: [case, *space] training label maps.
    positions: [case] where along the axis each slice lies; equal numbers for volumes.
    wanted: [test case] positions to predict; the nearest training position votes.
    num_classes: background included.
  Returns:
    Class ids [test case, *space].
  """
  votes = {}
  for position in np.unique(positions):
    there = labels[positions == position]
    counts = np.stack([(there == k).sum(0) for k in range(num_classes)])
    votes[int(position)] = counts.argmax(0).astype(np.int32)
  known = np.array(sorted(votes))
  return np.stack([votes[int(known[np.abs(known - p).argmin()])] for p in wanted])


def examples(task: Task, theta: Any, maps: Batch, num: int = 4) -> tuple[np.ndarray, np.ndarray]:
  """Synthetic images [num, *space] and their targets; every theta is shown on the same draws."""
  rows = np.linspace(0, len(maps.weight) - 1, num + 2).round().astype(int)[1:-1]
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(num))
  images, targets = jax.jit(jax.vmap(task.synthesise, (None, 0, 0)))(
    theta, keys, jnp.asarray(maps.label[rows])
  )
  return np.asarray(images[..., 0]), np.asarray(targets)


def _fit(
  arm: str,
  config: Config,
  seed: int,
  task: Task,
  cases: Cases,
  directory: train.RunDirectory,
  name: str,
) -> study.Trained:
  key = jax.random.key(seed)
  tx, theta_tx = released.optimisers(config)
  draws = data.batches(cases.maps, config.batch_size, seed, name="synthetic")
  if arm == "naive":
    augmentation = synth.ParametricAugmentation(noise="ranged")
    theta = augmentation.init(
      sigma=(_LEAST_SIGMA, config.naive_sigma), exponents=config.naive_exponent
    )
    step = methods.supervised(dataclasses.replace(task, augmentation=augmentation).fixed_loss, tx)
    stream = synthetic_training.with_theta(draws, theta)
  else:
    inner_loss = task.inner_loss
    if config.batch_field:
      inner_loss = functools.partial(released.batch_field_loss, task)
      draws = released.with_batch_field(draws, seed)
    step = methods.learn2synth(
      inner_loss,
      task.outer_loss,
      tx,
      initial_theta(config),
      theta_tx,
      describe=task.augmentation.describe,
    )
    real = data.batches(cases.training, config.batch_size, seed, name="real")
    stream = data.zip_streams(inner=draws, outer=real)
  validation = {"validation": task.mean_dice(cases.validation)}
  params = task.first_params(key, config.shape)
  key = rng.stream(key, "training")
  return study.train_job(
    study.Job(name, step, stream, params, key, config.num_steps, validation),
    directory,
    log_every=config.log_every,
    eval_every=config.eval_every,
    checkpoint_every=config.eval_every,
  )


def _folder(config: Config, path: pathlib.Path) -> data.NnUNetFolder:
  source = data.NnUNetFolder(
    path,
    spacing=config.spacing or None,
    normalise="percentile",
    subject_pattern=config.subject_pattern or None,
    cache=True,
  )
  check.require(
    len(source.channel_names) == 1,
    "images of one channel for synthesis",
    f"{len(source.channel_names)} ({', '.join(source.channel_names)}) in {path}",
    "keep one channel in dataset.json",
  )
  return source


def _sliced(config: Config, source: Source) -> Source:
  if len(config.shape) == 2 and len(source[0].spacing) == 3:
    return data.slices(
      source,
      config.slice_axis,
      keep=lambda e: bool(np.mean(np.asarray(e.label) > 0) >= config.min_labelled),
    )
  return source


def _label_maps(
  config: Config,
  folder: data.NnUNetFolder | None,
  drawn: data.Splits | None,
  held_out: Sequence[Batch],
) -> tuple[Batch, dict[str, Json]]:
  """Label maps alone, of people who are in no other part, and their manifest."""
  assert folder is not None and drawn is not None
  source: Source = data.LabelMapFolder(
    config.labels,
    spacing=config.spacing or None,
    label_values=folder.label_values,
    subject_pattern=config.subject_pattern or None,
    cache=True,
  )
  others = {part: own for part, own in drawn.parts.items() if part != "train"}
  data.check_disjoint({"--labels": source.subjects, **others})
  maps = data.stack(_sliced(config, source), shape=config.shape)
  assert maps.label is not None
  seen = {manifest.array_digest(label) for batch in held_out for label in batch.label}
  again = sum(manifest.array_digest(label) in seen for label in maps.label)
  check.require(
    not again,
    "label maps of people who are not tested",
    f"{again} that equal one of a validation or test person",
    f"take these people out of {config.labels}",
  )
  return maps, source.manifest()


def _template(config: Config) -> Source:
  axis = config.slice_axis if len(config.shape) == 2 else None
  return data.mni152(resolution=config.template_resolution, axis=axis)


def _acquired(config: Config, batch: Batch, seed: int) -> Batch:
  """The template as a scanner with the hidden noise level and bias field would have shown it."""
  scanner = synth.ParametricAugmentation(bias=any(config.hidden_exponents))
  theta = scanner.init(sigma=max(config.hidden_sigma, 1e-6), exponents=config.hidden_exponents)
  keys = rng.example_keys(rng.stream(jax.random.key(seed), "scanner"), batch)
  images = jax.jit(jax.vmap(scanner, (None, 0, 0)))(theta, keys, jnp.asarray(batch.image))
  return batch.replace(image=np.asarray(images))


def _stripped(batch: Batch) -> Batch:
  pairs = zip(batch.image, batch.label, strict=True)
  return batch.replace(
    image=np.stack([synth.strip_background(image, label) for image, label in pairs])
  )
