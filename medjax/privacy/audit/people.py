"""Games with real examples against the Step that trains: its own loss, its own norm rules."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from medjax import check
from medjax.privacy.audit.games import Game, flat
from medjax.tree import entry
from medjax.types import Key, LossFn, Params, PyTree


def people_games(
  loss_fn: LossFn, params: Params, batch: PyTree, rows: Sequence[int], *, key: Key
) -> tuple[Game, ...]:
  """A game for each of some examples of a batch: does a release tell whether it took part?

  Play them against `of_step(step, state)` of the very Step that trains, with optax.sgd(1.0): the
  loss, its clipping rules, the noise and the denominators are then those of the training. Take
  those people whom the network gets most wrong, and some with a wrong label or changed values: a
  game shows only what its own example moves.

  Args:
    loss_fn: of one example, as the Step has it.
    params: at which the release is made.
    batch: a sample as the Step's update takes it, with an entry `weight`.
    rows: which examples.
    key: for the loss that the score is made of.
  Returns:
    Games whose score is the inner product of what is released with the example's own gradient: the
    best one against Gaussian noise, for any number of parameters.
  """
  weight = entry(batch, "weight")
  check.require(weight is not None, "a batch with an entry weight", "none", "add ones")
  weights = np.asarray(weight, np.float32)

  def game(row: int) -> Game:
    example = jax.tree.map(lambda x: np.asarray(x)[row], batch)
    direction = flat(jax.grad(loss_fn)(params, example, key))

    def score(released: PyTree) -> jax.Array:
      return direction @ flat(released)[: direction.size]

    absent, present = weights.copy(), weights.copy()
    absent[row], present[row] = 0.0, 1.0
    return Game(f"person {row}", _weighed(batch, absent), _weighed(batch, present), score)

  return tuple(game(row) for row in rows)


def _weighed(batch: Any, weight: np.ndarray) -> PyTree:
  """The batch with other weights."""
  if isinstance(batch, Mapping):
    return {**batch, "weight": weight}
  return batch.replace(weight=weight)
