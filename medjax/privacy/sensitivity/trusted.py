"""`grads.clipped_sum` by its promise: what it asks of its arguments and gives in return."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.grads.contract import Contract
from medjax.privacy.sensitivity import forms, owners
from medjax.privacy.sensitivity.equations import TracedEquation
from medjax.privacy.sensitivity.forms import Term
from medjax.privacy.sensitivity.ledger import Ledger
from medjax.privacy.sensitivity.owners import MixesError
from medjax.privacy.sensitivity.values import Public, Row, Sum, Value, is_wide

ONE_EXAMPLE = "let the loss, weights and weight_fn use one example and public values only"


class _Call(NamedTuple):
  """Arguments, or the variables that hold them, in the order of the contract."""

  closed_over: Sequence[Any]
  bounds: Sequence[Any]
  params: Sequence[Any]
  batch: Sequence[Any]
  keys: Any
  weights: Any
  direction: Sequence[Any]


def _call(contract: Contract, values: Sequence[Any]) -> _Call:
  first = len(values) - len(contract.ranks)
  rest = iter(values[first:])
  counts = contract.bounds.count(None), len(contract.groups), contract.batch
  bounds, params, batch = (list(itertools.islice(rest, count)) for count in counts)
  return _Call(values[:first], bounds, params, batch, next(rest), next(rest), list(rest))


def fits(contract: Contract, eqn: TracedEquation) -> bool:
  """Whether the results have the shapes that the contract speaks of."""
  call, leaves = _call(contract, eqn.invars), len(contract.groups)
  outs = [v.aval.shape for v in eqn.outvars]
  size, count = call.keys.aval.shape, len(outs) - leaves
  is_whole = count >= 3 if contract.has_aux else count == 3
  return (
    is_whole
    and jnp.issubdtype(call.keys.aval.dtype, jax.dtypes.prng_key)
    and call.weights.aval.shape == size
    and outs[:leaves] == [v.aval.shape for v in call.params]
    and outs[leaves : leaves + 3] == [size] * 3
    and all(shape[:1] == size for shape in outs[leaves:])
  )


def apply(
  ledger: Ledger, eqn: TracedEquation, contract: Contract, ins: Sequence[Value]
) -> list[Value]:
  """Sums with the bounds of the contract, and one row an example for the rest."""
  call, leaves = _call(contract, ins), len(contract.groups)
  for v in (*call.closed_over, *call.bounds, *call.params, *call.direction):
    if not isinstance(v, Public):
      raise MixesError("gives private values to all examples of clipped_sum", ONE_EXAMPLE)
  mapped = [*call.batch, call.keys, call.weights]
  for v in mapped:
    if isinstance(v, Sum) or isinstance(v, Row) and any(a > 0 for a in owners.axes(v.owners)):
      raise MixesError("gives clipped_sum examples that are not single ones", ONE_EXAMPLE)
  rows = [v for v in mapped if isinstance(v, Row)]
  whose = owners.merged(*(r.owners.reshape(r.owners.shape[:1]) for r in rows))
  if (whose == owners.EVERYONE).any():
    raise MixesError("gives clipped_sum examples that depend on each other", ONE_EXAMPLE)
  out: list[Value] = list(_sums(ledger, eqn, contract, call, whose))
  for var in eqn.outvars[leaves:]:
    placed = whose.reshape((-1, *[1] * (len(var.aval.shape) - 1)))
    out.append(ledger.fresh(var.aval, placed, *rows))
  return out


def _sums(
  ledger: Ledger, eqn: TracedEquation, contract: Contract, call: _Call, whose: owners.Owners
) -> list[Sum]:
  weights, given = call.weights, iter(call.bounds)
  bounds = [next(given).range.cap if b is None else b for b in contract.bounds]
  if any(b is None for b in contract.bounds) and not max(bounds) < math.inf:
    raise MixesError("clips to a max_norm that is not known", "close over max_norm, a number")
  if not weights.range.cap < math.inf:
    raise MixesError("weighs examples by numbers of unknown size", "cut the weights by jnp.clip")
  of_examples = np.broadcast_to(whose, call.keys.shape)
  rows = np.bincount(of_examples[of_examples >= 0], minlength=ledger.num_examples).astype(float)
  name = ledger.number()
  suspects = weights.suspects if isinstance(weights, Row) else frozenset()
  is_zero = isinstance(weights, Row) and weights.is_padding_zero
  out = []
  for number, (group, var) in enumerate(zip(contract.groups, eqn.outvars, strict=False)):
    if not is_wide(var.aval.dtype):
      what = f"sums {var.aval.dtype} over the batch"
      raise MixesError(what, "sum in float32; round what was released")
    bound = bounds[group] * weights.range.cap
    if math.isfinite(bound):
      form = {Term(("clipped", name, group), number): (bound * rows) ** 2}
    else:
      form = {Term(None, ledger.number()): rows}
    out.append(Sum(tuple(var.aval.shape), var.aval.dtype, form, ledger.where, suspects, is_zero))
  joint = forms.size(forms.stacked(*(s.form for s in out)))
  if np.isfinite(joint).all():
    ledger.note("clipped_sum", joint)
  return out
