"""What is known of a value of a release: public, one row an example, or a sum over examples.

Bounds on numbers hold where certain intermediate results, the `suspects`, are finite.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp

from medjax.privacy.sensitivity import forms, owners
from medjax.privacy.sensitivity.chance import NOTHING, Chance
from medjax.privacy.sensitivity.equations import DType
from medjax.privacy.sensitivity.forms import Form

Cover = Mapping[int, float]
"""{atom: q} says |row|^2 >= sum_a q_a |a|^2."""
Norm = frozenset[tuple[int, float]]
"""The norm N(X) = sqrt(sum_a q_a |a|^2) of the items of a cover."""
_NO_BOUND = 2.0**31 - 1  # what an int32 may hold says nothing of the data
NONE: Mapping[Any, Any] = {}


@dataclasses.dataclass(frozen=True)
class Range:
  """Interval of all elements. `is_finite`: none is infinite, although `low` or `high` may be."""

  low: float = -math.inf
  high: float = math.inf
  is_finite: bool = False

  @property
  def cap(self) -> float:
    """Bound on the absolute value."""
    return max(abs(self.low), abs(self.high))

  @property
  def may_be_infinite(self) -> bool:
    return not self.is_finite and self.cap == math.inf


@dataclasses.dataclass(frozen=True)
class Cause:
  """Why a value is not one of single examples, or not bounded: what happened, where, what to do."""

  what: str
  where: str
  remedy: str


@dataclasses.dataclass(frozen=True, eq=False)
class Public:
  """No private value enters.

  Attributes:
    is_even: whether all elements are equal.
    chance: what of it was drawn at random.
  """

  shape: tuple[int, ...]
  dtype: DType
  range: Range = Range()  # noqa: RUF009
  is_even: bool = False
  chance: Chance = NOTHING

  @property
  def is_zero(self) -> bool:
    return self.range.low == self.range.high == 0


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """A row is a function of its own example and of public values, of no other example.

  Owned by EVERYONE it is one row, the whole array, that may depend on all examples.

  Attributes:
    owners: whose row is where, see `owners`.
    atom: name of this row in forms and covers.
    form: bound on the row's norm.
    range: range of all elements.
    covers: lower bounds on the row's norm, each by itself.
    totals: non-negative elements whose sum in a row is at least that of each cover.
    above, above_square: a factor by norm: every element x has x >= factor * N(X), or
      x >= factor * N(X)^2.
    below: a number by norm: every element x has |x| <= number / N(X).
    when: two limits by norm, for an element that is False and for one that is True: there
      N(X) <= limit.
    tests: the row of which this one says element by element whether it is finite.
    finite_when: suspects that are finite where an element is True.
    witnesses: suspects that are finite if all elements of the row are.
    is_even: whether all elements of a row are equal.
    suspects: see above.
    is_padding_zero: whether a row of weight 0 is 0 (False).
    is_repeated: whether an example may own several rows of this or of a value it came from.
    cause: cause of a value that belongs to everyone.
    chance: what of it was drawn at random.
  """

  shape: tuple[int, ...]
  dtype: DType
  owners: owners.Owners
  atom: int
  form: Form
  range: Range = Range()  # noqa: RUF009
  covers: tuple[Cover, ...] = ()
  totals: tuple[Cover, ...] = ()
  above: Mapping[Norm, float] = dataclasses.field(default_factory=dict)
  above_square: Mapping[Norm, float] = dataclasses.field(default_factory=dict)
  below: Mapping[Norm, float] = dataclasses.field(default_factory=dict)
  when: tuple[Mapping[Norm, float], Mapping[Norm, float]] = (NONE, NONE)
  tests: "Row | None" = None
  finite_when: frozenset[int] = frozenset()
  witnesses: frozenset[int] = frozenset()
  is_even: bool = False
  suspects: frozenset[int] = frozenset()
  is_padding_zero: bool = False
  is_repeated: bool = False
  cause: Cause | None = None
  chance: Chance = NOTHING

  @property
  def is_everyones(self) -> bool:
    return owners.is_everyone(self.owners)

  @property
  def width(self) -> int:
    """Elements of one row."""
    return math.prod(n for n, m in zip(self.shape, self.owners.shape, strict=True) if m == 1)

  @property
  def bounded_form(self) -> Form:
    """`form`, or the bound that follows from the range where there is none or it is smaller."""
    if not self.range.cap < _NO_BOUND:
      return self.form
    box = self.range.cap * math.sqrt(self.width)
    return self.form if forms.size(self.form) <= box else forms.at_most(box, self.atom)


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
  """A public value plus one term for every example; `form` bounds the term of each.

  Attributes:
    form: {member: [example]}.
    where: the sum over examples that it came from.
    chance: what of it was drawn at random, and the noise that was added to it.
  """

  shape: tuple[int, ...]
  dtype: DType
  form: Form
  where: str
  suspects: frozenset[int] = frozenset()
  is_padding_zero: bool = False
  chance: Chance = NOTHING


Value = Public | Row | Sum
Operand = Public | Row
"""What an operation within rows works on; a sum over examples has rules of its own."""
Linear = Public | Sum
"""What a linear operation on sums over examples works on."""
_V = TypeVar("_V", bound=Value)


def with_chance(v: _V, chance: Chance) -> _V:
  """The same value; the same object where nothing changes, so that its name stays."""
  return v if v.chance is chance else dataclasses.replace(v, chance=chance)


def is_float(dtype: DType) -> bool:
  return jnp.issubdtype(dtype, jnp.floating)


def is_wide(dtype: DType) -> bool:
  """Whether a type has the digits and the exponents of float32 or more.

  In a narrower one sums stop growing (256 + 1 = 256 in bfloat16), large numbers end at the largest
  one (6 in float4_e2m1fn), and what was proved of norms holds no more.
  """
  if not is_float(dtype):
    return False
  info, float32 = jnp.finfo(dtype), jnp.finfo(jnp.float32)
  return info.nmant >= float32.nmant and info.maxexp >= float32.maxexp
