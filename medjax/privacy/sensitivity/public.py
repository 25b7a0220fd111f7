"""Operations on public values: intervals."""

import math
from collections.abc import Sequence
from typing import Any

from medjax.privacy.sensitivity import intervals, moves, parts
from medjax.privacy.sensitivity.values import Public, Range

_MOVES = frozenset([*moves.RULES, *parts.RULES])
_ORDERED = ("reduce_max", "reduce_min", "sort", "cummax", "cummin", "gather", "dynamic_slice")


def apply(eqn: Any, ins: Sequence[Public]) -> list[Public]:
  """Results of an operation on public values."""
  return [Public(tuple(v.aval.shape), v.aval.dtype, _range(eqn, v.aval, ins)) for v in eqn.outvars]


def _range(eqn: Any, aval: Any, ins: Sequence[Public]) -> Range:
  name = eqn.primitive.name
  ranges = [v.range for v in ins]
  if name == "iota":
    return Range(0.0, float(max(aval.shape[eqn.params["dimension"]] - 1, 0)), True)
  if name in intervals.NAMES:
    is_self = len(ins) == 2 and ins[0] is ins[1]
    return intervals.of(name, eqn.params, aval.dtype, ranges, is_self)[0]
  if 0 not in ins[0].shape and (name in _MOVES or name in _ORDERED):
    count = 1 if name in ("gather", "dynamic_slice") else len(ranges)
    is_in_bounds = name != "gather" or eqn.params["mode"].name in ("CLIP", "PROMISE_IN_BOUNDS")
    count = 2 if name == "dynamic_update_slice" else count
    return intervals.union(*ranges[:count]) if is_in_bounds else intervals.default(aval.dtype)
  if name == "reduce_sum":
    count = math.prod(ins[0].shape) // max(math.prod(aval.shape), 1)
    return intervals.fitted(Range(ranges[0].low * count, ranges[0].high * count), aval.dtype)
  return intervals.default(aval.dtype)
