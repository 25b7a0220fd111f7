"""Arms of the replay study: what a network learns from, centre after centre."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.ms_replay import hospitals, private
from experiments.ms_replay.hospitals import Study
from medjax import check, data, methods, nets, rng, train
from medjax.data import memory as memories
from medjax.data.replay import Drawn, replayed
from medjax.data.seeds import generator
from medjax.data.volume_pool import cut_patches
from medjax.grads.sketch import sketched
from medjax.inference import window
from medjax.methods.agem import agem
from medjax.methods.distillation import held_to_teacher, with_teacher
from medjax.methods.ewc import Anchor, ewc, fisher_anchor, merged_anchors
from medjax.nets.residual_unet import Encoder, ResidualUNet
from medjax.ops.soft_segmentation import normalised_relu, soft_overlap_loss
from medjax.types import Evaluator, Key, Model, Params, Step, Stream, TrainState

Arm = Literal[
  "fine-tuning",
  "replay",
  "replay-weighted",
  "replay-redrawn",
  "replay-reservoir",
  "replay-herding",
  "replay-diverse",
  "replay-synthetic",
  "replay-private",
  "ewc",
  "lwf",
  "a-gem",
  "der++",
]
SINGLE, MULTI = "single-domain", "multi-domain"
_PROBES = 8  # patches a case whose gradients or outputs speak for it


@dataclasses.dataclass(frozen=True)
class Config:
  """Hospitals one after the other.

  Attributes:
    source: simulated centres, or nnU-Net folders given by --data in the order of training.
    num_train: of each simulated centre, people to train on.
    num_test: people of each simulated centre to test on.
    shape: voxels an axis of simulated volumes (two or three axes), and of what folders are cropped
      and padded to; () pads folders to their largest.
    spacing: in mm, folders are resampled to; () keeps their own, which must then be one.
    subject_pattern: regular expression with one group that finds the person in a case's name.
    test_fraction: of a folder's people, rounded down, at least one.
    near_duplicates: similarity from which two folders are taken to hold one scan; 0 does not look.
    equalise: histogram equalisation before the normalisation of each volume.
    standardise_patches: normalise training patches anew, as the released code does.
    widths: channels of the residual U-Net, one more than the paper's "layers".
    dropout: share of channels dropped in the encoder.
    couple_batch: activation and Dice over the whole batch, as published; one patient's output then
      depends on the others'.
    patch: voxels an axis of a training patch.
    batch_size: volumes a step.
    patches_per_volume: patches of each.
    foreground_fraction: share of patches with a lesion voxel in the middle.
    window: voxels an axis of inference windows, at most the volume's; () is the whole volume.
    overlap: of neighbouring windows, fraction.
    arms: trained through all centres.
    num_seeds: seeds: split, first weights and draws.
    num_orders: orders of the centres; the first is that of the data, the others are shuffled.
    crossed: train every order with every seed; else all seeds in the first order, all orders with
      the first seed.
    num_steps: steps a centre; multi-domain training has as many as all centres together.
    num_epochs: in place of num_steps (0): passes over the volumes at hand, as published.
    learning_rate: of AdamW, halved after each third of a centre's steps.
    weight_decay: of AdamW.
    transfer: what the next centre starts from: the whole network, or the encoder with a new
      decoder, as published.
    carry: the last weights, or those of the best validation loss, as published; tests are always of
      the last.
    num_validation: volumes of the pool at hand set aside to choose the best, memory included.
    memory: cases kept of a centre.
    ewc_strength: lambda of EWC.
    lwf_strength: lambda of LwF.
    der_alpha, der_beta: weights of stored outputs and of labels of remembered examples.
    private_epsilon, private_delta, private_norm: of each centre's private training: target, delta
      and clipping norm; a person remembered pays at every later centre again.
    margin: that a difference of Dice has to exceed to be called one.
    equivalence: half width of the interval that calls a backward transfer zero.
    min_test: test people below which a centre is shown and left out of claims.
    divide_by: of the transfers in the tables.
    mode: see `train.fit_many`; runs are seeds and orders.
    on_device: keep the volumes on the device; else batches are copied.
    log_every: steps between two log rows.
  """

  source: Literal["simulated", "folders"] = "simulated"
  num_train: tuple[int, ...] = (16, 10, 9, 10, 6, 3, 2, 2)
  num_test: int = 10
  shape: tuple[int, ...] = (40, 40, 40)
  spacing: tuple[float, ...] = ()
  subject_pattern: str | None = None
  test_fraction: float = 0.2
  near_duplicates: float = 0.55
  equalise: bool = False
  standardise_patches: bool = False
  widths: tuple[int, ...] = (8, 16, 32, 64)
  dropout: float = 0.0
  couple_batch: bool = False
  patch: tuple[int, ...] = (32, 32, 32)
  batch_size: int = 4
  patches_per_volume: int = 1
  foreground_fraction: float = 0.5
  window: tuple[int, ...] = ()
  overlap: float = 0.5
  arms: tuple[Arm, ...] = ("fine-tuning", "replay", "replay-weighted")
  num_seeds: int = 1
  num_orders: int = 1
  crossed: bool = False
  num_steps: int = 60
  num_epochs: float = 0.0
  learning_rate: float = 3e-3
  weight_decay: float = 1e-5
  transfer: Literal["whole", "encoder"] = "whole"
  carry: Literal["last", "best"] = "last"
  num_validation: int = 0
  memory: int = 4
  ewc_strength: float = 10.0
  lwf_strength: float = 1.0
  der_alpha: float = 0.1
  der_beta: float = 1.0
  private_epsilon: float = 8.0
  private_delta: float = 1e-3
  private_norm: float = 1.0
  margin: float = 0.01
  equivalence: float = 0.02
  min_test: int = 5
  divide_by: Literal["k-1", "k"] = "k-1"
  mode: train.runs.Mode = "sequential"
  on_device: bool = True
  log_every: int = 20

  def __post_init__(self):
    counts = ("num_seeds", "num_orders", "batch_size", "patches_per_volume", "memory", "num_test")
    for name in (*counts, "learning_rate", "log_every"):
      check.positive(name, getattr(self, name))
    check.require(
      (self.num_steps > 0) != (self.num_epochs > 0),
      "one of num_steps and num_epochs above 0",
      f"{self.num_steps} and {self.num_epochs}",
      "set the other to 0",
    )
    check.require(
      self.carry == "last" or self.num_validation > 0,
      "num_validation > 0 for carry='best'",
      "0",
      "the paper's code takes 5",
    )
    alone = sorted({"ewc", "replay-diverse", "replay-private"} & set(self.arms))
    check.require(
      not self.couple_batch or not alone,
      "arms without per-example gradients for couple_batch",
      ", ".join(alone),
      "with batch coupling no example has a gradient of its own",
    )
    check.require(
      "replay-private" not in self.arms or self.carry == "last" and self.mode == "sequential",
      "carry='last' and mode='sequential' for replay-private",
      f"{self.carry!r} and {self.mode!r}",
      "a choice by validation people would be no private one",
    )


class Stage(NamedTuple):
  """A training at one centre, or at all.

  Attributes:
    name: of its rows and checkpoints.
    params: after the last step; None once a course has gone past.
    carried: what the next centre starts from; likewise.
    scores: {centre: {"dice", "soft_dice"}: [test person]}.
    timing: of this process.
    num_steps: of this centre.
  """

  name: str
  params: Params
  carried: Params
  scores: dict[str, dict[str, np.ndarray]]
  timing: train.Timing
  num_steps: int


class Course(NamedTuple):
  """One arm under one seed and one order: its stages, centre by centre."""

  arm: str
  seed: int
  order: tuple[int, ...]
  stages: tuple[Stage, ...]


class Bench:
  """What all trainings of a study share: data, network, loss, compiled prediction."""

  def __init__(self, config: Config, study: Study, directory: train.RunDirectory):
    self.config, self.study, self.directory = config, study, directory
    self._steps: dict[int, Step] = {}
    self.module = ResidualUNet(widths=config.widths, dropout=config.dropout)
    self.model: Model = nets.from_linen(self.module)
    coupled = config.couple_batch

    def logits(params: Params, example: Any, key: Key, *, train: bool = True) -> jax.Array:
      x = example["image"] if isinstance(example, dict) else example
      return self.model.apply(params, x, key=key, train=train)[0][..., 0]

    def label_loss(output: jax.Array, example: Any) -> jax.Array:
      prediction = normalised_relu(output, couple_batch=coupled)
      return soft_overlap_loss(prediction, example["label"], couple_batch=coupled)

    def loss_fn(params: Params, example: Any, key: Key) -> jax.Array:
      return label_loss(logits(params, example, key), example)

    self.logits, self.loss_fn = logits, loss_fn
    self.taught_loss = held_to_teacher(logits, label_loss)
    key = jax.random.key(0)
    self.outputs = jax.jit(
      jax.vmap(lambda params, x: logits(params, x, key, train=False), (None, 0))
    )
    self.predict = jax.jit(
      jax.vmap(lambda params, x: normalised_relu(logits(params, x, key, train=False)), (None, 0))
    )
    self.features = jax.jit(jax.vmap(self._features, (None, 0)))
    self.sketches = jax.jit(sketched(loss_fn, size=256))
    self.fisher = jax.jit(functools.partial(fisher_anchor, loss_fn))

  def _features(self, params: Params, image: jax.Array) -> jax.Array:
    """Mean over space of what the encoder hands down, of one patch."""
    shared = (self.module.widths, None, self.module.convolution, image.ndim == 4)
    x, _ = Encoder(*shared, dropout=0.0).apply({"params": params["encoder"]}, image[None], False)
    return x.mean(tuple(range(x.ndim - 1)))

  def first_params(self, seed: int, stage: int = 0) -> Params:
    key = jax.random.fold_in(rng.stream(jax.random.key(seed), "parameters"), stage)
    return self.model.init(key, jnp.zeros((*self.config.patch, self.study.image.shape[-1])))[0]

  def steps_of(self, num_volumes: int, num_centres: int = 1) -> int:
    config = self.config
    if config.num_epochs > 0:
      return max(round(config.num_epochs * -(-num_volumes // config.batch_size)), 1)
    return config.num_steps * num_centres

  def optimiser(self, num_steps: int) -> optax.GradientTransformation:
    third = max(num_steps // 3, 1)
    rate = optax.piecewise_constant_schedule(
      self.config.learning_rate, {third: 0.5, 2 * third: 0.5}
    )
    return optax.adamw(rate, weight_decay=self.config.weight_decay)

  def supervised(self, num_steps: int) -> Step:
    """One Step for all trainings of one length."""
    if num_steps not in self._steps:
      self._steps[num_steps] = methods.supervised(self.loss_fn, self.optimiser(num_steps))
    return self._steps[num_steps]

  def patches(
    self,
    drawn: Stream,
    seed: int,
    name: str,
    stored: tuple[Any, np.ndarray] | None = None,
    *,
    per_volume: int | None = None,
  ) -> Stream:
    config = self.config
    return cut_patches(
      self.study.pool,
      drawn,
      config.patch,
      seed,
      per_volume=config.patches_per_volume if per_volume is None else per_volume,
      foreground_fraction=config.foreground_fraction,
      standardise=config.standardise_patches,
      turn=0.1 if config.patch[0] == config.patch[1] else 0.0,
      stored=stored,
      name=name,
    )

  def evaluators(
    self, split: dict[str, Any], num_steps: int, validation: Sequence[int]
  ) -> dict[str, Evaluator]:
    """Dice of every test person at the last step; the loss on validation volumes before."""

    def test(state: TrainState) -> dict[str, float]:
      if int(state.step) < num_steps:
        return {}
      return {
        f"{centre}|{place}|{metric}": value
        for centre, parts in split.items()
        for place, row in enumerate(parts["test"])
        for metric, value in self.score(state.params, row).items()
      }

    found: dict[str, Evaluator] = {"test": test}
    if validation:

      def validate(state: TrainState) -> dict[str, float]:
        soft = [self.score(state.params, row)["soft_dice"] for row in validation]
        return {"soft_dice": float(np.mean(soft))}

      found["validation"] = validate
    return found

  def predicted(self, params: Params, row: int) -> np.ndarray:
    """[*space] soft prediction of one volume."""
    return self._slide(self.predict, params, row)

  def stored_output(self, params: Params, row: int) -> np.ndarray:
    """[*space] logits of one volume in half precision, which DER++ keeps."""
    return self._slide(self.outputs, params, row).astype(np.float16)

  def _slide(self, network: Callable[..., jax.Array], params: Params, row: int) -> np.ndarray:
    config, image = self.config, self.study.image[row]
    patch = config.window or image.shape[:-1]
    found = window.slide(
      lambda batch: network(params, batch)[..., None],
      image,
      patch,
      overlap=config.overlap,
      batch_size=1 if patch == image.shape[:-1] else 4,
    )
    return found[..., 0]

  def score(self, params: Params, row: int) -> dict[str, float]:
    return scores_of(self.predicted(params, row), self.study.label[row])


class _Job(NamedTuple):
  """A training that is asked for."""

  name: str
  seed: int
  step: Step
  stream: Stream
  params: Params
  num_steps: int
  split: dict[str, Any]
  validation: tuple[int, ...]


def train_jobs(bench: Bench, jobs: Sequence[_Job]) -> list[Stage]:
  """Trains them, those of one Step and length along the run axis."""
  config, stages = bench.config, {}
  groups: dict[Any, list[_Job]] = {}
  for job in jobs:
    is_checked = config.carry == "best" and len(job.validation) > 0
    groups.setdefault((id(job.step), job.num_steps, is_checked), []).append(job)
  for (_, num_steps, is_checked), group in groups.items():
    fits = train.fit_many(
      group[0].step,
      [job.stream for job in group],
      [job.params for job in group],
      [rng.stream(jax.random.key(job.seed), "training") for job in group],
      num_steps=num_steps,
      mode=config.mode,
      names=[job.name for job in group],
      evaluators=[bench.evaluators(job.split, num_steps, job.validation) for job in group],
      workdir=bench.directory.path,
      writers=bench.directory.writers,
      log_every=config.log_every,
      eval_every=max(num_steps // 10, 1) if is_checked else None,
      keep_best="validation/soft_dice" if is_checked else None,
      progress=False,
    )
    for job, fit in zip(group, fits, strict=True):
      params = fit.state.params
      carried = fit.best.state.params if fit.best is not None else params
      scores = _scores(fit.history[-1])
      stages[job.name] = Stage(job.name, params, carried, scores, fit.timing, num_steps)
      mean = np.mean([s["dice"].mean() for s in scores.values()])
      print(f"{job.name}: {num_steps} steps, Dice {mean:.3f} over all centres", flush=True)
  return [stages[job.name] for job in jobs]


def _scores(row: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
  found: dict[str, dict[str, list[float]]] = {}
  for name, value in row.items():
    if name.startswith("test/"):
      centre, _, metric = name.removeprefix("test/").split("|")
      found.setdefault(centre, {}).setdefault(metric, []).append(value)
  return {c: {m: np.asarray(v) for m, v in metrics.items()} for c, metrics in found.items()}


@dataclasses.dataclass
class _Past:
  """What one course keeps of earlier centres, according to its arm."""

  memory: memories.Memory
  reservoir: memories.Reservoir
  order: tuple[str, ...] = ()
  anchor: Anchor | None = None
  teacher: Params = None
  outputs: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)


def courses(
  bench: Bench, arm: Arm, runs: Sequence[tuple[int, tuple[int, ...]]], singles: dict[Any, Stage]
) -> list[Course]:
  """One arm through all centres, for every (seed, order); resumable at any of them.

  Args:
    bench, arm: what to train.
    runs: seed and order of each course.
    singles: trainings at one centre alone by (seed, centre), which are the first stages of all
      arms; those that are missing are trained and added.
  """
  study, config = bench.study, bench.config
  splits = {seed: hospitals.split(study, seed) for seed, _ in runs}
  is_private = arm == "replay-private"  # its first centre is trained privately too
  if not is_private:
    single_domain(bench, [(seed, order[0]) for seed, order in runs], singles)
  pasts = [
    _Past(
      memories.Memory(config.memory),
      memories.Reservoir(config.memory * (len(study.centres) - 1), seed),
    )
    for seed, _ in runs
  ]
  stages = [[] if is_private else [singles[seed, order[0]]] for seed, order in runs]
  for k in range(0 if is_private else 1, len(study.centres)):
    jobs = []
    for (seed, order), past, done in zip(runs, pasts, stages, strict=True):
      if k > 0:
        _remember(bench, arm, past, done[-1], study.centres[order[k - 1]], splits[seed], seed)
      if is_private:
        jobs.append(_private_job(bench, past, done, splits[seed], seed, order, k))
      else:
        jobs.append(_job(bench, arm, past, done[-1], splits[seed], seed, order, k))
    for done, stage in zip(stages, train_jobs(bench, jobs), strict=True):
      done[-1:] = [one._replace(params=None, carried=None) for one in done[-1:]]
      done.append(stage)
  return [
    Course(arm, seed, order, tuple(done)) for (seed, order), done in zip(runs, stages, strict=True)
  ]


def single_domain(bench: Bench, wanted: Sequence[tuple[int, int]], known: dict[Any, Stage]) -> None:
  """Trains (seed, centre) from first weights on that centre alone, unless `known` has it."""
  jobs = []
  missing = [pair for pair in dict.fromkeys(wanted) if pair not in known]
  for seed, c in missing:
    split, centre = hospitals.split(bench.study, seed), bench.study.centres[c]
    jobs.append(
      _plain_job(
        bench, f"{SINGLE}-{centre}-{seed}", seed, split, (centre,), bench.first_params(seed)
      )
    )
  known |= dict(zip(missing, train_jobs(bench, jobs), strict=True))


def multi_domain(bench: Bench, seeds: Sequence[int]) -> list[Stage]:
  """All centres at once, with as many steps as they have together."""
  jobs = []
  for seed in seeds:
    split = hospitals.split(bench.study, seed)
    name = f"{MULTI}-{seed}"
    first = bench.first_params(seed)
    jobs.append(_plain_job(bench, name, seed, split, bench.study.centres, first))
  return train_jobs(bench, jobs)


def untrained(bench: Bench, seed: int) -> np.ndarray:
  """[centre] mean Dice of first weights."""
  params, split = bench.first_params(seed), hospitals.split(bench.study, seed)
  return np.array(
    [
      np.mean([bench.score(params, row)["dice"] for row in split[centre]["test"]])
      for centre in bench.study.centres
    ]
  )


def _plain_job(
  bench: Bench,
  name: str,
  seed: int,
  split: dict[str, Any],
  centres: Sequence[str],
  params: Params,
) -> _Job:
  rows, validation = _part(bench, [i for c in centres for i in split[c]["train"]], seed, name)
  num_steps = bench.steps_of(len(rows), len(centres))
  drawn = replayed(rows, (), bench.config.batch_size, seed, name=name)
  step = bench.supervised(num_steps)
  stream = bench.patches(drawn, seed, name)
  return _Job(name, seed, step, stream, params, num_steps, split, validation)


def _job(
  bench: Bench,
  arm: Arm,
  past: _Past,
  before: Stage,
  split: dict[str, Any],
  seed: int,
  order: tuple[int, ...],
  k: int,
) -> _Job:
  """The training at the k-th centre of a course."""
  config, centre = bench.config, bench.study.centres[order[k]]
  name = _name(arm, seed, order, k, centre)
  remembered = _buffer(bench, arm, past, split, seed, k)
  current = [i for i in split[centre]["train"]]
  pool, validation = _part(bench, [*current, *remembered], seed, name)
  inside = set(pool)
  current = [i for i in current if i in inside]
  remembered = [i for i in remembered if i in inside]
  num_steps = bench.steps_of(len(current) + (len(remembered) if arm != "a-gem" else 0))
  form = "weighted" if arm in ("replay-weighted", "replay-synthetic", "der++") else "pooled"
  # The centre's own draws are named after the seed and the centre: arms share them where they can.
  label = f"{centre} {k}"
  size = config.batch_size
  both = arm not in ("fine-tuning", "ewc", "lwf", "a-gem")
  drawn = replayed(current, remembered if both else (), size, seed, form=form, name=label)
  stored = _stored(bench, past) if arm == "der++" else None
  params = before.carried
  if config.transfer == "encoder":
    params = {**bench.first_params(seed, k), "encoder": params["encoder"]}
  stream = _with_stored(bench, drawn, seed, label, stored)
  if arm == "a-gem":
    others = bench.patches(
      replayed(remembered, (), size, seed, name=f"{label} memory"), seed, f"{label} memory"
    )
    stream = data.zip_streams(current=stream, memory=others)
    step = agem(bench.loss_fn, bench.optimiser(num_steps))
  elif arm == "lwf":
    teacher = past.teacher
    stream = with_teacher(
      stream, lambda batch: bench.outputs(teacher, batch["image"]), config.lwf_strength
    )
    step = methods.supervised(bench.taught_loss, bench.optimiser(num_steps))
  elif arm == "der++":
    step = methods.supervised(bench.taught_loss, bench.optimiser(num_steps))
  elif arm == "ewc":
    tx = bench.optimiser(num_steps)
    step = ewc(bench.loss_fn, tx, past.anchor, strength=config.ewc_strength)
  else:
    step = bench.supervised(num_steps)
  return _Job(name, seed, step, stream, params, num_steps, split, validation)


def _private_job(
  bench: Bench,
  past: _Past,
  done: Sequence[Stage],
  split: dict[str, Any],
  seed: int,
  order: tuple[int, ...],
  k: int,
) -> _Job:
  """The same with privacy for the people of the centre and of the memory."""
  config, centre = bench.config, bench.study.centres[order[k]]
  name = _name("replay-private", seed, order, k, centre)
  params = bench.first_params(seed)
  if done and config.transfer == "encoder":
    params = {**bench.first_params(seed, k), "encoder": done[-1].params["encoder"]}
  elif done:
    params = done[-1].params
  rows = [*split[centre]["train"], *past.memory.indices]
  num_steps = bench.steps_of(len(rows))
  made = private.training(
    bench.study,
    bench.loss_fn,
    bench.optimiser(num_steps),
    rows,
    int(generator(seed, name).integers(2**31)),
    patch=config.patch,
    num_steps=num_steps,
    expected_batch_size=config.batch_size,
    epsilon=config.private_epsilon,
    delta=config.private_delta,
    max_norm=config.private_norm,
  )
  return _Job(name, seed, made.step, made.stream, params, num_steps, split, ())


def _name(arm: str, seed: int, order: tuple[int, ...], k: int, centre: str) -> str:
  return f"{arm}-{seed}-{'.'.join(str(c) for c in order)}-{k}-{centre}"


def _with_stored(
  bench: Bench, drawn: Stream, seed: int, name: str, stored: tuple[Any, np.ndarray] | None
) -> Stream:
  """Patches; with stored outputs also DER++'s weights."""
  if stored is None:
    return bench.patches(drawn, seed, name)
  config = bench.config
  stream = bench.patches(drawn, seed, name, stored)

  def weighted(step: int) -> dict[str, Any]:
    batch = stream(step)
    old = batch["remembered"]
    return {
      **batch,
      "label_weight": np.where(old, np.float32(config.der_beta), np.float32(1)),
      "teacher_weight": np.where(old, np.float32(config.der_alpha), np.float32(0)),
    }

  return weighted


def _stored(bench: Bench, past: _Past) -> tuple[Any, np.ndarray]:
  """Outputs of the remembered volumes, and where each volume's lie."""
  slots = np.zeros(len(bench.study.subjects), np.int64)
  for slot, row in enumerate(past.outputs):
    slots[row] = slot
  return jnp.asarray(np.stack(list(past.outputs.values()))), slots


def _part(
  bench: Bench, rows: Sequence[int], seed: int, name: str
) -> tuple[list[int], tuple[int, ...]]:
  """Volumes to train on and, at the end of a shuffled list, those to choose the best weights by.

  As in the released code the memory's volumes are in the list too; a small pool keeps two to train.
  """
  num = min(bench.config.num_validation, len(rows) - 2)
  if num <= 0:
    return list(rows), ()
  order = generator(seed, f"{name} validation").permutation(len(rows))
  shuffled = [rows[i] for i in order]
  return shuffled[:-num], tuple(shuffled[-num:])


def _buffer(
  bench: Bench, arm: Arm, past: _Past, split: dict[str, Any], seed: int, k: int
) -> list[int]:
  if arm in ("fine-tuning", "ewc", "lwf"):
    return []
  if arm == "replay-synthetic":
    return list(bench.study.synthetic)
  if arm == "replay-redrawn":
    cases = {c: split[c]["train"] for c in past.order}
    return list(memories.redrawn(cases, bench.config.memory, seed, k))
  if arm == "replay-reservoir":
    return list(past.reservoir.items)
  return list(past.memory.indices)


def _remember(
  bench: Bench,
  arm: Arm,
  past: _Past,
  stage: Stage,
  centre: str,
  split: dict[str, Any],
  seed: int,
) -> None:
  """Keeps of a centre that is over what the arm needs of it."""
  config, rows = bench.config, split[centre]["train"]
  past.order = (*past.order, centre)
  if arm == "replay-reservoir":
    past.reservoir = past.reservoir.offer(rows)
  elif arm == "lwf":
    past.teacher = stage.params
  elif arm == "ewc":
    found = [
      bench.fisher(stage.params, probes, jax.random.key(seed))
      for probes in _probes(bench, rows, seed, centre)
    ]
    mean = jax.tree.map(lambda *f: sum(f) / len(f), *(one.fisher for one in found))
    past.anchor = merged_anchors(past.anchor, Anchor(stage.params, mean))
  elif arm not in ("fine-tuning", "replay-redrawn", "replay-synthetic"):
    places = memories.random(len(rows), config.memory, seed, name=centre)
    if arm == "replay-herding":
      features = [
        np.asarray(bench.features(stage.params, probes["image"])).mean(0)
        for probes in _probes(bench, rows, seed, centre)
      ]
      places = memories.herding(np.stack(features), config.memory)
    elif arm == "replay-diverse":
      keys = jax.random.key(seed), jax.random.key(0)
      sketches = [
        np.asarray(bench.sketches(stage.params, probes, *keys)).mean(0)
        for probes in _probes(bench, rows, seed, centre)
      ]
      places = memories.diverse(np.stack(sketches), config.memory)
    kept = [rows[i] for i in places]
    past.memory = past.memory.store(centre, kept)
    if arm == "der++":
      past.outputs |= {row: bench.stored_output(stage.params, row) for row in kept}


def _probes(bench: Bench, rows: Sequence[int], seed: int, name: str) -> Iterator[dict[str, Any]]:
  """`_PROBES` patches of each case, one case after the other."""

  def drawn(step: int) -> Drawn:
    chosen = np.full(_PROBES, rows[step], np.int32)
    return Drawn(chosen, np.ones(_PROBES, np.float32), np.zeros(_PROBES, bool))

  stream = bench.patches(drawn, seed, f"{name} probes", per_volume=1)
  for step in range(len(rows)):
    batch = stream(step)
    yield {k: batch[k] for k in ("image", "label", "index", "weight")}


def scores_of(prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
  """Dice of both above one half, 1 where both are empty; and of the soft values."""
  ours, theirs = prediction > 0.5, label > 0.5
  total, soft = ours.sum() + theirs.sum(), prediction.sum() + label.sum()
  return {
    "dice": float(2 * (ours & theirs).sum() / total) if total else 1.0,
    "soft_dice": float(2 * (prediction * label).sum() / soft) if soft else 1.0,
  }


def orders_of(config: Config, num_centres: int, seed: int) -> list[tuple[int, ...]]:
  """The data's own order, then shuffled ones, all different where there are enough."""
  orders = [tuple(range(num_centres))]
  attempt = 0
  while len(orders) < config.num_orders and attempt < 1000:
    order = tuple(
      int(i) for i in generator(seed, "order of centres", attempt).permutation(num_centres)
    )
    attempt += 1
    if order not in orders:
      orders.append(order)
  check.require(
    len(orders) == config.num_orders,
    f"at most {len(orders)} orders of {num_centres} centres",
    f"{config.num_orders}",
    "ask for fewer",
  )
  return orders


def runs_of(config: Config) -> list[tuple[int, int]]:
  """(seed, order) pairs, counted from 0, that every arm is trained with."""
  pairs = [(s, 0) for s in range(config.num_seeds)] + [(0, o) for o in range(1, config.num_orders)]
  if config.crossed:
    pairs = [(s, o) for s in range(config.num_seeds) for o in range(config.num_orders)]
  return pairs
