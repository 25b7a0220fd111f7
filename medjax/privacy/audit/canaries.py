"""Canaries for gradient methods: people whose gradient we choose, and data sets around them.

A privacy claim holds for every loss of one example, so also for one that returns, for marked
examples, the inner product of the parameters with a gradient of our choice. That gradient passes
through the method's own clipping, filter and sum: nothing of the method is replaced.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.privacy.audit.games import Game, Release, flat
from medjax.types import Array, Key, LossFn, Params, PyTree, Step, TrainState


class Planted(NamedTuple):
  """A batch of examples of which some have a gradient that was planted.

  Attributes:
    example: the examples, leaves [batch, ...].
    gradient: planted gradients, leaves [batch, *leaf] like the parameters.
    is_planted: [batch] bool, which examples have theirs.
    weight: [batch] float32; 0 marks padding.
  """

  example: Any
  gradient: Any
  is_planted: Any
  weight: Any


def planted(loss_fn: LossFn) -> LossFn:
  """Loss of one `Planted` example: <params, gradient> where one is planted, else `loss_fn`."""

  def loss(params: Params, example: Planted, key: Key) -> Array:
    products = jax.tree.map(lambda p, g: (p * g).sum(), params, example.gradient)
    chosen = sum(jax.tree.leaves(products))
    return jnp.where(example.is_planted, chosen, loss_fn(params, example.example, key))

  return loss


def of_step(
  step: Step,
  state: TrainState,
  *,
  seen: Callable[[TrainState], PyTree] = lambda after: after.params,
) -> Release:
  """Release of a private Step: what is seen of the state after one update.

  Build the Step with optax.sgd(1.0), which hands the noisy gradient through, and with a plan whose
  secrets protect nobody: `DPPlan(..., vault=Vault.from_seed(0))`. For `gradient_games` its loss is
  `planted(loss_fn)`, for `people_games` it is `loss_fn`. The key of each trial goes to `update` in
  place of the plan's. Where a sample has several releases, let all be seen:
  lambda after: (after.params, after.extra).
  """

  def release(batch: PyTree, key: Key) -> PyTree:
    return seen(step.update(state, batch, key)[0])

  return release


def gradient_games(
  params: Params,
  examples: PyTree,
  *,
  max_norm: float | int,
  direction: PyTree | None = None,
  factor: float | int = 100.0,
) -> tuple[Game, ...]:
  """Eight games around a batch of examples, each a canary for other mistakes.

    aligned    gradient along `direction`: noise scale, clipping, denominators
    alone      the same canary in an otherwise empty sample: means over those who are there
    flip       others along `direction`, canary against them: choices that depend on others
    last leaf  gradient in the last parameter only: leaves that clipping forgets
    nan        gradient that is no number: it must add exactly 0
    outlier    an example whose values are `factor` times as large: batch statistics
    one number gradient in the first parameter only, told by the digits of what is released: noise
               that is cut or coarse, digits that have none
    crowds     half of the others with tiny gradients, half with large ones, between which the
               canary decides: bounds and noise that follow the sample

  The planted loss is not the loss that trains, and may be clipped by another rule of
  `grads.clipped_sum`: play `people_games` with the Step that trains as well.

  Args:
    params: parameters of the model, real floating point.
    examples: the others, leaves [others, ...]; the data sets hold one slot more.
    max_norm: clipping norm C of the method.
    direction: tree like the parameters, not 0; the reference of a filter, so that its canary is
      kept. Default: all ones.
    factor: how far gradients and examples exceed C and their size.
  Returns:
    Games on `Planted` batches of host arrays of the same shapes: one compilation serves all.
  """
  check.positive("max_norm", max_norm)
  check.positive("factor", factor)
  params, examples = jax.tree.map(np.asarray, (params, examples))
  direction = jax.tree.map(np.ones_like, params) if direction is None else direction
  length = float(np.sqrt(sum(np.vdot(x, x) for x in jax.tree.leaves(direction))))
  check.positive("norm of direction", length)
  others = jax.tree.leaves(examples)[0].shape[0]
  along = jax.tree.map(lambda u: np.float32(max_norm / length) * np.asarray(u), direction)
  zero = jax.tree.map(np.zeros_like, along)
  nobody = jax.tree.map(lambda u: np.zeros((others, *u.shape), np.float32), along)

  def game(
    name: str,
    canary: PyTree | None,
    *,
    crowd: PyTree | None = None,
    present: float = 1.0,
    example_factor: float | int = 1.0,
    features: Any = None,
  ) -> Game:
    """`canary`: planted gradient; `crowd`: those of the others; None keeps the loss's own."""
    is_canary = np.arange(others + 1) == others
    of_others = nobody if crowd is None else crowd
    of_canary = zero if canary is None else canary
    others_planted = ~is_canary & (crowd is not None)

    def world(gradient: PyTree, factor: float | int, is_planted: Any, weight: Any) -> Planted:
      def one_more(x: np.ndarray) -> np.ndarray:
        more = x[:1] * x.dtype.type(factor) if np.issubdtype(x.dtype, np.floating) else x[:1]
        return np.concatenate([x, more])

      gradients = jax.tree.map(lambda o, c: np.concatenate([o, c[None]]), of_others, gradient)
      return Planted(jax.tree.map(one_more, examples), gradients, is_planted, np.float32(weight))

    # Without the canary its slot is padding: example 0 once more, with weight 0.
    without = world(zero, 1.0, others_planted, present * ~is_canary)
    is_planted = others_planted | (is_canary & (canary is not None))
    weight = np.where(is_canary, 1.0, present)
    with_canary = world(of_canary, example_factor, is_planted, weight)
    return Game(name, without, with_canary, features=features)

  def times(by: float | int) -> PyTree:
    return jax.tree.map(lambda u: np.float32(by) * u, along)

  leaves, structure = jax.tree.flatten(zero)
  leaves[-1] = leaves[-1] + np.float32(factor * max_norm)
  is_large = np.arange(others) >= (others + 1) // 2
  sizes = np.where(is_large, factor, 1 / factor).astype(np.float32)
  two_crowds = jax.tree.map(
    lambda u: u * sizes.reshape(-1, *[1] * (u.ndim - 1)), _crowd(along, others)
  )
  return (
    game("aligned", times(factor)),
    game("alone", times(factor), present=0.0),
    game("flip", times(-factor * others), crowd=_crowd(along, others)),
    game("last leaf", jax.tree.unflatten(structure, leaves)),
    game("nan", times(np.nan)),
    game("outlier", None, example_factor=factor),
    game("one number", in_one_number(params, factor * max_norm), features=digits),
    game("crowds", times(factor), crowd=two_crowds),
  )


def in_one_number(params: Params, size: float | int) -> PyTree:
  """A gradient of this size in the first parameter, 0 in all others."""
  leaves, structure = jax.tree.flatten(jax.tree.map(np.zeros_like, params))
  leaves[0].flat[0] = size
  return jax.tree.unflatten(structure, leaves)


_SPACINGS = 2.0 ** np.arange(-20, 5)


def digits(released: PyTree) -> jax.Array:
  """The first released number, and how far it is from multiples of powers of two."""
  x = flat(released)[0]
  parts = x / jnp.asarray(_SPACINGS, jnp.float32)
  return jnp.concatenate([jnp.stack([x, jnp.log(jnp.abs(x) + 1e-30)]), parts - jnp.round(parts)])


def _crowd(along: PyTree, count: int) -> PyTree:
  """`count` gradients about `along`, no two alike: each number varies by a tenth."""
  draw = np.random.default_rng(0)

  def vary(u: np.ndarray) -> np.ndarray:
    varied = u * (1 + 0.1 * draw.standard_normal((count, *u.shape)))
    return varied.astype(np.float32)

  return jax.tree.map(vary, along)


def only_first(game: Game) -> Game:
  """For releases of two samples: the canary takes part in the first only.

  `release((sample, sample), key)` must use two keys; one key for both lets their difference tell.
  """
  pair = (game.without, game.without)
  changed = (game.with_canary, game.without)
  return game._replace(name=f"{game.name}, first of two", without=pair, with_canary=changed)


def outside(game: Game) -> Game:
  """For releases `release((sample, everyone), key)`: the canary is someone, but not in the sample.

  Amplification by sampling assumes that a step sees its sample and nobody else: the claim is 0.
  """
  pair = (game.without, game.without)
  changed = (game.without, game.with_canary)
  name = f"{game.name}, outside the sample"
  return game._replace(name=name, without=pair, with_canary=changed, claim=0.0)
