"""Intervals of elementwise operations, and whether they can make a NaN of numbers that are none."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from medjax.privacy.sensitivity.equations import DType
from medjax.privacy.sensitivity.kinds import Asked, RangeRule
from medjax.privacy.sensitivity.values import Range

_INF = math.inf


def of(rule: RangeRule | None, asked: Asked) -> tuple[Range, bool]:
  """(range of the result, whether it is no NaN and, where `is_finite` is claimed, not infinite)."""
  if any(math.isnan(x) for r in asked.ins for x in (r.low, r.high)):
    return default(asked.dtype), False
  found, is_sound = (Range(), False) if rule is None else rule(asked)
  return fitted(found, asked.dtype), is_sound


def fitted(found: Range, dtype: DType) -> Range:
  """A range in the numbers of a type: integers wrap around, floats overflow."""
  if dtype == jnp.bool_:
    return _cut(found, 0.0, 1.0)
  if jnp.issubdtype(dtype, jnp.integer):
    info = jnp.iinfo(dtype)
    ends = zip((math.floor, math.ceil), (found.low, found.high), strict=True)
    found = Range(*(x if abs(x) == _INF else float(r(x)) for r, x in ends), is_finite=True)
    is_inside = int(info.min) <= found.low and found.high <= int(info.max)
    return found if is_inside else default(dtype)
  if not jnp.issubdtype(dtype, jnp.floating):
    return Range()
  largest = float(jnp.finfo(dtype).max)
  low, high = (
    float(np.asarray(x, dtype)) if abs(x) <= largest and dtype != jnp.float64 else x
    for x in (found.low, found.high)
  )  # rounding to the nearest number keeps the order, so that it moves the ends as what is between
  low, high = (x if abs(x) <= largest else math.copysign(_INF, x) for x in (low, high))
  return Range(low, high, found.is_finite or max(abs(low), abs(high)) < _INF)


def default(dtype: DType) -> Range:
  """What the type says."""
  if dtype == jnp.bool_:
    return Range(0.0, 1.0, True)
  if jnp.issubdtype(dtype, jnp.integer):
    info = jnp.iinfo(dtype)
    return Range(float(info.min), float(info.max), True)
  return Range()


def union(*several: Range) -> Range:
  return Range(
    min(r.low for r in several), max(r.high for r in several), all(r.is_finite for r in several)
  )


def _cut(r: Range, low: float, high: float) -> Range:
  return Range(min(max(r.low, low), high), max(min(r.high, high), low), True)


def within(low: float, high: float) -> RangeRule:
  """Of a function that never leaves an interval."""
  return lambda asked: (Range(low, high, True), True)


def each(function: Callable[..., tuple[Range, bool]]) -> RangeRule:
  """Of a function of the operands' intervals alone."""
  return lambda asked: function(*asked.ins)


def wave(asked: Asked) -> tuple[Range, bool]:
  """Of sine and cosine, which are NaN at infinity."""
  return Range(-1.0, 1.0, True), not asked.ins[0].may_be_infinite


def same(asked: Asked) -> tuple[Range, bool]:
  return asked.ins[0], True


def stepped(asked: Asked) -> tuple[Range, bool]:
  """Of rounding to a whole number."""
  a = asked.ins[0]
  return Range(a.low - 1, a.high + 1, a.is_finite), True


def negated_bits(asked: Asked) -> tuple[Range, bool]:
  """Of `not`: the other truth value, or all bits of an integer."""
  if asked.dtype != jnp.bool_:
    return default(asked.dtype), True
  return Range(1 - asked.ins[0].high, 1 - asked.ins[0].low, True), True


def compared(name: str) -> RangeRule:
  return lambda asked: (_compared(name, asked.ins, asked.is_self), True)


def chosen(name: str) -> RangeRule:
  return lambda asked: (_chosen(name, asked.ins), True)


def product(asked: Asked) -> tuple[Range, bool]:
  return _square(asked.ins[0]) if asked.is_self else _product(*asked.ins)


def quotient(asked: Asked) -> tuple[Range, bool]:
  return (Range(), False) if asked.is_self else _quotient(*asked.ins)


def square(asked: Asked) -> tuple[Range, bool]:
  return _square(asked.ins[0])


def whole_power(asked: Asked) -> tuple[Range, bool]:
  """Of x^y with a whole y that is part of the program."""
  a, y = asked.ins[0], asked.params["y"]
  if y == 2:
    return _square(a)
  if y > 0 and y % 2 == 0:
    return Range(0.0, _raised(a.cap, y)), True
  if y > 0:
    return Range(_raised(a.low, y), _raised(a.high, y)), True
  return inverse(a) if y == -1 else (Range(), False)


def inverse(a: Range) -> tuple[Range, bool]:
  return _quotient(Range(1.0, 1.0, True), a)


def converted(asked: Asked) -> tuple[Range, bool]:
  a, dtype = asked.ins[0], asked.params["new_dtype"]
  if dtype == jnp.bool_:
    return Range(0.0, 0.0 if a.low == a.high == 0 else 1.0, True), True
  if jnp.issubdtype(dtype, jnp.integer):
    return Range(a.low, a.high, is_finite=True), not a.may_be_infinite
  return a, True


def _compared(name: str, ins: Sequence[Range], is_self: bool) -> Range:
  always, never = Range(1.0, 1.0, True), Range(0.0, 0.0, True)
  if len(ins) == 2:
    a, b = ins
    if is_self or a.low == a.high == b.low == b.high:
      return always if name in ("eq", "le", "ge") else never
    if name in ("gt", "ge"):
      a, b, name = b, a, {"gt": "lt", "ge": "le"}[name]
    b_infinite = b.low == b.high and abs(b.low) == _INF and a.is_finite
    if name in ("eq", "ne") and (a.high < b.low or b.high < a.low or b_infinite):
      return never if name == "eq" else always
    if name in ("lt", "le") and a.high < b.low:
      return always
    if name == "le" and a.low > b.high or name == "lt" and a.low >= b.high:
      return never
  return Range(0.0, 1.0, True)


def _chosen(name: str, ins: Sequence[Range]) -> Range:
  if name == "select_n":
    pred, *cases = ins
    if pred.low == pred.high:
      return cases[int(pred.low)]
    return union(*cases)
  if name == "clamp":
    low, x, high = ins
    return _chosen("min", [_chosen("max", [x, low]), high])
  a, b = ins
  pick = max if name == "max" else min
  low, high = pick(a.low, b.low), pick(a.high, b.high)
  # an infinite operand is replaced by the other only if that one bounds it from its side
  if a.is_finite and b.is_finite:
    return Range(low, high, True)
  return Range(low, high, max(abs(low), abs(high)) < _INF)


def _sum(a: Range, b: Range) -> tuple[Range, bool]:
  is_sound = not (a.may_be_infinite and b.may_be_infinite) or (
    min(a.low, b.low) > -_INF or max(a.high, b.high) < _INF
  )
  low = -_INF if -_INF in (a.low, b.low) else a.low + b.low
  high = _INF if _INF in (a.high, b.high) else a.high + b.high
  return Range(low, high), is_sound


def _times(x: float, y: float) -> float:
  return 0.0 if x == 0 or y == 0 else x * y


def _product(a: Range, b: Range) -> tuple[Range, bool]:
  ends = [_times(x, y) for x, y in itertools.product((a.low, a.high), (b.low, b.high))]
  is_finite = (a.is_finite and b.cap <= 1) or (b.is_finite and a.cap <= 1)
  has_zero = [r.low <= 0 <= r.high for r in (a, b)]
  is_sound = not (a.may_be_infinite and has_zero[1] or b.may_be_infinite and has_zero[0])
  return Range(min(ends), max(ends), is_finite), is_sound


def _square(a: Range) -> tuple[Range, bool]:
  low = 0.0 if a.low <= 0 <= a.high else min(a.low**2, a.high**2)
  return Range(low, _raised(a.cap, 2)), True


def _raised(x: float, power: int) -> float:
  try:
    return x**power
  except OverflowError:
    return math.copysign(_INF, x) if power % 2 else _INF


def _quotient(a: Range, b: Range) -> tuple[Range, bool]:
  if b.low < 0 < b.high or b.low == b.high == 0:
    inverse = Range()
  else:
    ends = [(-_INF if b.high <= 0 else _INF) if x == 0 else 1 / x for x in (b.low, b.high)]
    inverse = Range(min(ends), max(ends))
  found, _ = _product(a, inverse)
  holds_zero = [r.low <= 0 <= r.high for r in (a, b)]
  is_sound = not (all(holds_zero) or (a.may_be_infinite and b.may_be_infinite))
  return found, is_sound


def _monotone(function: Callable[[float], float], low: float = -_INF) -> Any:
  """Of an increasing function on [low, inf)."""

  def end(x: float) -> float:
    try:
      return function(x)
    except (OverflowError, ValueError):
      return _INF if x > 0 else -_INF

  def rule(a: Range) -> tuple[Range, bool]:
    return Range(end(max(a.low, low)), end(max(a.high, low))), a.low >= low

  return rule


def _rsqrt(a: Range) -> tuple[Range, bool]:
  low, high = (1 / math.sqrt(x) if x > 0 else _INF for x in (max(a.high, 0.0), max(a.low, 0.0)))
  return Range(low, high), a.low >= 0


def _absolute(a: Range) -> tuple[Range, bool]:
  low = 0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high))
  return Range(low, a.cap, a.is_finite), True


def _both(a: Range, b: Range) -> tuple[Range, bool]:
  """Of `and`: bits of non-negative numbers."""
  if min(a.low, b.low) < 0:
    return Range(), True
  return Range(0.0, min(a.high, b.high), True), True


def _either(a: Range, b: Range) -> tuple[Range, bool]:
  """Of `or` on truth values."""
  if max(a.high, b.high) > 1 or min(a.low, b.low) < 0:
    return Range(), True
  return Range(max(a.low, b.low), 1.0, True), True


negative = each(lambda a: (Range(-a.high, -a.low, a.is_finite), True))
absolute = each(_absolute)
sign = each(lambda a: (Range(-1.0 if a.low < 0 else 0.0, 1.0 if a.high > 0 else 0.0, True), True))
total = each(_sum)
difference = each(lambda a, b: _sum(a, Range(-b.high, -b.low, b.is_finite)))
both_bits = each(_both)
either_bits = each(_either)
exp = each(_monotone(math.exp))
exp2 = each(_monotone(lambda x: 2.0**x))
expm1 = each(_monotone(math.expm1))
log = each(_monotone(lambda x: math.log(x) if x > 0 else -_INF, 0.0))
log1p = each(_monotone(lambda x: math.log1p(x) if x > -1 else -_INF, -1.0))
root = each(_monotone(math.sqrt, 0.0))
inverse_root = each(_rsqrt)
