"""What programs inside of an equation do besides computing: callbacks, prints, collectives."""

from collections.abc import Iterator
from typing import Any

from medjax.grads.ghost.derivatives import sub_jaxprs
from medjax.grads.isolation import named_axes
from medjax.privacy.sensitivity.equations import TracedEquation


def _equations(jaxpr: Any) -> Iterator[Any]:
  """All equations of a jaxpr and of those inside of it."""
  for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    yield eqn
    for inside in sub_jaxprs(eqn.params):
      yield from _equations(inside)


def is_shown(eqn: TracedEquation) -> bool:
  """Whether an equation by itself hands its operands to the host."""
  name = eqn.primitive.name
  if any(True for _ in sub_jaxprs(eqn.params)):
    return False  # then one inside does
  # The effect of a collective says that it has a named axis, which nobody sees.
  effects = [e for e in eqn.effects if type(e).__name__ != "NamedAxisEffect"]
  return bool(effects) or "callback" in name or "debug" in name


def shows(eqn: TracedEquation) -> bool:
  """Whether a program inside of an equation hands anything to the host."""
  return any(is_shown(e) for inside in sub_jaxprs(eqn.params) for e in _equations(inside))


def mixing(program: Any) -> str | None:
  """An operation by which a loss of one example sees others or is seen by the host; else None.

  A function with a batching rule of its own (`custom_vmap`) leaves no trace in a program that was
  batched: `clipped_sum` refuses it when it traces the loss.
  """
  for eqn in _equations(program):
    name = eqn.primitive.name
    if is_shown(eqn) or named_axes(eqn.params) or "custom_vmap" in name:
      return name
  return None
