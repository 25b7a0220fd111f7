"""scan, while and cond: step by step over examples, else what holds for every step."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from medjax.privacy.sensitivity import elementwise, forms, intervals, noise, owners, parts, sums
from medjax.privacy.sensitivity.chance import Chance
from medjax.privacy.sensitivity.equations import Aval, Equation, InnerEquation
from medjax.privacy.sensitivity.ledger import Ledger
from medjax.privacy.sensitivity.owners import MixesError
from medjax.privacy.sensitivity.values import Cause, Public, Row, Sum, Value

_UNROLLED = 64
"""Steps up to which a loop is unrolled in any case."""
PREDICATE = "stop or branch by public values; jnp.where chooses for single examples"


def scan(walker: Any, eqn: Equation, ins: list[Value]) -> list[Value]:
  p = eqn.params
  first, count, length = p["num_consts"], p["num_carry"], p["length"]
  consts, carry, xs = ins[:first], ins[first : first + count], ins[first + count :]
  is_by_example = any(isinstance(x, Row) and owners.varies(x.owners, 0) for x in xs)
  if length and (is_by_example or length <= _UNROLLED):
    slots: list[list[Value]] = [[] for _ in eqn.outvars[count:]]
    steps = range(length)
    for step in reversed(steps) if p["reverse"] else steps:
      out = walker.run(p["jaxpr"], [*consts, *carry, *(_part(walker, x, step) for x in xs)])
      carry = out[:count]
      for slot, y in zip(slots, out[count:], strict=True):
        slot.append(y)
    walker.ledger.at(eqn)
    ys = [
      _stacked(walker, eqn, v.aval, slot[::-1] if p["reverse"] else slot)
      for v, slot in zip(eqn.outvars[count:], slots, strict=True)
    ]
  else:
    any_x = [_part(walker, x, None) for x in xs]
    carry, out = _steady(
      walker, eqn, lambda c: walker.run(p["jaxpr"], [*consts, *c, *any_x]), carry
    )
    ys = [
      _repeated(walker, v.aval, y) for v, y in zip(eqn.outvars[count:], out[count:], strict=True)
    ]
  return [*carry, *ys]


def _part(walker: Any, x: Any, step: int | None) -> Value:
  """x[step]; step None: of any step."""
  aval = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
  if isinstance(x, Public):
    return _of_step(walker.ledger, x, step)
  if step is not None:
    found = parts.element(walker.ledger, x, 0, step)
  elif isinstance(x, Sum):
    found = dataclasses.replace(x, shape=aval.shape)
  else:
    known = {"is_padding_zero": x.is_padding_zero, "is_repeated": x.is_repeated}
    found = walker.ledger.fresh(aval, x.owners[0], **known)
  return noise.blended(walker.ledger, found, [x])


def _of_step(ledger: Ledger, x: Public, step: int | None) -> Public:
  """A public value at a step; of its noise only the keys are remembered."""
  one = dataclasses.replace(x, shape=x.shape[1:])
  if x.chance.keys is None or step is None:
    return noise.spent(ledger, one)
  return dataclasses.replace(
    one, chance=Chance(keys=x.chance.keys[step : step + 1].reshape(one.shape))
  )


def _stacked(walker: Any, eqn: Equation, aval: Aval, steps: Sequence[Any]) -> Value:
  if all(isinstance(v, Public) for v in steps):
    every = intervals.union(*(v.range for v in steps))
    return noise.blended(walker.ledger, Public(tuple(aval.shape), aval.dtype, every), steps)
  try:
    wide = [parts.widened(walker.ledger, v, 0) for v in steps]
    return noise.blended(walker.ledger, parts.joined(walker.ledger, aval, wide, 0), steps)
  except MixesError as problem:
    return walker.given_up(eqn, steps, *problem.args)[0]


def _repeated(walker: Any, aval: Aval, y: Value) -> Value:
  """Results of all steps, of which one is known."""
  if isinstance(y, Public):
    every = dataclasses.replace(y, shape=tuple(aval.shape), is_even=False)
    return noise.spent(walker.ledger, every)
  if isinstance(y, Sum):
    what = "collects sums over the batch in a long loop"
    cause = Cause(what, walker.ledger.where, f"add them up, in at most {_UNROLLED} steps")
    row = walker.ledger.fresh(aval, owners.everyone(len(aval.shape)), y, cause=cause)
    return noise.blended(walker.ledger, row, [y])
  known: dict[str, Any] = {"is_padding_zero": y.is_padding_zero, "range": y.range}
  if math.isfinite(bound := float(forms.size(y.bounded_form))):
    every = bound * math.sqrt(aval.shape[0])
    known["form"] = forms.at_most(every, walker.ledger.number())
  return noise.blended(walker.ledger, walker.ledger.fresh(aval, y.owners[None], y, **known), [y])


def _steady(
  walker: Any, eqn: Equation, body: Callable[[list[Value]], list[Value]], carry: list[Value]
) -> tuple[list[Value], list[Value]]:
  """What holds of a carry before every step, and results of one such step."""
  for _ in range(6 * len(carry) + 6):
    start = [_forgotten(walker, eqn, v) for v in carry]
    out = body(start)
    walker.ledger.at(eqn)
    joint = [_join(walker, eqn, a, b) for a, b in zip(start, out[: len(carry)], strict=True)]
    if all(_kind(a) == _kind(b) for a, b in zip(start, joint, strict=True)):
      return joint, out
    carry = joint
  raise AssertionError("a loop whose values do not settle")


def _kind(v: Any) -> tuple[object, ...]:
  if isinstance(v, Public):
    return "public", v.chance.used
  kind = "row", v.owners.shape, v.owners.tobytes(), v.is_padding_zero, v.is_repeated
  return *kind, v.chance.used


def _forgotten(walker: Any, eqn: Equation, v: Value) -> Value:
  """A value of the same kind of which nothing else is known."""
  if isinstance(v, Public):
    known = {"range": intervals.default(v.dtype), "is_even": False}
    return noise.spent(walker.ledger, dataclasses.replace(v, **known))
  if isinstance(v, Sum):
    what = "carries a sum over the batch through a long loop"
    cause = Cause(what, walker.ledger.where, f"use at most {_UNROLLED} steps, one a chunk")
    v = walker.ledger.everyones(v, cause)
  aval = jax.ShapeDtypeStruct(v.shape, v.dtype)
  row = walker.ledger.fresh(
    aval,
    v.owners,
    is_padding_zero=v.is_padding_zero,
    is_repeated=v.is_repeated,
    cause=v.cause,
  )
  return noise.blended(walker.ledger, row, [v])


def _join(walker: Any, eqn: Equation, a: Any, b: Any) -> Value:
  if isinstance(a, Public) and isinstance(b, Public):
    return noise.blended(walker.ledger, a, [b])
  a, b = (_forgotten(walker, eqn, v) for v in (a, b))
  rows = [v for v in (a, b) if isinstance(v, Row)]
  aval = jax.ShapeDtypeStruct(a.shape, a.dtype)
  is_zero = all(v.is_padding_zero if isinstance(v, Row) else False for v in (a, b))
  is_repeated = any(r.is_repeated for r in rows)
  try:
    whose = owners.merged(*(r.owners for r in rows))
  except MixesError:
    cause = Cause("passes rows of one example to another", walker.ledger.where, owners.OWN_ROWS)
    return walker.ledger.everyones(rows[0], cause)
  known = {"is_padding_zero": is_zero, "is_repeated": is_repeated}
  return noise.blended(walker.ledger, walker.ledger.fresh(aval, whose, *rows, **known), [a, b])


def while_(walker: Any, eqn: Equation, ins: list[Value]) -> list[Value]:
  p = eqn.params
  a, b = p["cond_nconsts"], p["body_nconsts"]
  test, step = p["cond_jaxpr"], p["body_jaxpr"]
  carry, _ = _steady(walker, eqn, lambda c: walker.run(step, [*ins[a : a + b], *c]), ins[a + b :])
  (going,) = walker.run(test, [*ins[:a], *carry])
  walker.ledger.at(eqn)
  if not isinstance(going, Public):
    return walker.given_up(eqn, [*ins, going], "loops as long as private values say", PREDICATE)
  return carry


def cond(walker: Any, eqn: Equation, ins: list[Value]) -> list[Value]:
  which, *operands = ins
  if not isinstance(which, Public):
    return walker.given_up(eqn, ins, "branches by private values", PREDICATE)
  branches = eqn.params["branches"]
  if which.range.low == which.range.high:
    chosen = int(np.clip(which.range.low, 0, len(branches) - 1))
    return walker.run(branches[chosen], operands)
  found = [walker.run(branch, operands) for branch in branches]
  walker.ledger.at(eqn)
  out = []
  for var, *cases in zip(eqn.outvars, *found, strict=True):
    out.append(_chosen(walker, eqn, var.aval, which, cases))
  return out


def _chosen(walker: Any, eqn: Equation, aval: Aval, which: Public, cases: Sequence[Any]) -> Value:
  found = _either(walker, aval, which, cases)
  return noise.followed(
    walker.ledger, InnerEquation("select_n", {}, [aval]), [which, *cases], [found]
  )[0]


def _either(walker: Any, aval: Aval, which: Public, cases: Sequence[Any]) -> Value:
  if all(isinstance(v, Public) for v in cases):
    ranges = intervals.union(*(v.range for v in cases))
    return Public(tuple(aval.shape), aval.dtype, ranges)
  select = InnerEquation("select_n", {}, [aval])
  rule = sums.apply if any(isinstance(v, Sum) for v in cases) else elementwise.apply
  scalar = dataclasses.replace(which, is_even=True)
  try:
    return rule(walker.ledger, select, [scalar, *cases])[0]
  except MixesError as problem:
    cause = Cause(problem.args[0], walker.ledger.where, problem.args[1])
    mixed = [walker.ledger.everyones(v, cause) for v in cases]
    return elementwise.apply(walker.ledger, select, [scalar, *mixed])[0]
