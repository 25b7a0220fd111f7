"""Operations on public values: intervals, small index arrays, random bits and their keys."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from medjax.privacy.sensitivity import intervals, moves, parts
from medjax.privacy.sensitivity.forms import Piece
from medjax.privacy.sensitivity.values import Noise, Public, Range

_MOVES = frozenset([*moves.RULES, *parts.RULES])
_ORDERED = ("reduce_max", "reduce_min", "sort", "cummax", "cummin", "gather", "dynamic_slice")


def apply(eqn: Any, ins: Sequence[Public]) -> list[Public]:
  """Results of an operation on public values."""
  pieces = _pieces(eqn, ins)
  return [
    Public(
      tuple(v.aval.shape),
      v.aval.dtype,
      _range(eqn, v.aval, ins),
      noise=_noise(eqn, ins, pieces[number] if pieces else None),
    )
    for number, v in enumerate(eqn.outvars)
  ]


def _noise(eqn: Any, ins: Sequence[Public], piece: Piece | None) -> frozenset[Noise]:
  """Random bits that enter, Gaussian as erf_inv of bits taken as uniform, times constants."""
  name = eqn.primitive.name
  if name == "random_bits":
    return frozenset([Noise(id(ins[0]), id(eqn))])
  found = frozenset().union(*(v.noise for v in ins))
  if not found:
    return found
  if name == "erf_inv":
    return frozenset(n._replace(std=math.sqrt(0.5)) for n in found)
  if piece is not None:
    return frozenset(n.cut(piece) for n in found)
  is_moved = len(ins) == 1 and (name in _MOVES or name in ("convert_element_type", "neg"))
  return found if is_moved else frozenset(n.scaled(_factor(name, ins)) for n in found)


def _factor(name: str, ins: Sequence[Public]) -> float | None:
  """By which noise is multiplied, None if it is not by one known number."""
  if name not in ("mul", "div") or all(v.noise for v in ins):
    return None
  (other,) = (v.range for v in ins if not v.noise)
  if other.low != other.high or other.low == 0 or name == "div" and ins[1].noise:
    return None
  return abs(other.low) if name == "mul" else 1 / abs(other.low)


def _pieces(eqn: Any, ins: Sequence[Public]) -> list[Piece] | None:
  """Parts along one axis that the results are of the operand."""
  p, name = eqn.params, eqn.primitive.name
  if name == "split":
    ends = list(itertools.accumulate(p["sizes"], initial=0))
    return [Piece(id(ins[0]), p["axis"], *span) for span in itertools.pairwise(ends)]
  if name == "slice":
    spans = list(zip(p["start_indices"], p["limit_indices"], ins[0].shape, strict=True))
    cut = [(axis, a, b) for axis, (a, b, n) in enumerate(spans) if (a, b) != (0, n)]
    return [Piece(id(ins[0]), *cut[0])] if len(cut) == 1 else None
  return None


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
