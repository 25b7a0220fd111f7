"""Arms of the transfer study: how a network of one site goes on at another.

Every arm starts from the network of the last source step. One program an arm serves all runs of it,
pairs, sizes and seeds: weights and optimiser state are where a run starts, its batches are rows of
a pool on the device.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.site_transfer.drift import Drift
from experiments.site_transfer.hospitals import DataConfig, Pair, Setting
from medjax import check, data, losses, methods, nets, rng, train
from medjax.methods.spottune import blocks, routed, spottune
from medjax.nets.sum_unet import FIRST_LAYERS, SumUNet
from medjax.train import runs, weights
from medjax.types import Batch, Key, Model, Params, PyTree, Step, Stream, TrainState

Optimiser = Literal["adam", "sgd"]
Arm = Literal[
  "fine-tune",
  "first-layers",
  "l2-sp",
  "spottune",
  "mmtl",
  "octl",
  "octl-first",
  "octl-second",
  "octl-none",
  "momentum",
  "equal-rate",
  "octl-rebuilt",
]
BASELINES: tuple[Arm, ...] = ("fine-tune", "first-layers", "l2-sp", "spottune")
CONTROLS: tuple[Arm, ...] = (
  "octl-first", "octl-second", "octl-none", "momentum", "equal-rate", "octl-rebuilt"
)  # fmt: skip
ARMS: tuple[Arm, ...] = (*BASELINES, "mmtl", "octl", *CONTROLS)
ADAM_ONLY: tuple[Arm, ...] = ("octl-first", "octl-second")
_FROM_HISTORY: tuple[Arm, ...] = ("octl", "octl-first", "octl-second")
_WITH_DRIFT: tuple[Arm, ...] = ("fine-tune", "mmtl", "octl")
_B2 = 0.999
_POLICY_SHAPE = (32, 32)  # that SpotTune's policy sees


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
  """Sources, targets, and what is tried between them.

  Attributes:
    arms: of adaptation; "octl-first" and "octl-second" carry on one moment of Adam, "octl-none"
      none at OCTL's step sizes, "momentum" has OCTL's coefficient and nothing else of it,
      "equal-rate" is fine-tuning at OCTL's step sizes, "octl-rebuilt" has no saved moments.
    optimisers: trainings are repeated under each.
    target_sizes: people of the target that are trained on; below 1 that share of one's slices.
    num_seeds: seeds, each with its own initial weights and draws.
    network: "unet" or "sum_unet", the released one with GroupNorm.
    widths: channels of the U-Net's levels, the first of which is that of the released network.
    batch_size: slices an update.
    num_epochs: of adaptation, of steps_per_epoch updates each; rates drop to a tenth after three
      quarters of them.
    source_epochs: the same of source networks, oracles and rebuilt moments.
    steps_per_epoch: updates.
    adam_rate, sgd_rate: first learning rates, at the source and at the target.
    sgd_momentum: of the source and of fine-tuning, with Nesterov's correction.
    octl_count: Adam's step count at the start.
    octl_momentum: OCTL's b1 under Adam; the released code has .9.
    octl_sgd_momentum: OCTL's coefficient under SGD, without Nesterov's correction.
    mmtl_schedule: slots of the target in a batch: "paper", floor(epoch / num_epochs * B), or
      "released", min(epoch // 4 + 1, B).
    l2_alpha: of L2-SP.
    policy_rate: Adam's for SpotTune's policy.
    tuned_weight: of SpotTune's mean choice.
    source_weights: file with a network's weights (`train.save_weights`) that takes the place of
      the source training; "" trains. It holds no moments: OCTL then has to rebuild them.
    mode: of `fit_many`.
    threshold: Dice that the source's network must lose against the oracle for a pair to count.
    tolerance_mm: of the surface Dice.
    margin: of either Dice, that a difference has to exceed to be called one.
    log_every: steps between two log rows.
    checkpoint_every: steps between two checkpoints.
    known: what is known of these data, a sentence shown beside the scores.
  """

  arms: tuple[Arm, ...] = ARMS
  optimisers: tuple[Optimiser, ...] = ("adam", "sgd")
  target_sizes: tuple[float, ...] = (0.34, 1, 2, 4)
  num_seeds: int = 3
  network: Literal["unet", "sum_unet"] = "unet"
  widths: tuple[int, ...] = (8, 16, 32)
  batch_size: int = 16
  num_epochs: int = 60
  source_epochs: int = 60
  steps_per_epoch: int = 5
  adam_rate: float = 1e-3
  sgd_rate: float = 1e-2
  sgd_momentum: float = 0.9
  octl_count: int = 100
  octl_momentum: float = 0.99
  octl_sgd_momentum: float = 0.99
  mmtl_schedule: Literal["paper", "released"] = "paper"
  l2_alpha: float = 0.1
  policy_rate: float = 0.01
  tuned_weight: float = 0.005
  source_weights: str = ""
  mode: runs.Mode = "sequential"
  threshold: float = 0.02
  tolerance_mm: float = 1.0
  margin: float = 0.01
  log_every: int = 50
  checkpoint_every: int = 1000
  known: str = ""

  def __post_init__(self):
    super().__post_init__()
    counts = (
      "num_seeds",
      "batch_size",
      "num_epochs",
      "source_epochs",
      "steps_per_epoch",
      "log_every",
    )
    for name in (*counts, "checkpoint_every", "adam_rate", "sgd_rate", "policy_rate"):
      check.positive(name, getattr(self, name))
    for name in ("octl_count", "l2_alpha", "tuned_weight", "tolerance_mm", "margin"):
      check.non_negative(name, getattr(self, name))
    for name in ("sgd_momentum", "octl_momentum", "octl_sgd_momentum"):
      check.in_interval(name, getattr(self, name), 0.0, 0.9999)
    for name in ("arms", "optimisers", "target_sizes"):
      check.require(getattr(self, name), f"{name}, one or more", "none", "see --help")
    history = [arm for arm in self.arms if arm in _FROM_HISTORY]
    check.require(
      not (self.source_weights and history),
      f"a source training with the optimiser's state for {', '.join(history)}",
      "--source_weights, weights alone",
      "choose the arm octl-rebuilt, which rebuilds the moments by a pass over source data at rate 0"
      " (medjax.methods.remembering)",
    )

  @property
  def num_steps(self) -> int:
    """Of an adaptation."""
    return self.num_epochs * self.steps_per_epoch

  def arms_of(self, optimiser: Optimiser) -> tuple[Arm, ...]:
    return tuple(arm for arm in self.arms if optimiser == "adam" or arm not in ADAM_ONLY)


class Task(NamedTuple):
  """The network; two classes are one logit against 0, and cross-entropy is then the paper's BCE.

  Attributes:
    network: the Linen module.
    model: the same, with logits [height, width, class].
    num_classes: background included.
  """

  network: Any
  model: Model
  num_classes: int

  def loss_fn(self, params: Params, example: Batch, key: Key) -> jax.Array:
    del key
    return losses.cross_entropy(self.model.apply(params, example.image)[0], example.label)


class Run(NamedTuple):
  """One adaptation: which pair, how many people, which seed."""

  optimiser: Optimiser
  pair: Pair
  size: float
  seed: int

  def name(self, arm: str) -> str:
    pair = self.pair.name.replace(">", "_to_")
    return f"{self.optimiser}-{arm}-{pair}-{self.size:g}-{self.seed}"


class Trained(NamedTuple):
  """One network.

  Attributes:
    params: what `apply` takes; of SpotTune both copies and the policy.
    opt_state: at the last step.
    fit: rows and times.
    apply: `apply(params, image) -> logits`.
  """

  params: PyTree
  opt_state: PyTree
  fit: train.Fit | None
  apply: Callable[[PyTree, jax.Array], jax.Array]


@functools.lru_cache(maxsize=4)
def task_of(network: str, widths: tuple[int, ...], num_classes: int) -> Task:
  """One object for all trainings, so that prediction compiles once."""
  num_outputs = 1 if num_classes == 2 else num_classes
  if network == "sum_unet":
    module: Any = SumUNet(num_outputs=num_outputs, width=widths[0], norm="group")
  else:
    module = nets.UNet(num_outputs=num_outputs, widths=widths, norm="group")
  bare = nets.from_linen(module)

  def apply(params: Params, image: jax.Array, **options: Any) -> tuple[jax.Array, PyTree]:
    logits, state = bare.apply(params, image, **options)
    if num_outputs == 1:
      logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    return logits, state

  return Task(module, Model(bare.init, apply), num_classes)


def is_first_layer(task: Task, path: str) -> bool:
  """First convolution and first block, as the released code chose."""
  names = FIRST_LAYERS if isinstance(task.network, SumUNet) else ("encoder0/",)
  return path.startswith(names)


def rate_of(config: Config, optimiser: Optimiser, num_epochs: int) -> optax.Schedule:
  """Dropped to a tenth after three quarters: the paper's 45 of 60 epochs."""
  first = config.adam_rate if optimiser == "adam" else config.sgd_rate
  return optax.piecewise_constant_schedule(first, {_drop(config, num_epochs): 0.1})


def _drop(config: Config, num_epochs: int) -> int:
  return num_epochs * 3 // 4 * config.steps_per_epoch


def plain_tx(config: Config, optimiser: Optimiser, num_epochs: int) -> optax.GradientTransformation:
  """Of the source, of oracles and of fine-tuning; the rate starts anew at the target."""
  rate = rate_of(config, optimiser, num_epochs)
  if optimiser == "adam":
    return optax.adam(rate)
  return optax.sgd(rate, momentum=config.sgd_momentum, nesterov=True)


def octl_step_size(config: Config, optimiser: Optimiser, count: Any) -> Any:
  """OCTL's step for a stationary gradient of 1, `count` steps done, in units of the rate.

  Adam with both moments stationary: sqrt(1 - b2^(t+c)) / (1 - b1^(t+c)). SGD with coefficient m
  from a history with coefficient k: m^t / (1 - k) + (1 - m^t) / (1 - m).
  """
  t = count + 1
  if optimiser == "adam":
    late = t + config.octl_count
    return jnp.sqrt(1 - _B2**late) / (1 - config.octl_momentum**late)
  kept = config.octl_sgd_momentum**t
  old, new = 1 / (1 - config.sgd_momentum), 1 / (1 - config.octl_sgd_momentum)
  return kept * old + (1 - kept) * new


def tx_of(
  config: Config, optimiser: Optimiser, arm: Arm, donor: PyTree, task: Task
) -> optax.GradientTransformation:
  """The optimiser of an arm; only its `init` looks at the donor."""
  rate = rate_of(config, optimiser, config.num_epochs)
  plain = plain_tx(config, optimiser, config.num_epochs)
  step_size = functools.partial(octl_step_size, config, optimiser)
  if arm == "first-layers":
    return methods.only(plain, functools.partial(is_first_layer, task))
  if arm == "l2-sp":
    return optax.chain(methods.pull_to_start(config.l2_alpha), plain)
  if optimiser == "adam":
    b1, count = config.octl_momentum, config.octl_count
    carry = functools.partial(methods.continued_adam, b1=b1, b2=_B2, count=count)
    match arm:
      case "octl" | "octl-rebuilt" | "momentum":
        return optax.adam(rate, b1=b1, b2=_B2)
      case "octl-first":
        return carry(rate, donor, second=False)
      case "octl-second":
        return carry(rate, donor, first=False)
      case "octl-none":
        return carry(rate, donor, first=False, second=False)
      case "equal-rate":
        return optax.adam(lambda n: rate(n) * step_size(n))
    return plain
  m, k = config.octl_sgd_momentum, config.sgd_momentum
  match arm:
    case "octl" | "octl-rebuilt" | "momentum":
      return optax.sgd(rate, momentum=m)
    case "octl-none":  # without history a stationary gradient gives (1 - m^t) / (1 - m)
      own = lambda n: (1 - m ** (n + 1)) / (1 - m)  # noqa: E731
      return optax.sgd(lambda n: rate(n) * step_size(n) / own(n), momentum=m)
    case "equal-rate":  # Nesterov's steps 1 + k (1 - k^t) / (1 - k)
      own = lambda n: 1 + k * (1 - k ** (n + 1)) / (1 - k)  # noqa: E731
      return optax.sgd(lambda n: rate(n) * step_size(n) / own(n), momentum=k, nesterov=True)
  return plain


def opt_state_of(
  config: Config, arm: Arm, tx: optax.GradientTransformation, params: Params, donor: PyTree
) -> PyTree:
  """Where the optimiser of a run starts."""
  if arm in ("octl", "octl-rebuilt"):
    return methods.octl(donor, tx, params, count=config.octl_count)
  return tx.init(params)


def started(loss_fn: Any, tx: optax.GradientTransformation) -> Step:
  """`supervised` whose initial parameters come with their optimiser state, (params, opt_state)."""
  plain = methods.supervised(loss_fn, tx)

  def init(start: tuple[Params, PyTree], key: Key) -> TrainState:
    del key
    params, opt_state = start
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, {}, ())

  return dataclasses.replace(plain, init=init)


def policy_of(task: Task, params: Params) -> tuple[Model, Callable[..., jax.Array]]:
  """SpotTune's policy: a small residual network that sees the slice at 32 x 32 pixels."""
  network = nets.ResNet9(num_outputs=len(blocks(params)), widths=(4, 8, 16, 16), num_groups=4)
  model = nets.from_linen(network)

  def policy_fn(policy: Params, example: Batch) -> jax.Array:
    image = example.image
    return model.apply(
      policy, jax.image.resize(image, (*_POLICY_SHAPE, image.shape[-1]), "linear")
    )[0]

  return model, policy_fn


def rows_of(config: Config, run: Run, arm: str) -> Stream:
  """Rows of the pair's pool for every step.

  Raises:
    InputError: fewer target slices than a batch.
  """
  own = run.pair.target_rows(run.size, run.seed)
  check.require(
    len(own) >= config.batch_size,
    f"at least {config.batch_size} target slices for a batch",
    f"{len(own)} of {run.size:g} person(s) at {run.pair.name}",
    "lower --batch_size or raise --target_sizes",
  )
  key = rng.stream(jax.random.key(run.seed), f"rows {run.pair.name}")
  drawn = data.rows(len(own), config.batch_size, key, name="target")
  target: Stream = lambda step: own[drawn(step)].astype(np.int32)  # noqa: E731
  if arm != "mmtl":
    return target
  theirs = run.pair.source_rows
  others = data.rows(len(theirs), config.batch_size, key, name="source")
  source: Stream = lambda step: theirs[others(step)].astype(np.int32)  # noqa: E731
  released = data.mmtl_released(config.batch_size, config.steps_per_epoch)
  paper = data.mmtl_paper(config.batch_size, config.num_epochs, config.steps_per_epoch)
  return data.mix(source, target, paper if config.mmtl_schedule == "paper" else released)


class Study:
  """Trains what the study asks for, resumable; sources and oracles once for all who share them."""

  def __init__(self, config: Config, setting: Setting, directory: train.RunDirectory):
    self.config, self.setting, self._directory = config, setting, directory
    self.task = task_of(config.network, config.widths, len(setting.class_names))
    self._pool = jax.tree.map(jnp.asarray, setting.pool)
    self._sources: dict[tuple[str, Optimiser, int], Trained] = {}
    self._rebuilt: dict[tuple[str, Optimiser, int], PyTree] = {}

  def source(self, pair: Pair, optimiser: Optimiser, seed: int) -> Trained:
    """The network of the source sites at its last step."""
    sources = pair.name.partition(">")[0]
    if (sources, optimiser, seed) not in self._sources:
      if self.config.source_weights:
        held = weights.read_weights(self.config.source_weights).arrays
        params = weights.load_into(
          self._fresh(seed), held, strict=True, say=lambda text: None
        ).params
        trained = Trained(params, None, None, self._apply)
      else:
        trained = self._from_scratch(pair.source_rows, optimiser, seed, f"source-{sources}")
      self._sources[sources, optimiser, seed] = trained
    return self._sources[sources, optimiser, seed]

  def oracle(self, pair: Pair, optimiser: Optimiser, seed: int) -> Trained:
    """A network of all of the target's training people, from scratch."""
    name = f"oracle-{pair.name.replace('>', '_to_')}"
    return self._from_scratch(np.concatenate(pair.people), optimiser, seed, name)

  def adapt(self, arm: Arm, of: Sequence[Run]) -> list[Trained]:
    """All runs of an arm under one optimiser."""
    config, task, optimiser = self.config, self.task, of[0].optimiser
    sources = [self.source(run.pair, optimiser, run.seed) for run in of]
    donors = [self._donor(arm, run, own) for run, own in zip(of, sources, strict=True)]
    starts: list[Any] = []
    if arm == "spottune":
      step = self._spottune(optimiser, sources[0].params)
      starts = [own.params for own in sources]
    else:
      for run_donor, own in zip(donors, sources, strict=True):
        tx = tx_of(config, optimiser, arm, run_donor, task)
        starts.append((own.params, opt_state_of(config, arm, tx, own.params, run_donor)))
      step = started(task.loss_fn, tx_of(config, optimiser, arm, donors[0], task))
    evaluators: list[dict[str, Any]] = [{} for _ in of]
    if arm in _WITH_DRIFT:
      run = of[0]
      evaluators[0]["drift"] = Drift(
        task.network, sources[0].params, self.setting.pool, run.pair, run.size, run.seed
      )
    fits = train.fit_many(
      step,
      [data.pooled(self._pool, rows_of(config, run, arm)) for run in of],
      starts,
      [rng.stream(jax.random.key(run.seed), f"adapt {run.pair.name}") for run in of],
      num_steps=config.num_steps,
      mode=config.mode,
      names=[run.name(arm) for run in of],
      evaluators=evaluators,
      workdir=self._directory.path,
      writers=self._directory.writers,
      log_every=config.log_every,
      eval_every=max(config.num_steps // 10, 1),
      checkpoint_every=config.checkpoint_every,
      progress=False,
    )
    if arm != "spottune":
      return [Trained(fit.state.params, None, fit, self._apply) for fit in fits]
    return [Trained((fit.state.params, fit.state.extra), None, fit, self._routed) for fit in fits]

  def flops_of(self, arm: Arm, optimiser: Optimiser) -> float:
    """Of one update as XLA counts them before it optimises."""
    task, config = self.task, self.config
    params = self._fresh(0)
    batch = jax.tree.map(lambda x: x[: config.batch_size], self.setting.pool)
    plain = plain_tx(config, optimiser, config.num_epochs)
    if arm == "spottune":
      step = self._spottune(optimiser, params)
    else:
      tx = tx_of(config, optimiser, arm, plain.init(params), task)
      step = methods.supervised(task.loss_fn, tx)
    key = jax.random.key(0)
    state = jax.eval_shape(step.init, params, key)
    cost = jax.jit(step.update).lower(state, batch, key).cost_analysis()
    return float((cost or {}).get("flops", float("nan")))

  def _spottune(self, optimiser: Optimiser, params: Params) -> Step:
    config = self.config
    policy, policy_fn = policy_of(self.task, params)
    drop = {_drop(config, config.num_epochs): 0.1}
    rate = optax.piecewise_constant_schedule(config.policy_rate, drop)
    return spottune(
      self.task.loss_fn,
      plain_tx(config, optimiser, config.num_epochs),
      policy_fn,
      policy.init(jax.random.key(0), jnp.zeros((*_POLICY_SHAPE, self._depth)))[0],
      optax.adamw(rate, weight_decay=1e-3),
      tuned_weight=config.tuned_weight,
    )

  @property
  def _depth(self) -> int:
    return len(self.setting.channel_names)

  @functools.cached_property
  def _apply(self) -> Callable[[PyTree, jax.Array], jax.Array]:
    return lambda params, image: self.task.model.apply(params, image)[0]

  @functools.cached_property
  def _routed(self) -> Callable[[PyTree, jax.Array], jax.Array]:
    """SpotTune's network at test time: the policy looks at the slice."""

    def apply(both: PyTree, image: jax.Array) -> jax.Array:
      params, extra = both
      _, policy_fn = policy_of(self.task, params)
      example = Batch(image, *5 * (None,))
      return routed(self._apply, params, extra, policy_fn, example, image)

    return apply

  def _fresh(self, seed: int) -> Params:
    key = rng.stream(jax.random.key(seed), "parameters")
    image = jnp.zeros((*self.config.shape, self._depth))
    return self.task.model.init(key, image)[0]

  def _donor(self, arm: Arm, run: Run, source: Trained) -> PyTree:
    """Moments of the source training; rebuilt ones for "octl-rebuilt", once for all sizes."""
    if arm != "octl-rebuilt":
      if source.opt_state is None:  # weights alone: no arm is left that looks at moments
        return plain_tx(self.config, run.optimiser, self.config.source_epochs).init(source.params)
      return source.opt_state
    sources = run.pair.name.partition(">")[0]
    if (sources, run.optimiser, run.seed) not in self._rebuilt:
      step = methods.remembering(
        self.task.loss_fn, plain_tx(self.config, run.optimiser, self.config.source_epochs)
      )
      name = f"{run.optimiser}-rebuilt-{sources}-{run.seed}"
      fitted = self._fit(step, run.pair.source_rows, source.params, run.seed, name)
      self._rebuilt[sources, run.optimiser, run.seed] = fitted.state.opt_state
    return self._rebuilt[sources, run.optimiser, run.seed]

  def _from_scratch(self, rows: np.ndarray, optimiser: Optimiser, seed: int, name: str) -> Trained:
    step = methods.supervised(
      self.task.loss_fn, plain_tx(self.config, optimiser, self.config.source_epochs)
    )
    name = f"{optimiser}-{name}-{seed}"
    fitted = self._fit(step, rows, self._fresh(seed), seed, name)
    return Trained(fitted.state.params, fitted.state.opt_state, fitted, self._apply)

  def _fit(self, step: Step, rows: np.ndarray, params: Params, seed: int, name: str) -> train.Fit:
    key = rng.stream(jax.random.key(seed), "from scratch")
    drawn = data.rows(len(rows), self.config.batch_size, key)
    stream = data.pooled(self._pool, lambda step: rows[drawn(step)].astype(np.int32))
    return train.fit(
      step,
      stream,
      params,
      key,
      num_steps=self.config.source_epochs * self.config.steps_per_epoch,
      workdir=self._directory.path,
      writers=self._directory.writers,
      name=name,
      log_every=self.config.log_every,
      checkpoint_every=self.config.checkpoint_every,
      progress=False,
    )
