"""Operations on sums over examples: linear ones with public values keep a bound."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from medjax.privacy.sensitivity import forms, moves, owners, parts, reductions
from medjax.privacy.sensitivity.ledger import Ledger, together
from medjax.privacy.sensitivity.owners import MixesError
from medjax.privacy.sensitivity.values import Row, Sum, Value, is_wide

FACTOR = "use a public factor that does not depend on the batch"
DIVISOR = "divide by a public constant, such as the expected batch size, not by a private count"


def apply(ledger: Ledger, eqn: Any, ins: Sequence[Any]) -> list[Value]:
  """Rule of an operation with a sum among its operands."""
  name, aval = eqn.primitive.name, eqn.outvars[0].aval
  if name in moves.RULES or name in parts.RULES:
    return (moves.RULES | parts.RULES)[name](ledger, eqn, ins)
  if name == "reduce_sum":
    return reductions.reduce_sum(ledger, eqn, ins)
  is_beside_rows = any(isinstance(v, Row) for v in ins)
  if name in ("copy", "copy_p", "stop_gradient", "name", "sharding_constraint", "neg"):
    return [moves.alias(ledger, ins[0], aval)]
  if name == "convert_element_type":
    if is_wide(aval.dtype):
      return [moves.alias(ledger, ins[0], aval)]
    what = f"rounds a sum over the batch to {aval.dtype}"
    raise MixesError(what, "sum, add noise and release in float32; convert what was released")
  if is_beside_rows:
    what = "lets rows of single examples depend on a sum over the batch"
    raise MixesError(what, owners.OWN_ROWS)
  if name in _RULES:
    ins = [moves.broadcast_to(ledger, v, aval.shape) for v in ins]
    return [dataclasses.replace(_RULES[name](ins), dtype=aval.dtype)]
  raise MixesError("is not linear in a sum over the batch", "release the sum, then go on from that")


def _add(ins: Sequence[Any]) -> Sum:
  a, b = ins
  if isinstance(a, Sum) and isinstance(b, Sum):
    form, where = forms.added(a.form, b.form), a.where
    is_zero = a.is_padding_zero and b.is_padding_zero
    return Sum(a.shape, a.dtype, form, where, together(a, b), is_zero)
  return a if isinstance(a, Sum) else b


def _scale(total: Sum, factor: float) -> Sum:
  return dataclasses.replace(total, form=forms.scaled(total.form, factor))


def _multiply(ins: Sequence[Any]) -> Sum:
  a, b = ins
  if isinstance(a, Sum) and isinstance(b, Sum):
    raise MixesError("multiplies two sums over the batch", FACTOR)
  total, public = (a, b) if isinstance(a, Sum) else (b, a)
  if not public.range.cap < math.inf:
    raise MixesError("multiplies a sum by a number of unknown size", "close over a constant")
  return _scale(total, public.range.cap)


def _divide(ins: Sequence[Any]) -> Sum:
  total, divisor = ins
  if isinstance(divisor, Sum):
    raise MixesError("divides by a sum over the batch", DIVISOR)
  low = max(divisor.range.low, -divisor.range.high)
  if not low > 0:
    raise MixesError("divides a sum by a number of unknown size", "close over a constant")
  return _scale(total, 1 / low)


def _select(ins: Sequence[Any]) -> Sum:
  pred, *cases = ins
  if isinstance(pred, Sum):
    raise MixesError("chooses by a sum over the batch", "choose by released values")
  sums = [v for v in cases if isinstance(v, Sum)]
  is_one = pred.is_even or pred.range.low == pred.range.high
  form = forms.either(*(v.form for v in sums)) if is_one else forms.stacked(*(v.form for v in sums))
  is_zero = all(v.is_padding_zero for v in sums)
  first = sums[0]
  return Sum(first.shape, first.dtype, form, first.where, together(*sums), is_zero)


_RULES = {
  "add": _add,
  "add_any": _add,
  "sub": _add,
  "mul": _multiply,
  "div": _divide,
  "select_n": _select,
}
