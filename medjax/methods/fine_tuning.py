"""Fine-tuning of part of a network, or near its start; each is `supervised` with another optimiser.

L2-SP (Li, Grandvalet & Davoine 2018):  loss + alpha sum_j (phi_j - phi0_j)^2  over all parameters,
phi0 those at the start; without a factor 1/2, as in the released code of MMTL and OCTL.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from medjax import check, tree
from medjax.methods.supervised import supervised
from medjax.types import Key, LossFn, Params, PyTree, Step

_TUNED, _FROZEN = "tuned by only", "frozen by only"


def l2sp(loss_fn: LossFn, tx: optax.GradientTransformation, *, alpha: float | int = 0.1) -> Step:
  """Supervised training held near its start.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx: any optax transformation.
    alpha: weight of the penalty, >= 0.
  Returns:
    The Step of `supervised`, whose "loss" and "grad_norm" are without the penalty; the start is
    part of the optimiser's state.
  """
  return supervised(loss_fn, optax.chain(pull_to_start(alpha), tx))


def pull_to_start(alpha: float | int) -> optax.GradientTransformation:
  """Adds 2 alpha (phi - phi0), the gradient of the L2-SP penalty."""
  check.non_negative("alpha", alpha)

  def init(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)

  def update(updates: PyTree, state: PyTree, params: Params | None = None) -> tuple[PyTree, Any]:
    pulled = jax.tree.map(lambda g, p, p0: g + 2 * alpha * (p - p0), updates, params, state)
    return pulled, state

  return optax.GradientTransformation(init, update)


def only(
  tx: optax.GradientTransformation, is_tuned: Callable[[str], bool]
) -> optax.GradientTransformation:
  """`tx` for the parameters whose path ("params/Conv_0/kernel") is chosen; the others stay.

  Statistics of BatchNorm are no parameters: a network that has them still adapts those.

  The gradients are still those of all parameters, and so are their norms. Where these count - in
  private training, whose clipping would spend most of its bound on what stays, and which therefore
  refuses this optimiser, or where clients send gradients - take the parameters apart instead, see
  `with_frozen` and `medjax.adapt`.

  Raises:
    InputError: on init, no parameter is chosen.
  """

  def labels(params: Params) -> PyTree:
    found = tree.map_named(lambda name, _: _TUNED if is_tuned(name) else _FROZEN, params)
    check.require(
      _TUNED in jax.tree.leaves(found),
      "at least one parameter to tune",
      f"none of {', '.join(tree.named_leaves(params))}",
      "correct the rule",
    )
    return found

  return optax.partition({_TUNED: tx, _FROZEN: optax.set_to_zero()}, labels)


def freezes_leaves(opt_state: PyTree) -> bool:
  """Whether the state is that of an optimiser with `only` somewhere in it that freezes a leaf."""
  is_parted = lambda x: isinstance(x, optax.transforms.PartitionState)  # noqa: E731
  parted = [x for x in jax.tree.leaves(opt_state, is_leaf=is_parted) if is_parted(x)]
  return any(set(x.inner_states) == {_TUNED, _FROZEN} for x in parted)


def with_frozen(loss_fn: LossFn, frozen: PyTree) -> LossFn:
  """The loss as a function of the trained parameters alone; the others are constants.

  Per-example gradients, clipping norms, noise, optimiser and checkpoints then hold the trained
  leaves only.

  >>> params = {"body": jnp.float32(3.0), "head": jnp.float32(1.0)}
  >>> trained, frozen = tree.split(params, lambda name: name == "head")
  >>> loss = lambda p, x, key: p["body"] * p["head"] * x
  >>> step = supervised(with_frozen(loss, frozen), optax.sgd(0.1))
  >>> state, _ = step.update(step.init(trained, jax.random.key(0)), jnp.ones(2), jax.random.key(1))
  >>> jax.tree.map(float, tree.merge(state.params, frozen))  # head: 1 - 0.1 * 3
  {'body': 3.0, 'head': 0.699999988079071}

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    frozen: the second tree of `medjax.tree.split`.
  """

  def loss(trained: Params, example: PyTree, key: Key) -> Any:
    return loss_fn(tree.merge(trained, frozen), example, key)

  return loss
