"""What `clipped_sum` promises, readable in a traced program.

A traced call is one `jit` equation of the jaxpr, and the name of that equation says which promise
it keeps. The name is no Python identifier, so that no function of a user has it by accident. The
wrapper computes nothing of its own. A call that a transformation such as vmap or grad has rewritten
has other arguments than its promise states, and is then not taken for a kept promise.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

_PREFIX = "medjax.grads.clipped_sum: "


class Contract(NamedTuple):
  """Of a call (bounds, params, batch, keys, weights, direction) -> ClippedSum, all flattened.

  Row i of norms, dots, losses and aux depends on example i alone, and so does what it adds to the
  leaves of `grads`: its weight times gradients of leaves, those of one group together no longer
  than the group's bound; exactly 0 where its weight is 0 or its gradient is not finite.

  Attributes:
    groups: group of every leaf of the parameters.
    bounds: bound of every group; None for those known when the program runs, which are its first
      arguments.
    batch: number of leaves of the batch.
    ranks: number of axes of all arguments.
    has_aux: whether results follow grads, norms, dots and losses.
  """

  groups: tuple[int, ...]
  bounds: tuple[float | None, ...]
  batch: int
  ranks: tuple[int, ...]
  has_aux: bool


_CONTRACTS: dict[str, Contract] = {}


def of(
  function: Callable[..., Any],
  arguments: tuple[Any, ...],
  *,
  groups: list[int],
  bounds: list[Any],
  has_aux: bool,
) -> Any:
  """function(*arguments); in a program that is being traced, one operation with a contract.

  Args:
    arguments: (params, batch, keys, weights, direction) as trees.
    groups: group of every leaf of the parameters.
    bounds: bound of every group.
    has_aux: whether the last result may have leaves.
  """
  if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, bounds))):
    return function(*arguments)
  later = [bound for bound in bounds if isinstance(bound, jax.core.Tracer)]
  contract = Contract(
    groups=tuple(groups),
    bounds=tuple(None if isinstance(b, jax.core.Tracer) else float(b) for b in bounds),
    batch=len(jax.tree.leaves(arguments[1])),
    ranks=tuple(jax.numpy.ndim(leaf) for leaf in jax.tree.leaves((later, arguments))),
    has_aux=has_aux,
  )
  name = _PREFIX + hashlib.sha256(repr(contract).encode()).hexdigest()[:16]
  _CONTRACTS[name] = contract

  def call(later: Any, *arguments: Any) -> Any:
    del later  # `function` holds them
    return function(*arguments)

  call.__name__ = name
  return jax.jit(call)(later, *arguments)


def is_marked(equation: Any) -> bool:
  """Whether an equation was a call of `clipped_sum`, perhaps before a transformation."""
  name = equation.params.get("name", "")
  return isinstance(name, str) and name.startswith(_PREFIX)


def contract_of(equation: Any) -> Contract | None:
  """The promise that an equation of a jaxpr keeps."""
  if equation.primitive.name not in ("jit", "pjit"):
    return None
  contract = _CONTRACTS.get(equation.params["name"])
  if contract is None:
    return None
  ranks = tuple(len(v.aval.shape) for v in equation.invars[-len(contract.ranks) :])
  return contract if ranks == contract.ranks else None
