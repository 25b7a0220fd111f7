"""What programs inside of an equation do besides computing: callbacks, prints, collectives."""

from collections.abc import Iterator
from typing import Any

_AXES = ("axes", "axis_name", "axis_names")
"""Parameters that name an axis of an outer program, behind which other examples may stand."""


def programs(eqn: Any) -> Iterator[Any]:
  """The jaxprs that an equation holds."""
  for value in eqn.params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      inside = getattr(part, "jaxpr", part)
      if hasattr(inside, "eqns"):
        yield inside


def equations(program: Any) -> Iterator[Any]:
  """All equations of a jaxpr and of those inside of it."""
  for eqn in getattr(program, "jaxpr", program).eqns:
    yield eqn
    for inside in programs(eqn):
      yield from equations(inside)


def is_shown(eqn: Any) -> bool:
  """Whether an equation by itself hands its operands to the host."""
  name = eqn.primitive.name
  if any(True for _ in programs(eqn)):
    return False  # then one inside does
  # The effect of a collective says that it has a named axis, which nobody sees.
  effects = [e for e in eqn.effects if type(e).__name__ != "NamedAxisEffect"]
  return bool(effects) or "callback" in name or "debug" in name


def shows(program: Any) -> bool:
  return any(is_shown(eqn) for eqn in equations(program))


def mixing(program: Any) -> str | None:
  """An operation by which a loss of one example sees others or is seen by the host; else None.

  A function with a batching rule of its own (`custom_vmap`) leaves no trace in a program that was
  batched: `clipped_sum` refuses it when it traces the loss.
  """
  for eqn in equations(program):
    name = eqn.primitive.name
    if is_shown(eqn) or _is_collective(eqn) or "custom_vmap" in name:
      return name
  return None


def _is_collective(eqn: Any) -> bool:
  named = [eqn.params[key] for key in _AXES if key in eqn.params]
  axes = [axis for n in named for axis in (n if isinstance(n, tuple | list) else (n,))]
  return any(isinstance(axis, str) for axis in axes)
