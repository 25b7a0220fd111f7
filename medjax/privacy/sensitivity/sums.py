"""Operations on sums over examples: linear ones with public values keep a bound."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from medjax.privacy.sensitivity import forms, moves, owners
from medjax.privacy.sensitivity.equations import Equation
from medjax.privacy.sensitivity.kinds import PrimitiveRule
from medjax.privacy.sensitivity.ledger import Ledger, together
from medjax.privacy.sensitivity.owners import MixesError
from medjax.privacy.sensitivity.values import Linear, Public, Row, Sum, Value, is_wide

FACTOR = "use a public factor that does not depend on the batch"
DIVISOR = "divide by a public constant, such as the expected batch size, not by a private count"


def apply(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  """Rule of an operation with a sum among its operands."""
  rule = ledger.primitive(eqn.primitive.name).linear
  if rule is not None:
    return rule(ledger, eqn, ins)
  _refuse_rows(ins)
  raise MixesError("is not linear in a sum over the batch", "release the sum, then go on from that")


def _refuse_rows(ins: Sequence[Value]) -> None:
  if any(isinstance(v, Row) for v in ins):
    what = "lets rows of single examples depend on a sum over the batch"
    raise MixesError(what, owners.OWN_ROWS)


def same(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  """Of an operation that keeps the size of every element."""
  return [moves.alias(ledger, ins[0], eqn.outvars[0].aval)]


def converted(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  aval = eqn.outvars[0].aval
  if is_wide(aval.dtype):
    return [moves.alias(ledger, ins[0], aval)]
  what = f"rounds a sum over the batch to {aval.dtype}"
  raise MixesError(what, "sum, add noise and release in float32; convert what was released")


def elementwise(rule: Callable[[Sequence[Linear]], Sum]) -> PrimitiveRule:
  """Of an operation on sums and public values of one shape."""

  def broadcast(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
    _refuse_rows(ins)
    aval = eqn.outvars[0].aval
    wide = [moves.broadcast_to(ledger, v, aval.shape) for v in ins]
    return [dataclasses.replace(rule(wide), dtype=aval.dtype)]

  return broadcast


def add(ins: Sequence[Linear]) -> Sum:
  a, b = ins
  if isinstance(a, Sum) and isinstance(b, Sum):
    form, where = forms.added(a.form, b.form), a.where
    is_zero = a.is_padding_zero and b.is_padding_zero
    return Sum(a.shape, a.dtype, form, where, together(a, b), is_zero)
  return _sum(a, b)


def _sum(*ins: Linear) -> Sum:
  """The one of two operands that is a sum."""
  return next(v for v in ins if isinstance(v, Sum))


def _scale(total: Sum, factor: float) -> Sum:
  return dataclasses.replace(total, form=forms.scaled(total.form, factor))


def multiply(ins: Sequence[Linear]) -> Sum:
  a, b = ins
  if isinstance(a, Sum) and isinstance(b, Sum):
    raise MixesError("multiplies two sums over the batch", FACTOR)
  total, public = _sum(a, b), a if isinstance(a, Public) else b
  assert isinstance(public, Public)
  if not public.range.cap < math.inf:
    raise MixesError("multiplies a sum by a number of unknown size", "close over a constant")
  return _scale(total, public.range.cap)


def divide(ins: Sequence[Linear]) -> Sum:
  total, divisor = ins
  if isinstance(divisor, Sum):
    raise MixesError("divides by a sum over the batch", DIVISOR)
  low = max(divisor.range.low, -divisor.range.high)
  if not low > 0:
    raise MixesError("divides a sum by a number of unknown size", "close over a constant")
  return _scale(_sum(total), 1 / low)


def select(ins: Sequence[Linear]) -> Sum:
  pred, *cases = ins
  if isinstance(pred, Sum):
    raise MixesError("chooses by a sum over the batch", "choose by released values")
  sums = [v for v in cases if isinstance(v, Sum)]
  is_one = pred.is_even or pred.range.low == pred.range.high
  form = forms.either(*(v.form for v in sums)) if is_one else forms.stacked(*(v.form for v in sums))
  is_zero = all(v.is_padding_zero for v in sums)
  first = sums[0]
  return Sum(first.shape, first.dtype, form, first.where, together(*sums), is_zero)
