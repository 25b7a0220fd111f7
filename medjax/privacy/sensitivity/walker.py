"""The walk through a jaxpr, and the error that names where a proof breaks off."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from medjax import check
from medjax.grads.contract import Contract, contract_of, is_marked
from medjax.privacy.sensitivity import elementwise, hidden, noise, owners, public, sums, trusted
from medjax.privacy.sensitivity.chance import Chance
from medjax.privacy.sensitivity.equations import TracedEquation
from medjax.privacy.sensitivity.kinds import Kind, Primitive, PrimitiveRule
from medjax.privacy.sensitivity.ledger import Ledger, constant
from medjax.privacy.sensitivity.owners import MixesError
from medjax.privacy.sensitivity.values import Cause, Public, Range, Row, Sum, Value


class Walker:
  """Abstract values of a program, equation by equation.

  Attributes:
    ledger: what is written down on the way.
  """

  def __init__(self, ledger: Ledger):
    self.ledger = ledger
    self._done: dict[Any, tuple[Sequence[Value], list[Value]]] = {}
    self._literals: dict[Any, Public] = {}

  def run(self, closed: Any, arguments: Sequence[Value]) -> list[Value]:
    """Results of a jaxpr."""
    jaxpr, consts = _opened(closed)
    names: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
    names.update(zip(jaxpr.constvars, map(constant, consts), strict=True))
    for eqn in jaxpr.eqns:
      ins = [self._read(names, atom) for atom in eqn.invars]
      names.update(zip(eqn.outvars, self._equation(eqn, ins), strict=True))
    return [self._read(names, atom) for atom in jaxpr.outvars]

  def _read(self, names: dict[Any, Value], atom: Any) -> Value:
    if not isinstance(atom, core.Literal):
      return names[atom]
    numbers = np.asarray(atom.val, getattr(atom.aval, "dtype", None))
    if numbers.ndim:
      return constant(numbers)
    return self._literals.setdefault((str(atom.aval), numbers.tobytes()), constant(numbers))

  def _equation(self, eqn: TracedEquation, ins: list[Any]) -> list[Value]:
    name = eqn.primitive.name
    self.ledger.at(eqn)
    is_private = not all(isinstance(v, Public) for v in ins)
    if is_private and hidden.is_shown(eqn):
      _refuse_to_show(self.ledger.where)
    contract = contract_of(eqn)
    if is_private and is_marked(eqn) and (contract is None or not trusted.fits(contract, eqn)):
      what = "is a clipped_sum changed by vmap or another transformation"
      return self.given_up(eqn, ins, what, "call it on one batch; loop over parts with lax.scan")
    if contract is not None and is_private:
      return self._clipped_sum(eqn, contract, ins)
    row = self.ledger.primitive(name)
    if row.kind is Kind.PASS:
      return list(ins)
    draw = noise.drawn(self.ledger, eqn, ins) or noise.added(self.ledger, eqn, ins)
    if draw is not None:
      return [self._published(v) for v in draw]
    if row.kind is Kind.CALL and _body(eqn) is not None:
      with self.ledger.inside():
        return self.run(_body(eqn), ins)
    if row.kind is Kind.LOOP:
      return self._parameters_read(lambda: _rule_of(row)(self, eqn, ins), eqn, ins)
    shapes = tuple(str(v.aval) for v in eqn.outvars)
    key = (name, repr(eqn.params), tuple(map(id, ins)), shapes)
    if key not in self._done:
      self._done[key] = (ins, self._parameters_read(lambda: self._single(eqn, ins), eqn, ins))
    return self._done[key][1]

  def _single(self, eqn: TracedEquation, ins: list[Value]) -> list[Value]:
    """Results of an operation that holds no program."""
    publics = [v for v in ins if isinstance(v, Public)]
    if len(publics) == len(ins):
      row = self.ledger.primitive(eqn.primitive.name)
      found: list[Value] = list(public.apply(row, eqn, publics))
    else:
      found = self._guarded(eqn, ins, lambda v: self._rule(eqn, v))
    return [self._published(v) for v in noise.followed(self.ledger, eqn, ins, found)]

  def _published(self, v: Value) -> Value:
    """A sum that its noise made public, as a public value, where the walk takes note of that."""
    law, released = v.chance.law, self.ledger.released
    if released is None or law is None or not isinstance(v, Sum) or not law.is_everywhere:
      return v
    released.append((self.ledger.where, v))
    return Public(v.shape, v.dtype, chance=Chance(used=v.chance.used))

  def _parameters_read(self, rule: Any, eqn: TracedEquation, ins: list[Value]) -> list[Value]:
    """Results of a rule; where it looks for a parameter that this JAX calls otherwise, unknown."""
    try:
      return rule()
    except (KeyError, AttributeError) as problem:
      what = f"has not the parameters that the check knows ({problem})"
      return self.given_up(eqn, ins, what, "use a version of JAX that medjax is tested with")

  def _clipped_sum(self, eqn: TracedEquation, contract: Contract, ins: list[Any]) -> list[Value]:
    """Results of a clipped_sum, whose loss must keep to one example and to itself."""
    found = hidden.mixing(eqn.params["jaxpr"])
    if found is not None:
      raise check.InputError(
        "a clipped_sum whose loss uses one example and shows none",
        f"{found} inside of {self.ledger.where}",
        "write the loss with JAX operations on one example: callbacks see the batch, and"
        " collectives bring in the examples of other devices",
      )
    outs = self._guarded(eqn, ins, lambda v: trusted.apply(self.ledger, eqn, contract, v))
    return [noise.blended(self.ledger, out, ins) for out in outs]

  def _rule(self, eqn: TracedEquation, ins: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    coupled = next((v for v in ins if isinstance(v, Row) and v.is_everyones), None)
    if coupled is not None and coupled.cause is not None:
      ins = [self.ledger.everyones(v, coupled.cause) for v in ins]
    if any(isinstance(v, Sum) for v in ins):
      out = sums.apply(self.ledger, eqn, ins)
    else:
      out = _rule_of(self.ledger.primitive(name))(self.ledger, eqn, ins)
    nothing = Range(0.0, 0.0, True)
    return [Public(v.shape, v.dtype, nothing) if 0 in v.shape else v for v in out]

  def _guarded(self, eqn: TracedEquation, ins: list[Value], rule: Any) -> list[Value]:
    """Results of a rule; where examples mix, values that depend on all of them."""
    try:
      return rule(ins)
    except UnknownError:
      what = "is an operation that the check does not know"
      return self.given_up(eqn, ins, what, "write it with others, or outside of the release")
    except MixesError as problem:
      cause = Cause(problem.args[0], self.ledger.where, problem.args[1])
    mixed = [self.ledger.everyones(v, self._first(ins, cause)) for v in ins]
    try:
      return rule(mixed)
    except (MixesError, UnknownError):
      return self.given_up(eqn, mixed, cause.what, cause.remedy)

  def given_up(
    self, eqn: TracedEquation, ins: Sequence[Value], what: str, remedy: str
  ) -> list[Value]:
    """Results that may depend on all examples in any way."""
    self.ledger.at(eqn)
    if hidden.shows(eqn):
      _refuse_to_show(self.ledger.where)
    cause = self._first(ins, Cause(what, self.ledger.where, remedy))
    rows = [
      self.ledger.fresh(v.aval, owners.everyone(len(v.aval.shape)), cause=cause)
      for v in eqn.outvars
    ]
    return [noise.blended(self.ledger, row, ins) for row in rows]

  def _first(self, ins: Sequence[Value], cause: Cause) -> Cause:
    """The cause of an operand, if it has one: the first place tells most."""
    earlier = [v.cause for v in ins if isinstance(v, Row) and v.cause is not None]
    return earlier[0] if earlier else cause


def _refuse_to_show(where: str) -> None:
  raise check.InputError(
    "a release without side effects",
    f"private values in {where}",
    "remove the callback or print: what it shows has no noise",
  )


def _rule_of(row: Primitive) -> PrimitiveRule:
  """The rule of a primitive on rows; raises UnknownError where there is none."""
  if row.kind is Kind.ELEMENTWISE:
    return elementwise.apply
  if row.rule is None:
    raise UnknownError
  return row.rule


class UnknownError(Exception):
  """No rule for an operation on private values."""


def _body(eqn: TracedEquation) -> Any:
  """The jaxpr that a call runs."""
  for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
    if name in eqn.params:
      return eqn.params[name]
  return None


def _opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
  return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())
