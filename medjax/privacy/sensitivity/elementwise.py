"""Elementwise operations with a row among their operands."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax.privacy.sensitivity import intervals, moves, norms, owners
from medjax.privacy.sensitivity.equations import Aval, DType, Equation
from medjax.privacy.sensitivity.kinds import Asked, Primitive
from medjax.privacy.sensitivity.ledger import Ledger, together
from medjax.privacy.sensitivity.values import Operand, Public, Range, Row, Value, is_float, is_wide


def apply(ledger: Ledger, eqn: Equation, ins: Sequence[Operand]) -> list[Value]:
  """Rule of every elementwise operation with a row among its operands."""
  aval = eqn.outvars[0].aval
  ins = [moves.broadcast_to(ledger, v, aval.shape) for v in ins]
  rows = [v for v in ins if isinstance(v, Row)]
  whose = owners.merged(*(r.owners for r in rows))
  ins = [_apart(ledger, v, whose) if isinstance(v, Row) else v for v in ins]
  return [_result(ledger, eqn, v.aval, ins, whose) for v in eqn.outvars]


def _apart(ledger: Ledger, row: Row, whose: owners.Owners) -> Row:
  """Without claims on rows, where some have no owner: what stands there is any public number."""
  is_filled = ((row.owners == owners.NOBODY) & (whose != owners.NOBODY)).any()
  if not is_filled and row.owners.shape == whose.shape:
    return row
  aval = jax.ShapeDtypeStruct(row.shape, row.dtype)
  known = {"range": row.range, "is_repeated": row.is_repeated}
  return ledger.fresh(aval, whose, row, suspects=row.suspects, **known)


def _result(
  ledger: Ledger, eqn: Equation, aval: Aval, ins: Sequence[Operand], whose: owners.Owners
) -> Value:
  name, params = eqn.primitive.name, eqn.params
  row = ledger.primitive(name)
  if name in ("add", "add_any", "sub") and isinstance(ins[1], Public) and ins[1].is_zero:
    return ins[0]
  if name in ("add", "add_any") and isinstance(ins[0], Public) and ins[0].is_zero:
    return ins[1]
  if row.is_alias:
    return moves.alias(ledger, ins[0], aval)
  x = ins[0]
  if name == "convert_element_type" and isinstance(x, Row) and _is_exact(x.dtype, aval.dtype):
    return _converted(ledger, x, aval)
  is_self = len(ins) == 2 and ins[0] is ins[1]
  asked = Asked(params, aval.dtype, [v.range for v in ins], is_self)
  found, is_sound = intervals.of(row.range, asked)
  if name == "select_n" and ins[0].range.low == ins[0].range.high:
    chosen = ins[1 + int(ins[0].range.low)]
    if isinstance(chosen, Row):
      return dataclasses.replace(chosen, owners=whose, suspects=together(ins[0], chosen))
  rule = row.facts if is_wide(aval.dtype) or aval.dtype == jnp.bool_ else None
  facts = rule(ledger, params, ins) if rule else norms.Facts()
  suspects = together(*ins) if facts.suspects is None else facts.suspects
  said = facts.said()
  known: dict[str, Any] = {
    "is_padding_zero": _is_padding_zero(row, eqn, aval, ins),
    "is_even": all(norms.is_even(v) for v in ins),
    "range": found,
  }
  if row.spreads and params.get("y", 1) > 0:
    known["witnesses"] = frozenset().union(*(v.witnesses for v in ins if isinstance(v, Row)))
  if not said and found.low == -math.inf and found.high == math.inf:
    known.pop("range")
    return ledger.fresh(aval, whose, *ins, **known)
  if not is_sound:
    suspects |= ledger.suspect()
    known["range"] = Range(found.low, found.high, is_finite=True)
  return ledger.fresh(aval, whose, *ins, suspects=suspects, **said, **known)


def _is_exact(source: DType, target: DType) -> bool:
  """Whether a conversion keeps every number, to rounding."""
  is_number = is_float(source) or jnp.issubdtype(source, jnp.integer) or source == jnp.bool_
  return is_float(target) and is_number or source == jnp.bool_


def _converted(ledger: Ledger, v: Row, aval: Aval) -> Value:
  if is_float(v.dtype) and is_wide(v.dtype) and not is_wide(aval.dtype):
    return _narrowed(ledger, v, aval)
  out: Any = moves.alias(ledger, v, aval)
  fits = is_float(aval.dtype) and v.range.cap <= float(jnp.finfo(aval.dtype).max)
  holds_all = is_float(v.dtype) and jnp.finfo(aval.dtype).max >= jnp.finfo(v.dtype).max
  if not is_float(aval.dtype) or fits or holds_all:
    return out
  return dataclasses.replace(out, suspects=v.suspects | ledger.suspect())  # it may overflow


def _narrowed(ledger: Ledger, v: Row, aval: Aval) -> Row:
  """A row in fewer digits: of what is known its interval stays, which rounding moves with it."""
  found = intervals.fitted(v.range, aval.dtype)
  known: dict[str, Any] = {"is_padding_zero": v.is_padding_zero, "range": found}
  if v.range.cap > float(jnp.finfo(aval.dtype).max):  # infinite, NaN or the largest number
    return ledger.fresh(aval, v.owners, v, is_padding_zero=v.is_padding_zero)
  return ledger.fresh(aval, v.owners, v, **known)


def _is_padding_zero(row: Primitive, eqn: Equation, aval: Aval, ins: Sequence[Operand]) -> bool:
  """Whether operands that are 0 at padding make a result that is."""
  zero = [v.is_zero if isinstance(v, Public) else v.is_padding_zero for v in ins]
  if row.zero_at_zero and all(zero):
    return True
  nothing = Range(0.0, 0.0, True)
  ranges = [nothing if is_zero else v.range for is_zero, v in zip(zero, ins, strict=True)]
  found, _ = intervals.of(row.range, Asked(eqn.params, aval.dtype, ranges))
  return any(zero) and found.low == found.high == 0
