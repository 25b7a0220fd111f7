"""What a row of the table of primitives holds; the rows themselves stand in `primitives`."""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from medjax.privacy.sensitivity.equations import DType
from medjax.privacy.sensitivity.values import Range, Value


class Kind(enum.Enum):
  """How the walk treats an equation."""

  CALL = "runs the program that it holds"
  LOOP = "scan, while and cond: a rule that runs programs"
  PASS = "hands its operands on"
  ELEMENTWISE = "each element of the result from those at the same place"
  WHOLE = "a rule of its own for rows"


class Asked(NamedTuple):
  """What the rule of an interval is asked.

  Attributes:
    params: parameters of the equation.
    dtype: type of the result.
    ins: intervals of the operands.
    is_self: whether both operands are one value.
  """

  params: Mapping[str, Any]
  dtype: DType
  ins: Sequence[Range]
  is_self: bool = False


RangeRule: TypeAlias = Callable[[Asked], tuple[Range, bool]]
"""(interval of the result, whether it is no NaN and, where that is claimed, not infinite)."""
PrimitiveRule: TypeAlias = Callable[..., list[Value]]
"""rule(ledger, equation, operands); of a loop rule(walker, equation, operands)."""


@dataclasses.dataclass(frozen=True)
class Primitive:
  """Attributes:
  kind: how the walk treats it.
  rule: on operands of which one is a row; None where `kind` says it.
  range: of an elementwise one, the interval of the result; None: anything.
  facts: of an elementwise one, what the result says of norms.
  linear: on operands of which one is a sum over examples; None: not linear.
  law: of noise in the elements of the results, `noise.Found`.
  moved: moved(equation, array) -> where the elements go, for numbers that are only moved.
  num_bounding: so many operands bound the result of public ones, which are their elements.
  zero_at_zero: whether f(0) = 0 although the interval does not say it.
  spreads: whether a number that is not finite makes the result not finite.
  is_alias: whether the result is the operand.
  """

  kind: Kind
  rule: PrimitiveRule | None = None
  range: RangeRule | None = None
  facts: Callable[..., Any] | None = None
  linear: PrimitiveRule | None = None
  law: Callable[..., Any] | None = None
  moved: Callable[..., Any] | None = None
  num_bounding: int = 0
  zero_at_zero: bool = False
  spreads: bool = False
  is_alias: bool = False


UNKNOWN = Primitive(Kind.WHOLE)
"""Stands for a primitive without a row: refused on private values."""
Table: TypeAlias = Mapping[str, Primitive]
