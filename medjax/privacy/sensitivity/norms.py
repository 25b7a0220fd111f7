"""What elementwise operations say of norms: here rows are measured and clipped.

No pattern is matched as a whole. A norm gives a lower bound on itself, a quotient by it an upper
bound on a factor, and a product of a row with such a factor a bound on the row:

  v = sqrt(sum x^2)         v >= N(X)                     max(v, c) >= N(X), v + c >= N(X)
  r = K / v                 r <= K / N(X)                 min(1, r) <= K / N(X) where r >= 0
  x r, x / v                |x r| <= K |x| / N(X)         so leaves x of X are bounded by K together
  where(v > K, K x / v, x)  N(X) <= K in the second case
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from medjax.privacy.sensitivity import forms, intervals
from medjax.privacy.sensitivity.forms import Form, Term
from medjax.privacy.sensitivity.ledger import Ledger, together
from medjax.privacy.sensitivity.values import Cover, Norm, Operand, Public, Range, Row, Value


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a rule says of the row that results; the attributes are those of `Row`.

  Attributes:
    atom, form, when, tests: None where nothing is said.
    covers, totals, above, above_square, below, finite_when: empty where nothing is said.
    suspects: what must be finite for all this; None: all that the operands need.
  """

  atom: int | None = None
  form: Form | None = None
  covers: tuple[Cover, ...] = ()
  totals: tuple[Cover, ...] = ()
  above: Mapping[Norm, float] = dataclasses.field(default_factory=dict)
  above_square: Mapping[Norm, float] = dataclasses.field(default_factory=dict)
  below: Mapping[Norm, float] = dataclasses.field(default_factory=dict)
  when: tuple[Mapping[Norm, float], Mapping[Norm, float]] | None = None
  tests: Row | None = None
  finite_when: frozenset[int] = frozenset()
  suspects: frozenset[int] | None = None

  def said(self) -> dict[str, Any]:
    """The attributes of which something is said, but `suspects`."""
    found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    del found["suspects"]
    form = found.pop("form")  # an empty one says that the row is 0
    said = {name: fact for name, fact in found.items() if fact}
    return said if form is None else said | {"form": form}


def square(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Row]) -> Facts:
  if params.get("y", 2) == -1:
    return Facts(below=_Factor(ins[0], is_inverse=True).below)
  if params.get("y", 2) != 2:
    return Facts()
  above_square = {x: a * a for x, a in ins[0].above.items()}
  return Facts(totals=ins[0].covers, above_square=above_square)


def multiply(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  a, b = ins
  if a is b and isinstance(a, Row):
    return square(ledger, {}, [a])
  return _product(ledger, a, b)


def divide(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  a, b = ins
  return _product(ledger, a, b, is_quotient=True)


class _Factor:
  """What a product needs to know of one operand."""

  def __init__(self, v: Operand, is_inverse: bool = False):
    self.value = v
    self.range = v.range
    self.above = v.above if isinstance(v, Row) else {}
    self.below = v.below if isinstance(v, Row) else {}
    self.row = v if isinstance(v, Row) else None
    if is_inverse:
      self.range = intervals.fitted(intervals.inverse(self.range)[0], v.dtype)
      self.below = {x: 1 / a for x, a in self.above.items()}
      self.above, self.row = {}, None

  @property
  def cap(self) -> float:
    return self.range.cap

  @property
  def floor(self) -> float:
    """Lower bound on the absolute value."""
    low, high = self.range.low, self.range.high
    return max(low, -high, 0.0)


def _product(ledger: Ledger, x: Operand, y: Operand, is_quotient: bool = False) -> Facts:
  a, b = _Factor(x), _Factor(y, is_quotient)
  below = _scaled_facts(a.below, b.cap) | _scaled_facts(b.below, a.cap)
  above: dict[Norm, float] = {}
  if a.range.low >= 0 and b.range.low >= 0:
    above = _scaled_facts(a.above, b.floor) | _scaled_facts(b.above, a.floor)
  facts = Facts(below=below, above=above)
  if isinstance(x, Row) and isinstance(y, Public) and x.above_square and b.range.low > 0:
    facts = replace(facts, above_square=_scaled_facts(x.above_square, b.floor))
  if isinstance(x, Row) and isinstance(y, Row) and not is_quotient:
    shared = x.above.keys() & y.above.keys()
    squares = {n: x.above[n] * y.above[n] for n in shared}
    facts = replace(facts, above_square=squares)
  options = [*_clipped(a, b), *_clipped(b, a)]
  if a.row and b.row and math.isfinite(both := _norm(a.row) * _norm(b.row)):
    options.append(forms.at_most(both, ledger.number()))
  bounded = [form for form in options if forms.is_bounded(form)]
  if bounded:
    best = min(bounded, key=lambda form: float(f"{forms.size(form):.9g}"))
    facts = replace(facts, form=best)
    was = [f.row for f in (a, b) if f.row]
    if not any(forms.is_bounded(r.bounded_form) and r.width > 1 for r in was):
      ledger.note("clips rows", forms.size(best))
  elif options:
    facts = replace(facts, form=options[0])
  for f, other in ((a, b), (b, a)):
    if f.row and other.row is None and other.floor > 0 and isinstance(other.value, Public):
      atom = ledger.number()
      lower = [{m: q * other.floor**2 for m, q in cover.items()} for cover in f.row.covers]
      facts = replace(facts, atom=atom, covers=({atom: 1.0}, *lower))
      if f.row.totals and other.range.low > 0:
        totals = ({m: q * other.floor for m, q in c.items()} for c in f.row.totals)
        facts = replace(facts, totals=tuple(totals))
  return facts


def _norm(row: Row) -> float:
  return float(forms.size(row.bounded_form))


def _scaled_facts(facts: Mapping[Norm, float], factor: float) -> dict[Norm, float]:
  return {x: k * factor for x, k in facts.items() if 0 < factor < math.inf}


def _clipped(row: _Factor, factor: _Factor) -> list[Form]:
  """Bounds of a row times a factor."""
  if row.row is None:
    return []
  found = []
  for norm, k in sorted(factor.below.items(), key=lambda item: -len(item[0])):
    for form in ({Term(None, row.row.atom): 1.0}, row.row.form):
      if (shrunk := through(form, norm, k, factor.cap)) is not None:
        found.append(shrunk)
  if factor.cap < math.inf:
    if forms.is_bounded(row.row.bounded_form):
      found.append(forms.scaled(row.row.bounded_form, factor.cap))
    found.append(forms.scaled(row.row.form, factor.cap))
  return found


_SMALLEST = 1e-12
"""Norms below it are not trusted: in float32 the squares of numbers below 1e-19 are 0."""


def through(form: Form, norm: Norm, k: float, cap: float) -> Form | None:
  """Bound of a row times a factor that is at most k / N(norm), and at most `cap`."""
  if k < _SMALLEST:
    return None
  weights = dict(norm)
  out: dict[Term, float] = {}
  for member, q in form.items():
    if member.family is not None and cap < math.inf:
      out[member] = out.get(member, 0.0) + q * cap**2
    elif member.family is None and weights.get(member.atom, 0.0) > 0:
      unit = Term(("unit", norm), member.atom, member.piece)
      out[unit] = out.get(unit, 0.0) + q * k**2 / weights[member.atom]
    else:
      return None
  return out


def add(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  a, b = ins
  facts = difference(ledger, params, ins)
  sources = [(a, b), (b, a)]
  above: dict[Norm, float] = {}
  square: dict[Norm, float] = {}
  totals: list[Cover] = []
  for v, other in sources:
    if isinstance(v, Row) and other.range.low >= 0:
      above |= v.above
      square |= v.above_square
      totals += v.totals
  if isinstance(a, Row) and isinstance(b, Row):
    if a.totals and b.totals:
      totals = [forms.stacked(a.totals[i], b.totals[i]) for i in (0, -1)]
    square = _sums(a, b) or square
  return replace(facts, above=above, above_square=square, totals=tuple(totals))


def _sums(a: Row, b: Row) -> dict[Norm, float]:
  """v >= N(X)^2 and w >= N(Y)^2 give v + w >= N(X u Y)^2, in the coarsest and the finest names."""
  out = {}
  if a.above_square and b.above_square:
    for i in (0, -1):
      parts = [list(r.above_square.items())[i] for r in (a, b)]
      cover: dict[int, float] = {}
      for norm, scale in parts:
        cover = forms.stacked(cover, {m: q * scale for m, q in norm})
      out[frozenset(cover.items())] = 1.0
  return out


def difference(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  a, b = ins
  if not (isinstance(a, Row) and isinstance(b, Row)):
    return Facts()
  below = {x: a.below[x] + b.below[x] for x in a.below.keys() & b.below.keys()}
  facts = Facts(below=below)
  if forms.is_bounded(a.bounded_form) and forms.is_bounded(b.bounded_form):
    facts = replace(facts, form=forms.added(a.bounded_form, b.bounded_form))
  return facts


def maximum(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  a, b = (_Factor(v) for v in ins)
  below = _larger([a, b], [{}, {}])
  square: dict[Norm, float] = {}
  for v in ins:
    square |= v.above_square if isinstance(v, Row) else {}
  return Facts(below=below, above={**a.above, **b.above}, above_square=square)


def minimum(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  a, b = (_Factor(v) for v in ins)
  above = {x: min(a.above[x], b.above[x]) for x in a.above.keys() & b.above.keys()}
  if a.range.low >= 0 and b.range.low >= 0:
    below = dict(a.below)
    for x, k in b.below.items():
      below[x] = min(k, below.get(x, math.inf))
  else:
    below = _larger([a, b], [{}, {}])
  return Facts(below=below, above=above)


def root(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Row]) -> Facts:
  return Facts(above={x: math.sqrt(a) for x, a in ins[0].above_square.items()})


def inverse_root(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Row]) -> Facts:
  return Facts(below={x: 1 / math.sqrt(a) for x, a in ins[0].above_square.items()})


def power(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  base, exponent = ins
  ends = exponent.range if isinstance(exponent, Public) else Range()
  if not isinstance(base, Row) or ends.low != ends.high:
    return Facts()
  rules = {0.5: root, -0.5: inverse_root}
  if ends.low == -1.0:
    return Facts(below=_Factor(base, is_inverse=True).below)
  return rules[ends.low](ledger, params, [base]) if ends.low in rules else Facts()


def clamp(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  low, x, high = ins
  if not isinstance(x, Row):
    return Facts()
  is_cut = low.range.high <= 0 <= min(high.range.low, x.range.low)
  return Facts(below=x.below) if is_cut else Facts()


def negate(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Row]) -> Facts:
  (a,) = ins
  return Facts(atom=a.atom, form=a.form, below=a.below, covers=a.covers)


def absolute(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Row]) -> Facts:
  (a,) = ins
  return replace(negate(ledger, params, ins), above=a.above, above_square=a.above_square)


def compare(name: str) -> Callable[[Ledger, Mapping[str, Any], Sequence[Operand]], Facts]:
  def rule(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
    left, right = ins if name in ("lt", "le", "eq") else (ins[1], ins[0])
    if name == "ne":
      return Facts()
    # left <= right where True, right <= left where False
    false = _limits(right, left) if name != "eq" else {}
    return Facts(when=(false, _limits(left, right)))

  return rule


def _limits(v: Operand, bound: Operand) -> dict[Norm, float]:
  """N(X) <= r from v <= bound."""
  if not isinstance(v, Row) or not bound.range.high < math.inf:
    return {}
  high = max(bound.range.high, 0.0)
  limits = {x: high / a for x, a in v.above.items()}
  return limits | {x: math.sqrt(high / a) for x, a in v.above_square.items()}


def finite(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Row]) -> Facts:
  (a,) = ins
  finite_when = a.witnesses if a.is_even else frozenset()
  return Facts(tests=a, finite_when=finite_when, suspects=frozenset())


def both(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  rows = [v for v in ins if isinstance(v, Row)]
  if rows[0].dtype != jnp.bool_:
    return Facts()
  when: dict[Norm, float] = {}
  for row in rows:
    when |= row.when[1]
  finite_when = frozenset().union(*(r.finite_when for r in rows))
  return Facts(when=({}, when), finite_when=finite_when)


def opposite(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Row]) -> Facts:
  return Facts(when=ins[0].when[::-1]) if ins[0].dtype == jnp.bool_ else Facts()


def select(ledger: Ledger, params: Mapping[str, Any], ins: Sequence[Operand]) -> Facts:
  pred, *cases = ins
  if isinstance(pred, Row) and len(cases) == 2 and _is_bare(cases[1]) and pred.tests is cases[1]:
    if not _is_zero(cases[0]):
      return Facts()
    return Facts(form=pred.tests.form, suspects=together(cases[0]))
  limits = pred.when if isinstance(pred, Row) and len(cases) == 2 else ({},) * len(cases)
  factors = [_Factor(case) for case in cases]
  below = _larger(factors, limits)
  shared = set.intersection(*(set(f.above) for f in factors))
  facts = Facts(below=below, above={x: min(f.above[x] for f in factors) for x in shared})
  found = [_case_form(case, limit) for case, limit in zip(cases, limits, strict=True)]
  options = [form for form in found if form is not None]
  if len(options) == len(cases):
    form = _either(ledger, options) if is_even(pred) else forms.stacked(*options)
    facts = replace(facts, form=form)
    rows = [case for case in cases if isinstance(case, Row)]
    is_new = not all(forms.is_bounded(r.bounded_form) for r in rows)
    if is_new and forms.is_bounded(form):
      ledger.note("clips rows", forms.size(form))
  if isinstance(pred, Row):
    kept = together(cases[1]) - pred.finite_when if len(cases) == 2 else together(*cases)
    facts = replace(facts, suspects=together(pred, cases[0]) | kept)
  return facts


def is_even(v: Operand) -> bool:
  """Whether all elements of a row are equal."""
  return v.is_even or (isinstance(v, Public) and v.range.low == v.range.high)


def _is_zero(v: Value) -> bool:
  return isinstance(v, Public) and v.is_zero


def _is_bare(v: Operand) -> bool:
  """Whether nothing is claimed of a row but that it is finite."""
  return isinstance(v, Row) and v.form == forms.free(v.atom) and v.suspects <= v.witnesses


def _larger(
  factors: Sequence[_Factor], limits: Sequence[Mapping[Norm, float]]
) -> dict[Norm, float]:
  """{X: k} with k / N(X) at least the largest of the factors, where N(X) obeys its limits."""
  below: dict[Norm, float] = {}
  pairs = list(zip(factors, limits, strict=True))
  for norm in dict.fromkeys(n for f, limit in pairs for n in (*f.below, *limit)):
    k = max(_product_limit(f, limit, norm) for f, limit in pairs)
    if k < math.inf:
      below[norm] = k
  return below


def _product_limit(f: _Factor, limit: Mapping[Norm, float], norm: Norm) -> float:
  """k of |case| N(X) <= k."""
  if _is_zero(f.value):
    return 0.0
  known = [f.below.get(norm, math.inf)]
  if norm in limit and f.cap < math.inf:
    known.append(f.cap * limit[norm])
  return min(known)


def _case_form(case: Operand, limit: Mapping[Norm, float]) -> Form | None:
  if isinstance(case, Public):
    return {} if case.is_zero else None
  if forms.is_bounded(case.bounded_form):
    return case.bounded_form
  for norm, r in limit.items():
    for form in (forms.free(case.atom), case.form):
      if (found := through(form, norm, r, 1.0)) is not None:
        return found
  return case.form


def _either(ledger: Ledger, options: Sequence[Form]) -> Form:
  joint = forms.either(*options)
  if not forms.is_bounded(joint):
    return joint
  largest = max(float(forms.size(form)) for form in options)
  if forms.size(joint) <= largest * (1 + 1e-12):
    return joint
  return forms.at_most(largest, ledger.number())
