"""Greedy choice of a few items that are good each and cover the rest together.

  F(S) = sum_{c in S} m_c + b sum_i max(0, max_{c in S} phi(i, c)),     |S| = k

F is submodular: an item adds the less, the more are chosen. If no value m_c is negative, it is
monotone too, and the greedy choice reaches (1 - 1/e) of the best one (Nemhauser, Wolsey and Fisher,
"An analysis of approximations for maximizing submodular set functions", 1978). The second term is
facility location: every item i counts by the chosen item that is most like it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from medjax import check
from medjax.types import Array


class GreedyChoice(NamedTuple):
  """Items in the order in which they were chosen.

  Attributes:
    items: [chosen] int32 positions, no two alike.
    gains: [chosen] what each added to F when it was chosen, never rising; they sum to F.
  """

  items: Array
  gains: Array


def greedy_choice(
  values: Array,
  similarity: Array,
  num_chosen: int,
  *,
  coverage: Array | float | int = 1.0,
  allowed: Array | None = None,
) -> GreedyChoice:
  """The greedy choice as one loop of a compiled program; `jax.vmap` chooses from several lists.

  >>> like = jnp.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
  >>> greedy_choice(jnp.array([0.2, 0.1, 0.0]), like, 2).items.tolist()  # the second is like the first
  [0, 2]

  Args:
    values: [item] m_c. Adding a constant to all changes no choice, since their number is fixed.
    similarity: [item, item] phi; below 0 it counts as 0. Padded items have rows and columns of 0.
    num_chosen: k, at most the number of items that are allowed.
    coverage: b, 0 or more.
    allowed: [item] bool: which may be chosen, None for all; more than k have to be, which is not
      checked here, since it may be traced.
  Returns:
    Of equal gains the first item is taken.
  Raises:
    InputError: shapes that do not fit, or more to choose than there are items.
  """  # noqa: E501
  check.same_shape("similarity", similarity.shape, "values", values.shape * 2)
  check.in_interval("num_chosen", num_chosen, 1, len(values), "choose fewer")
  is_open = jnp.ones(values.shape, bool) if allowed is None else allowed

  def choose(
    state: tuple[Array, Array], _: None
  ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    covered, is_open = state  # how well each item is covered so far, 0 at first
    rises = jnp.maximum(similarity - covered[:, None], 0).sum(0)
    gains = values + coverage * rises
    item = jnp.argmax(jnp.where(is_open, gains, -jnp.inf))
    covered = jnp.maximum(covered, similarity[:, item])
    return (covered, is_open.at[item].set(False)), (item.astype(jnp.int32), gains[item])

  start = (jnp.zeros(values.shape, similarity.dtype), is_open)
  _, (items, gains) = jax.lax.scan(choose, start, None, length=num_chosen)
  return GreedyChoice(items, gains)
