"""Operations on public values: intervals."""

import math
from collections.abc import Sequence

from medjax.privacy.sensitivity import intervals
from medjax.privacy.sensitivity.equations import Aval, Equation
from medjax.privacy.sensitivity.kinds import Asked, Kind, Primitive
from medjax.privacy.sensitivity.lookups import BOUNDED
from medjax.privacy.sensitivity.values import Public, Range


def apply(row: Primitive, eqn: Equation, ins: Sequence[Public]) -> list[Public]:
  """Results of an operation on public values."""
  return [
    Public(tuple(v.aval.shape), v.aval.dtype, _range(row, eqn, v.aval, ins)) for v in eqn.outvars
  ]


def _range(row: Primitive, eqn: Equation, aval: Aval, ins: Sequence[Public]) -> Range:
  name = eqn.primitive.name
  ranges = [v.range for v in ins]
  if name == "iota":
    return Range(0.0, float(max(aval.shape[eqn.params["dimension"]] - 1, 0)), True)
  if row.kind is Kind.ELEMENTWISE:
    is_self = len(ins) == 2 and ins[0] is ins[1]
    return intervals.of(row.range, Asked(eqn.params, aval.dtype, ranges, is_self))[0]
  if row.num_bounding and 0 not in ins[0].shape:
    # Outside of the operand some modes of gather fill in other numbers.
    is_inside = "mode" not in eqn.params or eqn.params["mode"].name in BOUNDED
    found = intervals.union(*ranges[: row.num_bounding])
    return found if is_inside else intervals.default(aval.dtype)
  if name == "reduce_sum":
    count = math.prod(ins[0].shape) // max(math.prod(aval.shape), 1)
    return intervals.fitted(Range(ranges[0].low * count, ranges[0].high * count), aval.dtype)
  return intervals.default(aval.dtype)
