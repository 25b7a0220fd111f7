"""Optimisers of the transfer study: what an arm does to the steps, and where its moments start."""

import functools
from typing import Any

import jax.numpy as jnp
import optax

from experiments.site_transfer.config import Arm, Config, Optimiser
from experiments.site_transfer.networks import Task, head_of
from experiments.site_transfer.setting import Pair
from medjax import methods, tree
from medjax.types import Params, PyTree

_B2 = 0.999


def rate_of(config: Config, optimiser: Optimiser, num_epochs: int) -> optax.Schedule:
  """Dropped to a tenth after three quarters: the paper's 45 of 60 epochs."""
  first = config.adam_rate if optimiser == "adam" else config.sgd_rate
  return optax.piecewise_constant_schedule(first, {drop_of(config, num_epochs): 0.1})


def drop_of(config: Config, num_epochs: int) -> int:
  """Update at which rates drop."""
  return max(num_epochs * config.steps_per_epoch * 3 // 4, 1)


def plain_tx(config: Config, optimiser: Optimiser, num_epochs: int) -> optax.GradientTransformation:
  """The optimiser of sources, oracles and fine-tuning; its rate starts anew at the target."""
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
    return methods.only(plain, lambda path: path.startswith(task.first_layers))
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


def source_tx(
  config: Config, optimiser: Optimiser, heads: tuple[int, ...], head: int
) -> optax.GradientTransformation:
  """The optimiser of one site: heads of other sites rest, and leave no moments behind."""
  plain = plain_tx(config, optimiser, config.source_epochs)
  if len(heads) == 1:
    return plain
  return methods.only(plain, lambda path: head_of(path) in (None, head))


def at_target(
  tx: optax.GradientTransformation,
  plain: optax.GradientTransformation,
  pair: Pair,
  arm: Arm,
) -> optax.GradientTransformation:
  """An arm's optimiser where the target has a head of its own.

  That head starts under fine-tuning's optimiser, without history, penalty or freezing, whatever the
  arm does with the rest of the network. The source's head rests, lest old moments move what no
  example reaches; MMTL goes on with it.
  """
  if not pair.has_new_head:
    return tx

  def group(name: str, _: Any) -> str:
    head = head_of(name)
    if head == pair.target_head:
      return "new"
    is_kept = head is None or (arm == "mmtl" and head == pair.source_head)
    return "kept" if is_kept else "resting"

  return optax.partition(
    {"kept": tx, "new": plain, "resting": optax.set_to_zero()},
    lambda params: tree.map_named(group, params),
  )


def opt_state_of(
  config: Config, arm: Arm, tx: optax.GradientTransformation, params: Params, donor: PyTree
) -> PyTree:
  """Where the optimiser of a run starts."""
  if arm in ("octl", "octl-rebuilt"):
    return methods.octl(donor, tx, params, count=config.octl_count)
  return tx.init(params)
