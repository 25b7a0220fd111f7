"""Operations that move or repeat all elements: of rows, of sums and of public arrays."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from medjax.privacy.sensitivity import forms, owners
from medjax.privacy.sensitivity.equations import Aval, Equation
from medjax.privacy.sensitivity.ledger import Ledger
from medjax.privacy.sensitivity.owners import Axes, MixesError
from medjax.privacy.sensitivity.values import Public, Row, Sum, Value


def alias(
  ledger: Ledger,
  v: Value,
  aval: Aval,
  whose: owners.Owners | None = None,
  *,
  is_moved: bool = False,
) -> Value:
  """The same elements in every row, in another shape or type.

  Args:
    whose: owners after the move, if they change.
    is_moved: whether rows changed places. What is known of rows refers to the row of the same
      example, which is no name for one where an example has several.
  """
  shape = tuple(aval.shape)
  if isinstance(v, Public):
    return dataclasses.replace(v, shape=shape, dtype=aval.dtype)
  if isinstance(v, Sum):
    return dataclasses.replace(v, shape=shape, dtype=aval.dtype)
  changes: dict[str, Any] = {"shape": shape, "dtype": aval.dtype, "tests": None}
  changes["owners"] = v.owners if whose is None else whose
  if v.dtype != aval.dtype:
    changes |= {"when": ({}, {}), "finite_when": frozenset()}
  out = dataclasses.replace(v, **changes)
  merged_rows = out.width / max(v.width, 1)
  if merged_rows == 1 and not (is_moved and v.is_repeated):
    return out
  atom = ledger.number()
  known: dict[str, Any] = {"atom": atom, "range": v.range, "is_padding_zero": v.is_padding_zero}
  known["suspects"] = v.suspects
  known["is_repeated"] = owners.has_repeats(out.owners)
  if math.isfinite(bound := float(forms.size(v.bounded_form))):
    known["form"] = forms.at_most(bound * math.sqrt(max(merged_rows, 1.0)), atom)
  return ledger.fresh(aval, out.owners, v, **known)


def broadcast_to(ledger: Ledger, value: Value, shape: Axes) -> Any:
  """As elementwise operations do: scalars, and axes of size 1."""
  shape = tuple(shape)
  if value.shape == shape:
    return value
  is_stretched = len(value.shape) == len(shape) and all(
    n in (1, m) for n, m in zip(value.shape, shape, strict=True)
  )
  if value.shape and not is_stretched:
    raise MixesError(f"brings an array of shape {value.shape} to {shape}", owners.OWN_ROWS)
  positions = range(len(shape) - len(value.shape), len(shape))
  return broadcast(ledger, value, jax.ShapeDtypeStruct(shape, value.dtype), tuple(positions))


def broadcast(ledger: Ledger, v: Value, aval: Aval, positions: Axes) -> Value:
  shape = tuple(aval.shape)
  if isinstance(v, Public):
    return dataclasses.replace(v, shape=shape, is_even=v.is_even or math.prod(v.shape) == 1)
  if isinstance(v, Sum):
    copies = math.prod(shape) / max(math.prod(v.shape), 1)
    return dataclasses.replace(v, shape=shape, form=forms.scaled(v.form, math.sqrt(copies)))
  whose = owners.placed(v.owners, positions, len(shape))
  width = math.prod(n for n, m in zip(shape, whose.shape, strict=True) if m == 1)
  copies = width / max(v.width, 1)
  if copies == 1 or not copies:
    return alias(ledger, v, aval, whose)
  atom = ledger.number()
  return dataclasses.replace(
    v,
    shape=shape,
    owners=whose,
    atom=atom,
    form=forms.scaled(v.form, math.sqrt(copies)),
    covers=({atom: 1.0}, *({m: q * copies for m, q in c.items()} for c in v.covers)),
    totals=tuple({m: q * copies for m, q in c.items()} for c in v.totals),
    tests=None,
  )


def broadcast_in_dim(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  positions = eqn.params["broadcast_dimensions"]
  return [broadcast(ledger, ins[0], eqn.outvars[0].aval, positions)]


def reshape(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  (v,) = ins[:1]
  aval, order = eqn.outvars[0].aval, eqn.params["dimensions"]
  if not isinstance(v, Row):
    return [alias(ledger, v, aval)]
  order = range(len(v.shape)) if order is None else order
  moved = v.owners.transpose(order)
  whose = owners.reshaped(moved, [v.shape[k] for k in order], aval.shape)
  return [alias(ledger, v, aval, whose, is_moved=reorders(v, order))]


def reorders(v: Row, order: Axes) -> bool:
  """Whether a transposition changes the order of the batch axes."""
  moving = [k for k in order if owners.varies(v.owners, k)]
  return moving != sorted(moving)


def transpose(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  (v,) = ins
  order = eqn.params["permutation"]
  if not isinstance(v, Row):
    return [alias(ledger, v, eqn.outvars[0].aval)]
  whose = v.owners.transpose(order)
  return [alias(ledger, v, eqn.outvars[0].aval, whose, is_moved=reorders(v, order))]


def squeeze(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  (v,) = ins
  gone = tuple(d % len(v.shape) for d in eqn.params["dimensions"])
  whose = v.owners.squeeze(gone) if isinstance(v, Row) else None
  return [alias(ledger, v, eqn.outvars[0].aval, whose)]


def rev(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  (v,) = ins
  aval, dimensions = eqn.outvars[0].aval, tuple(eqn.params["dimensions"])
  if not isinstance(v, Row):
    return [alias(ledger, v, aval)]
  is_moved = any(owners.varies(v.owners, d) for d in dimensions)
  return [alias(ledger, v, aval, np.flip(v.owners, dimensions), is_moved=is_moved)]


def tile(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  """Copies beside copies: new axes, merged into the old ones."""
  (v,) = ins
  reps, rank = eqn.params["reps"], len(v.shape)
  shape = tuple(n for pair in zip(reps, v.shape, strict=True) for n in pair)
  wide = jax.ShapeDtypeStruct(shape, v.dtype)
  copies = broadcast(ledger, v, wide, range(1, 2 * rank, 2))
  aval = eqn.outvars[0].aval
  whose = owners.reshaped(copies.owners, shape, aval.shape) if isinstance(copies, Row) else None
  return [alias(ledger, copies, aval, whose)]
