"""The part of a network that trains, taken out of it, and a loss of that part alone."""

import fnmatch
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from medjax import check, tree
from medjax.adapt.lora import low_rank, with_low_rank
from medjax.types import AnyLossFn, Key, Params, PyTree

LeafRule = Callable[[str], bool]


class SmallPart(NamedTuple):
  """What trains: a tree for a Step, an optimiser, a plan or a client.

  Attributes:
    leaves: the leaves that train as they are, None in the places of the others.
    factors: of low-rank updates, see `low_rank`.
  """

  leaves: PyTree
  factors: PyTree


def under(*patterns: str) -> LeafRule:
  """A rule for paths that match one of the patterns of a shell.

  >>> rule = under("decoder/*", "*/adapter?/*", "*norm*")
  >>> rule("decoder/up0/kernel"), rule("encoder/block1/adapter0/down/bias"), rule("encoder/patches")
  (True, True, False)
  """
  return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def take(
  params: Params,
  *,
  trains: LeafRule | None = None,
  low_rank_of: LeafRule | None = None,
  rank: int = 4,
  key: Key | None = None,
) -> tuple[SmallPart, PyTree]:
  """The part that trains, and the frozen rest.

  >>> import jax.numpy as jnp
  >>> params = {"body": {"kernel": jnp.ones((2, 3))}, "head": jnp.ones(4)}
  >>> small, frozen = take(params, trains=under("head"), low_rank_of=under("body/kernel"), rank=1,
  ...                      key=jax.random.key(0))
  >>> tree.size(small), tree.size(whole(small, frozen))  # 4 + 2 + 3 numbers train
  (9, 10)

  Args:
    params: of the whole network.
    trains: leaves that train as they are.
    low_rank_of: matrices that get a low-rank update and stay frozen themselves.
    rank: of these updates.
    key: for their first factors.
  Raises:
    InputError: nothing trains; a leaf of both kinds; low-rank updates without a key.
  """
  check.require(
    trains or low_rank_of, "a part that trains", "neither trains= nor low_rank_of=", "pass a rule"
  )
  factors: PyTree = {}
  if low_rank_of is not None:
    key = check.given(key, "key= for low-rank updates", "pass a key")
    factors = low_rank(key, params, low_rank_of, rank=rank)
  if trains is None:
    return SmallPart({}, factors), params
  leaves, frozen = tree.split(params, trains)
  both = sorted(set(tree.named_leaves(leaves)) & set(factors))
  check.require(not both, "leaves of one kind", f"{both[:10]} of both", "leave them out of one")
  return SmallPart(leaves, factors), frozen


def whole(small: SmallPart, frozen: PyTree, *, alpha: float | int | None = None) -> Params:
  """The parameters of the whole network; `alpha` as in `with_low_rank`."""
  params = tree.merge(small.leaves, frozen) if jax.tree.leaves(small.leaves) else frozen
  return with_low_rank(params, small.factors, alpha=alpha) if small.factors else params


def adapted_loss(loss_fn: AnyLossFn, frozen: PyTree, *, alpha: float | int | None = None) -> Any:
  """The loss as a function of the small part alone; the frozen leaves are constants.

  Hand it, with the small part as the parameters, to any method: `methods.supervised`,
  `methods.private` (its clipping then counts the small part only), a federated client.

  Args:
    loss_fn: `loss_fn(params, example, key, ...)` of ONE example, with the whole parameters.
    frozen: of `take`.
    alpha: as in `with_low_rank`.
  """

  def loss(small: SmallPart, example: PyTree, key: Key, *state: PyTree) -> Any:
    return loss_fn(whole(small, frozen, alpha=alpha), example, key, *state)

  return loss


def share_of(small: PyTree, params: PyTree) -> float:
  """Numbers that train over numbers of the whole network."""
  return tree.size(small) / tree.size(params)
