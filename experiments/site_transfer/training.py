"""Arms of the transfer study: how a network of one site goes on at another.

Every arm starts from the network of the last source step, running statistics included. One program
an arm serves all runs of it, pairs, sizes and seeds: weights, statistics and optimiser state are
where a run starts, its batches are rows of a pool on the device.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.site_transfer.config import WITH_DRIFT, Arm, Config, Optimiser
from experiments.site_transfer.drift import Drift
from experiments.site_transfer.networks import POLICY_SHAPE, policy_of, task_of
from experiments.site_transfer.optimisers import (
  at_target,
  drop_of,
  opt_state_of,
  plain_tx,
  source_tx,
  tx_of,
)
from experiments.site_transfer.setting import Pair, Setting
from medjax import check, data, methods, rng, study, train
from medjax.methods.spottune import routed, spottune
from medjax.train import weights
from medjax.types import Batch, Params, PyTree, Step, Stream

Apply: TypeAlias = Callable[[PyTree, jax.Array], jax.Array]
"""`apply((params, model_state), image) -> logits`."""


class Run(NamedTuple):
  """One adaptation: which pair, how many people or images, which seed."""

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
    params: what `apply` takes first; of SpotTune both copies and the policy.
    model_state: running statistics, {} without BatchNorm.
    opt_state: at the last step.
    job: the training, None for weights that were read from a file.
    apply: the network in use.
  """

  params: PyTree
  model_state: PyTree
  opt_state: PyTree
  job: study.Trained | None
  apply: Apply

  @property
  def network(self) -> tuple[PyTree, PyTree]:
    """What `apply` is given."""
    return self.params, self.model_state


def _heads(pair: Pair) -> tuple[int, int]:
  """Pairs of equal heads share a program."""
  return pair.source_head, pair.target_head


def rows_of(config: Config, run: Run, arm: str) -> Stream:
  """Rows of the pair's pool for every step.

  Raises:
    InputError: fewer target slices than a batch.
  """
  own = run.pair.target_rows(run.size, run.seed)
  check.require(
    len(own) >= config.batch_size,
    f"at least {config.batch_size} target slices for a batch",
    f"{len(own)} of {run.size:g} {run.pair.unit} at {run.pair.name}",
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
    self.task = task_of(config, setting.heads)
    self._pool = jax.tree.map(jnp.asarray, setting.pool)
    self._sources: dict[tuple[str, Optimiser, int], Trained] = {}
    self._oracles: dict[Any, Trained] = {}
    self._rebuilt: dict[tuple[str, Optimiser, int], PyTree] = {}
    self._routed: dict[tuple[int, int], Apply] = {}

  def source(self, pair: Pair, optimiser: Optimiser, seed: int) -> Trained:
    """The network of the source sites at its last step."""
    key = (pair.sources, optimiser, seed)
    if key not in self._sources:
      if self.config.source_weights:
        check.require(
          not self._sources or key[0] == next(iter(self._sources))[0],
          "pairs of one source with --source_weights",
          f"{key[0]} beside {next(iter(self._sources), ('',))[0]}",
          "name pairs of the site that the file was trained on: --pairs a>b a>c",
        )
        held = weights.read_weights(self.config.source_weights).arrays
        fresh, _ = self._fresh(seed)
        params = weights.load_into(fresh, held, strict=True, say=lambda text: None).params
        trained = Trained(params, {}, None, None, self._apply)
      else:
        name = f"source-{pair.sources}"
        trained = self._from_scratch(pair.source_rows, pair.source_head, optimiser, seed, name)
      self._sources[key] = trained
    return self._sources[key]

  def oracle(self, pair: Pair, optimiser: Optimiser, seed: int) -> Trained:
    """A network of all of the target's training people, from scratch."""
    rows, name = np.concatenate(pair.units), f"oracle-{pair.name.replace('>', '_to_')}"
    key = (rows.tobytes(), pair.target_head, optimiser, seed)
    if key not in self._oracles:  # pairs of one target share it
      own = self._from_scratch(rows, pair.target_head, optimiser, seed, name)
      self._oracles[key] = own
    return self._oracles[key]

  def adapt(self, arm: Arm, of: Sequence[Run]) -> list[Trained]:
    """All runs of an arm under one optimiser; those of one program together."""
    found: dict[int, Trained] = {}
    for heads in dict.fromkeys(_heads(run.pair) for run in of):
      places = [i for i, run in enumerate(of) if _heads(run.pair) == heads]
      own = self._adapt(arm, [of[i] for i in places], is_first=0 in places)
      found |= dict(zip(places, own, strict=True))
    return [found[i] for i in range(len(of))]

  def _adapt(self, arm: Arm, of: Sequence[Run], *, is_first: bool) -> list[Trained]:
    config = self.config
    sources = [self.source(run.pair, run.optimiser, run.seed) for run in of]
    steps = [self._step(arm, run, own) for run, own in zip(of, sources, strict=True)]
    keys = [rng.stream(jax.random.key(run.seed), f"adapt {run.pair.name}") for run in of]
    evaluators: list[dict[str, Any]] = [{} for _ in of]
    if arm in WITH_DRIFT and is_first:
      start = (sources[0].params, sources[0].model_state)
      evaluators[0]["drift"] = Drift(self.task, start, self.setting.pool, *of[0][1:])
    # One Step serves all runs: what differs between them is the state that each starts from.
    shared = dataclasses.replace(steps[0], init=lambda start, key: start)
    jobs = [
      study.Job(
        run.name(arm),
        shared,
        data.pooled(self._pool, rows_of(config, run, arm)),
        step.init(source.params, key),
        key,
        config.num_steps,
        evaluator,
        inherited=(source.network, self._moments(arm, run, source)),
      )
      for run, step, source, key, evaluator in zip(
        of, steps, sources, keys, evaluators, strict=True
      )
    ]
    found = study.train_jobs(
      jobs,
      self._directory,
      log_every=config.log_every,
      eval_every=max(config.num_steps // 10, 1),
      checkpoint_every=config.checkpoint_every,
      mode=config.mode,
      progress=False,
    )
    if arm == "spottune":
      apply = self._routed_apply(of[0].pair)
      return [
        Trained((one.params, one.state.extra), one.state.model_state, None, one, apply)
        for one in found
      ]
    return [Trained(one.params, one.state.model_state, None, one, self._apply) for one in found]

  def flops_of(self, arm: Arm, optimiser: Optimiser) -> float:
    """Operations of one update, for the first pair."""
    params, model_state = self._fresh(0)
    batch = jax.tree.map(lambda x: x[: self.config.batch_size], self.setting.pool)
    pair = self.setting.pairs[0]
    donor = source_tx(self.config, optimiser, self.setting.heads, pair.source_head).init(params)
    source = Trained(params, model_state, donor, None, self._apply)
    return study.flops(self._step(arm, Run(optimiser, pair, 1, 0), source, donor), params, batch)

  def _step(self, arm: Arm, run: Run, source: Trained, donor: PyTree | None = None) -> Step:
    """The method of an arm, starting with what the source has: statistics, and moments."""
    config, optimiser, pair = self.config, run.optimiser, run.pair
    plain = plain_tx(config, optimiser, config.num_epochs)
    if arm == "spottune":
      return self._spottune(plain, pair, source)
    donor = self._donor(arm, run, source) if donor is None else donor
    tx = at_target(tx_of(config, optimiser, arm, donor, self.task), plain, pair, arm)
    opt_state = opt_state_of(config, arm, tx, source.params, donor)
    return methods.supervised(
      self.task.loss_fn, tx, opt_state=opt_state, model_state=source.model_state
    )

  def _spottune(self, plain: optax.GradientTransformation, pair: Pair, source: Trained) -> Step:
    config = self.config
    policy, policy_fn = policy_of(self.task, source.params, pair)
    drop = {drop_of(config, config.num_epochs): 0.1}
    rate = optax.piecewise_constant_schedule(config.policy_rate, drop)
    return spottune(
      self.task.loss_fn,
      plain,
      policy_fn,
      policy.init(jax.random.key(0), jnp.zeros((*POLICY_SHAPE, self._depth)))[0],
      optax.adamw(rate, weight_decay=1e-3),
      block_of=self.task.block_of,
      tuned_weight=config.tuned_weight,
      model_state=source.model_state,
    )

  @property
  def _depth(self) -> int:
    return len(self.setting.channel_names)

  @functools.cached_property
  def _apply(self) -> Apply:
    model = self.task.model
    return lambda network, image: model.apply(network[0], image, model_state=network[1])[0]

  def _routed_apply(self, pair: Pair) -> Apply:
    """SpotTune's network at test time: the policy looks at the image."""

    def apply(routed_network: PyTree, image: jax.Array) -> jax.Array:
      (params, extra), model_state = routed_network
      _, policy_fn = policy_of(self.task, params, pair)
      example = Batch(image, *5 * (None,))
      network = lambda own, image: self._apply((own, model_state), image)  # noqa: E731
      block_of = self.task.block_of
      return routed(network, params, extra, policy_fn, example, image, block_of=block_of)

    return self._routed.setdefault(_heads(pair), apply)

  def _fresh(self, seed: int) -> tuple[Params, PyTree]:
    key = rng.stream(jax.random.key(seed), "parameters")
    image = jnp.zeros((*self.config.shape, self._depth))
    return self.task.model.init(key, image)

  def _donor(self, arm: Arm, run: Run, source: Trained) -> PyTree:
    """Moments of the source training; rebuilt ones for "octl-rebuilt", once for all sizes."""
    pair = run.pair
    tx = source_tx(self.config, run.optimiser, self.setting.heads, pair.source_head)
    if arm != "octl-rebuilt":
      if source.opt_state is None:  # weights alone: no arm is left that looks at moments
        return tx.init(source.params)
      return source.opt_state
    key = (pair.sources, run.optimiser, run.seed)
    if key not in self._rebuilt:
      step = methods.remembering(self.task.loss_fn, tx, model_state=source.model_state)
      name = f"{run.optimiser}-rebuilt-{pair.sources}-{run.seed}"
      fitted = self._fit(step, pair.source_rows, source.params, run.seed, name, source.network)
      self._rebuilt[key] = fitted.state.opt_state
    return self._rebuilt[key]

  def _moments(self, arm: Arm, run: Run, source: Trained) -> PyTree:
    """Moments as a checkpoint holds them; None beside weights that were read from a file."""
    key = (run.pair.sources, run.optimiser, run.seed)
    return self._rebuilt[key] if arm == "octl-rebuilt" else source.opt_state

  def _from_scratch(
    self, rows: np.ndarray, head: int, optimiser: Optimiser, seed: int, name: str
  ) -> Trained:
    params, model_state = self._fresh(seed)
    tx = source_tx(self.config, optimiser, self.setting.heads, head)
    step = methods.supervised(self.task.loss_fn, tx, model_state=model_state)
    job = self._fit(step, rows, params, seed, f"{optimiser}-{name}-{seed}")
    state = job.state
    return Trained(state.params, state.model_state, state.opt_state, job, self._apply)

  def _fit(
    self,
    step: Step,
    rows: np.ndarray,
    params: Params,
    seed: int,
    name: str,
    inherited: PyTree = (),
  ) -> study.Trained:
    key = rng.stream(jax.random.key(seed), "from scratch")
    drawn = data.rows(len(rows), self.config.batch_size, key)
    stream = data.pooled(self._pool, lambda step: rows[drawn(step)].astype(np.int32))
    num_steps = self.config.source_epochs * self.config.steps_per_epoch
    return study.train_job(
      study.Job(name, step, stream, params, key, num_steps, inherited=inherited),
      self._directory,
      log_every=self.config.log_every,
      checkpoint_every=self.config.checkpoint_every,
      progress=False,
    )
