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
  loss_fn: LossFn,
  params: Params,
  batch: PyTree,
  rows: Sequence[int | Sequence[int]],
  *,
  key: Key,
) -> tuple[Game, ...]:
  """A game for each of some people of a batch: does a release tell whether they took part?

  Play them against `of_step(step, state)` of the very Step that trains, with optax.sgd(1.0): the
  loss, its clipping rules, the noise and the denominators are then those of the training. Take
  those people whom the network gets most wrong, and some with a wrong label or changed values: a
  game shows only what its own example moves.

  Args:
    loss_fn: of one example, as the Step has it.
    params: at which the release is made.
    batch: a sample as the Step's update takes it, with an entry `weight`.
    rows: of each person the example, or all of several examples. A person of k examples may move a
      release k times as far: the claim is then k times that of one, `k / plan.effective_multiplier`
      for DPPlan(max_examples_per_subject=k).
    key: for the loss that the score is made of.
  Returns:
    Games whose score is the inner product of what is released with the sum of the person's own
    gradients: the best one against Gaussian noise, for any number of parameters.
  """
  weight = entry(batch, "weight")
  check.require(weight is not None, "a batch with an entry weight", "none", "add ones")
  weights = np.asarray(weight, np.float32)

  def gradient(row: int) -> jax.Array:
    return flat(jax.grad(loss_fn)(params, jax.tree.map(lambda x: np.asarray(x)[row], batch), key))

  def game(person: int | Sequence[int]) -> Game:
    own = [person] if isinstance(person, int) else list(person)
    direction = sum(map(gradient, own[1:]), gradient(own[0]))

    def score(released: PyTree) -> jax.Array:
      return direction @ flat(released)[: direction.size]

    absent, present = weights.copy(), weights.copy()
    absent[own], present[own] = 0.0, 1.0
    name = f"person {', '.join(map(str, own))}"
    return Game(name, _weighed(batch, absent), _weighed(batch, present), score)

  return tuple(game(person) for person in rows)


def _weighed(batch: Any, weight: np.ndarray) -> PyTree:
  """The batch with other weights."""
  if isinstance(batch, Mapping):
    return {**batch, "weight": weight}
  return batch.replace(weight=weight)
