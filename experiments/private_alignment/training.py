"""Arms of the gradient-alignment study: one network under one filter, one plan and one seed."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np
import optax

from experiments.private_alignment.pictures import DataConfig, Pictures
from medjax import check, losses, methods, nets, privacy, rng, study, train
from medjax.privacy.alignment import Filter, Measure
from medjax.types import Batch, Key, Params

Table = Literal["published", "private"]
_TUNING = 1_000  # added to the seed: no tuning run is a run that counts


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
  """Two tables: published filters without privacy, private filters at one epsilon."""

  network: Literal["cnn", "resnet9"] = "cnn"  # "cnn": convolutions of stride 2
  widths: tuple[int, ...] = (16, 32, 32)  # channels of its convolutions, or of its four blocks
  num_groups: int = 8  # of every group normalisation
  # arms of the first table, at equal noise and steps, epsilon infinite; () skips it
  published: tuple[str, ...] = ("dp-sgd", "cosine", "magnitude", "std", "cov", "public")
  # arms of the second table, at equal epsilon; () skips it
  private: tuple[str, ...] = (
    "dp-sgd", "public", "public-soft", "public-magnitude", "public-cov", "fresh", "repaired"
  )  # fmt: skip
  num_seeds: int = 3  # seeds, each with its own initial weights, samples and noise
  num_epochs: float = 20.0  # expected passes over the training pictures
  expected_batch_size: int = 64  # L, mean number of units a sample
  chunk: int = 32  # units a compiled piece of an update
  # pictures of a person in a sample, drawn anew each time, where people have several; a person's
  # gradient is the mean over them
  max_group_size: int = 4
  max_norm: float = 1.0  # C, clipping norm
  noise_multiplier: float = 0.593  # sigma of the first table
  target_epsilon: float = 8.0  # of the second table; every arm's noise is calibrated to it
  delta: float = 1e-5  # of the second table
  # of its calibration: "pld", or "rdp" as in the paper, which asks for more noise
  accountant: Literal["pld", "rdp"] = "pld"
  # rates tried for every arm alike, one training each; the best validation AUROC wins. A single one
  # is taken without trial
  learning_rates: tuple[float, ...] = (0.05, 0.2, 0.5)
  momentum: float = 0.1  # of gradient descent
  threshold: float = 0.0  # psi of the published filters and of "repaired"
  dropped: float = 0.5  # gamma, the share of coordinates left out where a measure chooses
  # psi of "public" and "fresh": cosines to a reference with noise are small
  released_threshold: float = 0.0
  # of "public-soft": pictures count by sigmoid((cosine - psi) / softness)
  softness: float = 0.05
  decay: float = 0.99  # of the moving averages of "public"
  # of the budget (1 / sigma^2) that "fresh" and "repaired" spend on their first release
  share: float = 0.5
  half_range: float = 0.5  # lambda of "repaired"
  # keys of sampling and noise: "os" from the operating system; "seed" from the seed, which can be
  # repeated and is not private once the seed is known
  secrets: Literal["os", "seed"] = "os"
  log_every: int = 50  # steps between two log rows
  checkpoint_every: int = 500  # steps between two checkpoints

  def __post_init__(self):
    super().__post_init__()
    for name in ("chunk", "size", "noise_multiplier", "target_epsilon"):
      check.positive(name, getattr(self, name))
    check.require(self.learning_rates, "a learning rate", "none", "pass --learning_rates 0.3")
    study.chosen("arms", dict.fromkeys((*self.published, *self.private)), ARMS)
    check.require(
      0 < self.share < 1, "share in (0, 1)", f"{self.share}", "0.5 spends half on each release"
    )
    check.require(
      len(self.widths) == 4 if self.network == "resnet9" else self.widths,
      f"{'4 widths' if self.network == 'resnet9' else 'widths'} for {self.network}",
      f"{self.widths}",
      "pass for example --widths 16 32 32 64",
    )
    unknown = sorted(set(self.private) & set(_NOT_PRIVATE))
    check.require(
      not unknown, "private arms in --private", ", ".join(unknown), "list them in --published"
    )


_NOT_PRIVATE = ("cosine", "magnitude", "std", "cov")


class Run(NamedTuple):
  """One training.

  Attributes:
    trained: its name, weights, rows and times.
    rate: learning rate.
    plan: what it cost; of the first table, which is not private, an infinite epsilon.
    logits: {"validation", "test"} -> [n, class].
    sweeps: passes over each sample.
    flops: of an update on one chunk of a sample; NaN of trials, which no table compares.
  """

  trained: study.Trained
  rate: float
  plan: privacy.DPPlan
  logits: dict[str, np.ndarray]
  sweeps: int
  flops: float


class Task:
  """The data, and the network that all trainings share, so that prediction compiles once."""

  def __init__(self, config: Config, pictures: Pictures):
    num_outputs, groups = len(pictures.class_names), config.num_groups
    if config.network == "cnn":
      module = nets.SmallCNN(num_outputs, config.widths, groups)
    else:
      first, second, third, fourth = config.widths
      module = nets.ResNet9(num_outputs, (first, second, third, fourth), num_groups=groups)
    self.config, self.pictures, self.model = config, pictures, nets.from_linen(module)
    self.predict = study.ChunkedPredictor(self.logits, chunk=256)

  def logits(self, params: Params, image: jax.Array) -> jax.Array:
    return self.model.apply(params, image)[0]

  def loss_fn(self, params: Params, example: Batch, key: Key) -> jax.Array:
    del key
    return losses.cross_entropy(self.logits(params, example.image), example.label)


def _public(measure: Measure | None, *, is_soft: bool = False) -> Callable[[Config], Filter]:
  return lambda config: privacy.public_reference(
    threshold=config.released_threshold,
    decay=config.decay,
    measure=measure,
    dropped=config.dropped if measure else 0.0,
    softness=config.softness if is_soft else None,
  )


def _published(measure: Measure | None) -> Callable[[Config], Filter]:
  return lambda config: privacy.paper_nonprivate(
    threshold=config.threshold, measure=measure, dropped=config.dropped if measure else 0.0
  )


def _fresh(config: Config) -> Filter:
  return privacy.fresh_reference(threshold=config.released_threshold)


def _repaired(config: Config) -> Filter:
  return privacy.repaired(threshold=config.threshold, half_range=config.half_range)


ARMS = study.arms(
  study.Arm("dp-sgd", "no filter", lambda config: privacy.no_filter()),
  study.Arm("cosine", "Algorithm 1", _published(None)),
  study.Arm("magnitude", "Algorithm 2, mean of |g|", _published("magnitude")),
  study.Arm("std", "Algorithm 2, standard deviation", _published("std")),
  study.Arm("cov", "Algorithm 2, standard deviation / |mean|", _published("cov")),
  study.Arm("public", "cosine to the average of past releases", _public(None)),
  study.Arm("public-soft", "a sigmoid of that cosine", _public(None, is_soft=True)),
  study.Arm("public-magnitude", "cosine to it where it is largest", _public("magnitude")),
  study.Arm("public-std", "cosine to it where past releases vary most", _public("std")),
  study.Arm("public-cov", "cosine to it where they vary most for their mean", _public("cov")),
  study.Arm("fresh", "cosine to a first release of the sample", _fresh),
  study.Arm("repaired", "Algorithm 1 with the cosines released soundly", _repaired),
)


def plan_of(
  config: Config, store: Batch, table: Table, arm: str, vault: privacy.Vault | None = None
) -> privacy.DPPlan:
  """What is protected and at what cost: a person where several pictures are of one, else a picture.

  In the second table the noise is calibrated to the target; where a sample has two releases, they
  share sigma^-2 = sigma_1^-2 + sigma_2^-2, whose first part is `share`.
  """
  num_people = len(np.unique(store.subject))
  is_grouped = num_people < len(store.weight)
  plan = functools.partial(
    privacy.DPPlan,
    num_examples=num_people,
    expected_batch_size=config.expected_batch_size,
    num_steps=max(round(config.num_epochs * num_people / config.expected_batch_size), 1),
    delta=config.delta,
    max_norm=config.max_norm,
    unit="group" if is_grouped else "example",
    max_group_size=config.max_group_size if is_grouped else None,
    accountant=config.accountant,
  )
  if table == "published":
    return plan(noise_multiplier=config.noise_multiplier, diagnostics=True, vault=vault)
  calibrated = plan(target_epsilon=config.target_epsilon, vault=vault)
  if ARMS[arm].make(config).releases == 1:
    return calibrated
  sigma, share = calibrated.effective_multiplier, config.share
  return plan(noise_multipliers=(sigma / share**0.5, sigma / (1 - share) ** 0.5), vault=vault)


def fit(
  task: Task,
  table: Table,
  arm: str,
  rate: float,
  seed: int,
  directory: train.RunDirectory,
  *,
  is_trial: bool = False,
) -> Run:
  """Trains one network, resumable; arms share initial weights, with secrets="seed" also samples."""
  assert directory.private is not None
  config, parts = task.config, task.pictures.parts
  seed += _TUNING if is_trial else 0
  name = f"{table}-{arm}-{f'rate{rate:g}-' if is_trial else ''}{seed}"
  store, key = parts["train"], jax.random.key(seed)
  with contextlib.ExitStack() as stack:
    vault = privacy.Vault.from_seed(seed)
    if config.secrets == "os":
      vault = privacy.Vault.open(directory.private / "secrets" / name)
      stack.callback(vault.close)
    plan = plan_of(config, store, table, arm, vault)
    params, _ = task.model.init(rng.stream(key, "parameters"), store.image[0])
    tx = optax.sgd(rate, momentum=config.momentum)
    step = methods.private(task.loss_fn, tx, plan, filter=ARMS[arm].make(config))
    stream = plan.stream(store, chunk=config.chunk)
    one = study.train_job(
      study.Job(name, step, stream, params, rng.stream(key, "training"), plan.num_steps),
      directory,
      log_every=config.log_every,
      checkpoint_every=config.checkpoint_every,
    )
    flops = float("nan") if is_trial else study.flops(step, params, stream(0)[0])
  logits = {part: task.predict(one.params, parts[part].image) for part in ("validation", "test")}
  assert step.chunked is not None
  return Run(one, rate, plan, logits, len(step.chunked.sweeps), flops)
