"""Arms of the gradient-alignment study: one network under one filter, one plan and one seed."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.private_alignment import pictures
from experiments.private_alignment.pictures import Pictures
from medjax import check, data, losses, methods, nets, privacy, rng, train
from medjax.nets.resnet import mish
from medjax.privacy.alignment import Filter, Measure
from medjax.types import Batch, Key, Model

Table = Literal["published", "private"]
Arm = Literal[
  "dp-sgd",
  "cosine",
  "magnitude",
  "std",
  "cov",
  "public",
  "public-soft",
  "public-magnitude",
  "public-std",
  "public-cov",
  "fresh",
  "repaired",
]
_TUNING = 1_000  # added to the seed: no tuning run is a run that counts


@dataclasses.dataclass(frozen=True)
class Config:
  """Two tables: published filters without privacy, private filters at one epsilon.

  Attributes:
    source: simulated radiographs; a MedMNIST-style npz; the chest radiographs of Kermany et al.;
      {train,val,test}/CLASS/ folders of pictures.
    size: side in pixels of simulated pictures and of those in folders.
    num_classes: of Kermany's set, 2 (normal, pneumonia) or 3 (normal, bacteria, virus).
    num_simulated: simulated pictures, a fifth each to validate and to test.
    validation_fraction: share of the people of train set aside to choose learning rates, where the
      data have no validation part.
    near_duplicates: similarity from which a picture that looks like one of a later part is left
      out; 0 does not look (memory grows with the square of the number of pictures).
    network: "cnn", convolutions of stride 2, or "resnet9".
    widths: channels of its convolutions, or of its four blocks.
    num_groups: of every group normalisation.
    published: arms of the first table, at equal noise and steps, epsilon infinite; () skips it.
    private: arms of the second table, at equal epsilon; () skips it.
    num_seeds: seeds, each with its own initial weights, samples and noise.
    num_epochs: expected passes over the training pictures.
    expected_batch_size: L, mean number of units a sample.
    chunk: units a compiled piece of an update.
    max_group_size: pictures of a person in a sample, drawn anew each time, where people have
      several; a person's gradient is the mean over them.
    max_norm: C, clipping norm.
    noise_multiplier: sigma of the first table.
    target_epsilon: of the second table; every arm's noise is calibrated to it.
    delta: of the second table.
    accountant: of its calibration: "pld", or "rdp" as in the paper, which asks for more noise.
    learning_rates: rates tried for every arm alike, one training each; the best validation AUROC
      wins. A single one is taken without trial.
    momentum: of gradient descent.
    threshold: psi of the published filters and of "repaired".
    dropped: gamma, the share of coordinates left out where a measure chooses.
    released_threshold: psi of "public" and "fresh": cosines to a reference with noise are small.
    softness: of "public-soft": pictures count by sigmoid((cosine - psi) / softness).
    decay: of the moving averages of "public".
    share: of the budget (1 / sigma^2) that "fresh" and "repaired" spend on their first release.
    half_range: lambda of "repaired".
    margin: that a difference of accuracy or AUROC has to exceed to be called one.
    secrets: keys of sampling and noise: "os" from the operating system; "seed" from the seed,
      which can be repeated and is not private once the seed is known.
    log_every: steps between two log rows.
    checkpoint_every: steps between two checkpoints.
  """

  source: pictures.Kind = "procedural"
  size: int = 28
  num_classes: Literal[2, 3] = 2
  num_simulated: int = 5000
  validation_fraction: float = 0.1
  near_duplicates: float = 0.55
  network: Literal["cnn", "resnet9"] = "cnn"
  widths: tuple[int, ...] = (16, 32, 32)
  num_groups: int = 8
  published: tuple[Arm, ...] = ("dp-sgd", "cosine", "magnitude", "std", "cov", "public")
  private: tuple[Arm, ...] = (
    "dp-sgd", "public", "public-soft", "public-magnitude", "public-cov", "fresh", "repaired"
  )  # fmt: skip
  num_seeds: int = 3
  num_epochs: float = 20.0
  expected_batch_size: int = 64
  chunk: int = 32
  max_group_size: int = 4
  max_norm: float = 1.0
  noise_multiplier: float = 0.593
  target_epsilon: float = 8.0
  delta: float = 1e-5
  accountant: Literal["pld", "rdp"] = "pld"
  learning_rates: tuple[float, ...] = (0.05, 0.2, 0.5)
  momentum: float = 0.1
  threshold: float = 0.0
  dropped: float = 0.5
  released_threshold: float = 0.0
  softness: float = 0.05
  decay: float = 0.99
  share: float = 0.5
  half_range: float = 0.5
  margin: float = 0.01
  secrets: Literal["os", "seed"] = "os"
  log_every: int = 50
  checkpoint_every: int = 500

  def __post_init__(self):
    counts = ("num_seeds", "expected_batch_size", "chunk", "log_every", "checkpoint_every", "size")
    for name in (*counts, "num_epochs", "noise_multiplier", "target_epsilon", "max_norm"):
      check.positive(name, getattr(self, name))
    check.require(self.learning_rates, "a learning rate", "none", "pass --learning_rates 0.3")
    check.require(self.published or self.private, "an arm", "none", "pass --private dp-sgd public")
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


class Cost(NamedTuple):
  """What an arm's plan says; epsilons are infinite in the first table.

  Attributes:
    noise_multipliers: one a release of a sample.
    epsilon: by privacy loss distributions.
    epsilon_rdp: by Renyi divergences, as the paper accounted.
    statement: of the plan.
  """

  noise_multipliers: tuple[float, ...]
  epsilon: float
  epsilon_rdp: float
  statement: str


class Trained(NamedTuple):
  """One training.

  Attributes:
    name: names its checkpoints and rows.
    rate: learning rate.
    cost: of its plan.
    logits: {"validation", "test"} -> [n, class].
    fit: rows and times.
    sweeps: passes over each sample.
  """

  name: str
  rate: float
  cost: Cost
  logits: dict[str, np.ndarray]
  fit: train.Fit
  sweeps: int


class SmallCNN(nn.Module):
  """3 x 3 convolutions of stride 2, with Mish and GroupNorm, and a dense layer."""

  num_outputs: int
  widths: tuple[int, ...]
  num_groups: int

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = image[None]
    for width in self.widths:
      x = mish(nn.Conv(width, (3, 3), strides=(2, 2))(x))
      x = nn.GroupNorm(num_groups=min(self.num_groups, width))(x)
    return nn.Dense(self.num_outputs)(x.reshape(-1))


def network(config: Config, num_outputs: int) -> Model:
  if config.network == "cnn":
    return nets.from_linen(SmallCNN(num_outputs, config.widths, config.num_groups))
  first, second, third, fourth = config.widths
  widths = (first, second, third, fourth)
  return nets.from_linen(nets.ResNet9(num_outputs, widths, num_groups=config.num_groups))


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


FILTERS: dict[Arm, Callable[[Config], Filter]] = {
  "dp-sgd": lambda config: privacy.no_filter(),
  "cosine": _published(None),
  "magnitude": _published("magnitude"),
  "std": _published("std"),
  "cov": _published("cov"),
  "public": _public(None),
  "public-soft": _public(None, is_soft=True),
  "public-magnitude": _public("magnitude"),
  "public-std": _public("std"),
  "public-cov": _public("cov"),
  "fresh": lambda config: privacy.fresh_reference(threshold=config.released_threshold),
  "repaired": lambda config: privacy.repaired(
    threshold=config.threshold, half_range=config.half_range
  ),
}


def plan_of(
  config: Config, store: Batch, table: Table, arm: Arm, vault: privacy.Vault | None = None
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
  if FILTERS[arm](config).releases == 1:
    return calibrated
  sigma, share = calibrated.effective_multiplier, config.share
  return plan(noise_multipliers=(sigma / share**0.5, sigma / (1 - share) ** 0.5), vault=vault)


def fit(
  config: Config,
  pictures: Pictures,
  table: Table,
  arm: Arm,
  rate: float,
  seed: int,
  directory: train.RunDirectory,
  *,
  is_trial: bool = False,
) -> Trained:
  """Trains one network, resumable; arms share initial weights, with secrets="seed" also samples."""
  assert directory.private is not None
  seed += _TUNING if is_trial else 0
  name = f"{table}-{arm}-{f'rate{rate:g}-' if is_trial else ''}{seed}"
  store = pictures.parts["train"]
  with contextlib.ExitStack() as stack:
    vault = privacy.Vault.from_seed(seed)
    if config.secrets == "os":
      vault = privacy.Vault.open(directory.private / "secrets" / name)
      stack.callback(vault.close)
    plan = plan_of(config, store, table, arm, vault)
    model = network(config, len(pictures.class_names))
    key = jax.random.key(seed)
    params, _ = model.init(rng.stream(key, "parameters"), store.image[0])

    def loss_fn(params: Any, example: Batch, key: Key) -> jax.Array:
      del key
      return losses.cross_entropy(model.apply(params, example.image)[0], example.label)

    tx = optax.sgd(rate, momentum=config.momentum)
    step = methods.private(loss_fn, tx, plan, filter=FILTERS[arm](config))
    fitted = train.fit(
      step,
      plan.stream(store, chunk=config.chunk),
      params,
      rng.stream(key, "training"),
      num_steps=plan.num_steps,
      workdir=directory.path,
      writers=directory.writers,
      name=name,
      log_every=config.log_every,
      checkpoint_every=config.checkpoint_every,
    )
  parts = {part: pictures.parts[part] for part in ("validation", "test")}
  logits = {part: predict(model, fitted.state.params, batch) for part, batch in parts.items()}
  assert step.chunked is not None
  return Trained(name, rate, _cost(plan), logits, fitted, len(step.chunked.sweeps))


def predict(model: Model, params: Any, store: Batch) -> np.ndarray:
  """[n, class] logits."""
  apply = jax.jit(jax.vmap(lambda params, image: model.apply(params, image)[0], (None, 0)))
  rows = [apply(params, batch.image) for batch in data.sequential(store, 256)]
  return np.concatenate(rows)[: len(store.weight)]


def _cost(plan: privacy.DPPlan) -> Cost:
  return Cost(
    plan.multipliers,
    float(plan.epsilon("pld")),
    float(plan.epsilon("rdp")),
    plan.statement(),
  )
