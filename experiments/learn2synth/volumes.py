"""Learn2Synth in three dimensions: is it feasible, what does it cost, what does it look like?

Label maps of people of whom there is no image are synthesised patch by patch; one real, labelled
scan judges. Its back half is what the synthesiser learns from, its front half is predicted. Both
halves are one person's, so nothing here is a claim. The two sets may number their structures by
different parts of FreeSurfer's table: `synth.freesurfer.by_tissue` brings both to four tissues.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.learn2synth import synthetic_training
from medjax import check, cli, data, inference, methods, metrics, rng, study, synth, train
from medjax.data.streams.epochs import Cases
from medjax.synth import freesurfer
from medjax.types import Example, Params, Step, Stream

_NAIVE_SIGMA, _NAIVE_EXPONENT = (1e-4, 0.2), 0.5


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Learn2Synth and naive randomisation on patches of volumes."""

  maps: str = ""  # folder of NIfTI label maps with values of FreeSurfer, to synthesise from
  shape: tuple[int, int, int] = (64, 64, 64)  # voxels of a patch
  widths: tuple[int, ...] = (8, 16, 32)  # channels of the U-Net's levels
  num_seeds: int = 1
  num_steps: int = 150  # updates of each arm
  batch_size: int = 1  # patches an update, synthetic and real alike
  learning_rate: float = 3e-3  # Adam's first rate for the network; decays to a twentieth
  theta_learning_rate: float = 3e-3  # Adam's first rate for the synthesiser; decays likewise
  log_every: int = 10

  def __post_init__(self):
    super().__post_init__()
    divisor = 2 ** (len(self.widths) - 1)
    check.require(
      not any(size % divisor for size in self.shape),
      f"sides of shape that are multiples of {divisor}",
      f"{self.shape}",
      "the U-Net halves each side once a level",
    )


class Scans(NamedTuple):
  """Label maps with FreeSurfer's values, and the halves of the real scan with tissues."""

  maps: data.LabelMapFolder
  real: data.NnUNetFolder
  to_synthesise: Cases
  back: Cases
  front: Example


def load(config: Config, path: pathlib.Path) -> Scans:
  """Reads both folders.

  Raises:
    InputError: no folder of maps, more than one image, or a value that FreeSurfer does not name.
  """
  check.require(config.maps, "a folder of label maps", "none", "pass --maps MAPS")
  real = data.NnUNetFolder(path, normalise="percentile")
  check.require(
    len(real) == 1, f"one labelled scan in {path}", f"{len(real)}", "keep one; no claim is made"
  )
  maps = data.LabelMapFolder(config.maps)
  for values, owner in ((maps.label_values, config.maps), (real.label_values, str(path))):
    for value in values:
      check.one_of(f"label value of {owner}", value, freesurfer.NAMES)
  values, whole = np.asarray(maps.label_values), data.load_cases(maps)
  heads = whole._replace(examples=tuple(_stripped(one, values) for one in whole.examples))
  # The file's values, not the ids that they got, are what FreeSurfer's table is about.
  targets = freesurfer.by_tissue(is_csf_target=False).target[np.asarray(real.label_values)]
  back, front = _halves(real[0], targets)
  scan = data.load_cases(real)._replace(examples=(back,))
  return Scans(maps, real, heads, scan, front)


def _stripped(example: Example, values: np.ndarray) -> Example:
  """FreeSurfer's values, without skull and skin: the real scan is stripped as well."""
  label = values[example.label]
  return dataclasses.replace(example, label=np.where(label < 500, label, 0).astype(np.int32))


def _halves(example: Example, targets: np.ndarray) -> tuple[Example, Example]:
  """Back and front half along the second axis, which runs from posterior to anterior."""
  label = targets[example.label].astype(np.int32)
  middle = label.shape[1] // 2
  image = np.asarray(example.image)
  one, other = (
    dataclasses.replace(example, image=image[:, half], label=label[:, half])
    for half in (slice(None, middle), slice(middle, None))
  )
  return one, other


class Trainer(NamedTuple):
  """Network and generator, and each arm's Step and data."""

  config: Config
  scans: Scans
  task: synthetic_training.Task

  def tx(self, rate: float) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(rate, self.config.num_steps, alpha=0.05)
    return optax.adam(schedule, eps_root=1e-16)

  def patches(self, cases: Cases, seed: int, name: str) -> Stream:
    config = self.config
    return data.patches(
      cases, config.shape, config.batch_size, seed, foreground_fraction=1.0, name=name
    )

  def naive(self) -> Step:
    augmentation = synth.ParametricAugmentation(noise="ranged")
    theta = augmentation.init(sigma=_NAIVE_SIGMA, exponents=_NAIVE_EXPONENT)
    task = dataclasses.replace(self.task, augmentation=augmentation)
    return methods.supervised(
      lambda params, example, key: task.inner_loss(params, theta, example, key),
      self.tx(self.config.learning_rate),
    )

  def learn2synth(self) -> Step:
    augmentation = self.task.augmentation
    assert isinstance(augmentation, synth.ParametricAugmentation)
    return methods.learn2synth(
      self.task.inner_loss,
      self.task.outer_loss,
      self.tx(self.config.learning_rate),
      augmentation.init(sigma=0.02, exponents=0.0),
      self.tx(self.config.theta_learning_rate),
      describe=augmentation.describe,
    )

  def stream(self, arm: str, seed: int) -> Stream:
    made = self.patches(self.scans.to_synthesise, seed, "synthetic")
    if arm == "naive":
      return made
    return data.zip_streams(inner=made, outer=self.patches(self.scans.back, seed, "real"))


ARMS = study.arms(
  study.Arm("naive", "synthetic patches under fixed, broad randomisation", Trainer.naive),
  study.Arm(
    "learn2synth", "noise level and bias field learnt from half a real scan", Trainer.learn2synth
  ),
)


def build(config: Config, options: cli.RunOptions) -> None:
  (path,) = study.paths_of(options.data, 1)
  scans = load(config, path)
  grouping = freesurfer.by_tissue(is_csf_target=False)
  task = synthetic_training.Task(
    model=synthetic_training.unet(grouping.num_targets, config.widths),
    generator=synth.learn2synth_base(grouping),
    augmentation=synth.ParametricAugmentation(),
    loss=synthetic_training.dice_and_cross_entropy,
  )
  trainer = Trainer(config, scans, task)
  given = {"images": scans.real.manifest(), "labels": scans.maps.manifest()}
  with options.directory(config, given) as directory:
    if directory.finished:
      return
    kind = "halves of one scan: no claim"
    directory.write_json("splits", {"kind": kind, "parts": {"outer": ["back"], "test": ["front"]}})
    predict = inference.Predictor(task.model, config.shape, overlap=0.25)
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in ARMS}
    scored: dict[str, list[study.Scored]] = {arm: [] for arm in ARMS}
    for seed in range(options.seed, options.seed + config.num_seeds):
      key = jax.random.key(seed)
      params = task.first_params(key, config.shape)  # one for both arms
      for arm in ARMS:
        job = study.Job(
          f"{arm}-{seed}", ARMS[arm].make(trainer), trainer.stream(arm, seed), params,
          rng.stream(key, "training"), config.num_steps,
        )  # fmt: skip
        one = study.train_job(job, directory, log_every=config.log_every)
        trained[arm].append(one)
        scored[arm].append(
          study.kept(
            directory,
            one.name,
            one.params,
            lambda p=one.params, a=arm, s=seed: _score(predict, p, scans.front, grouping, a, s),
          )
        )
    flops = {
      arm: study.flops(ARMS[arm].make(trainer), own[0].params, trainer.stream(arm, 0)(0))
      for arm, own in trained.items()
    }
    rows = [row for own in scored.values() for one in own for row in one.rows]
    found = study.results(rows, ("dice",), questions=[], flops=flops)
    found["learned"] = [
      {name: one.curve(name)[1][-1] for name in ("theta/sigma",)} for one in trained["learn2synth"]
    ]
    page = _page(found, trained, scored, grouping, trainer)
    study.finish(directory, found, page, trained=trained, rows=rows)


def _score(
  predict: inference.Predictor,
  params: Params,
  front: Example,
  grouping: synth.Grouping,
  arm: str,
  seed: int,
) -> study.Scored:
  """Dice of the tissues in the front half, and its middle plane."""
  image, label = np.asarray(front.image), np.asarray(front.label)
  found = predict(params, image).argmax(-1).astype(np.int32)
  dice = np.asarray(metrics.dice(found, label, num_classes=grouping.num_targets))
  row = {"arm": arm, "seed": seed, "role": "front half", "case": front.name}
  row |= {"subject": front.subject, "domain": ""}
  row |= {f"dice/{k}": float(v) for k, v in zip(grouping.target_names[1:], dice, strict=True)}
  middle = image.shape[2] // 2
  shown, truth, guess = (np.rot90(x[:, :, middle]) for x in (image[..., 0], label, found))
  plane = study.ShownPlane(front.name, "", shown, truth, guess, study.mean(row, "dice"))
  return study.Scored([row], [plane])


def _page(
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
  scored: dict[str, list[study.Scored]],
  grouping: synth.Grouping,
  trainer: Trainer,
) -> train.Report:
  lead = (
    f"Patches of {' x '.join(map(str, trainer.config.shape))} voxels of"
    f" {len(trainer.scans.maps)} label maps; the back half of one real scan judged, its front half"
    " is predicted. One person: a demonstration that it can be done, no claim."
  )
  report = study.page.start("Learn2Synth in three dimensions", found, lead)
  study.page.scores(report, found, ARMS)
  study.page.pictures(
    report, {arm: own[0].pictures for arm, own in scored.items()}, grouping.target_names
  )
  labels = {"loss": "loss on synthetic patches", "theta/sigma": "noise level"}
  study.page.trainings(report, found, trained, labels)
  return report
