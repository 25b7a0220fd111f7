"""Operations that bring the elements of an axis together: sums, products of matrices, scans, sorts.

Only a sum may run over examples: it is where rows end and sensitivity begins.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from medjax.privacy.sensitivity import elementwise, forms, intervals, moves, owners
from medjax.privacy.sensitivity.equations import Aval, Equation, InnerEquation
from medjax.privacy.sensitivity.ledger import Ledger
from medjax.privacy.sensitivity.owners import Axes, MixesError
from medjax.privacy.sensitivity.values import (
  Norm,
  Operand,
  Range,
  Row,
  Sum,
  Value,
  is_float,
  is_wide,
)


def reduce_sum(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  return [summed(ledger, ins[0], eqn.params["axes"], eqn.outvars[0].aval)]


def summed(ledger: Ledger, v: Any, axes: Axes, aval: Aval) -> Value:
  """Sum of a row within itself, or over examples, or both."""
  axes = tuple(int(a) for a in axes)
  count = math.prod(v.shape[a] for a in axes)
  if isinstance(v, Sum):
    form = forms.scaled(v.form, math.sqrt(count))
    return dataclasses.replace(v, shape=tuple(aval.shape), dtype=aval.dtype, form=form)
  inner = [a for a in axes if not owners.varies(v.owners, a)]
  if len(inner) < len(axes):
    if inner:
      shape = tuple(1 if a in inner else n for a, n in enumerate(v.shape))
      v = _within(ledger, v, inner, jax.ShapeDtypeStruct(shape, v.dtype), keeps_axes=True)
    return over_examples(ledger, v, aval)
  return _within(ledger, v, axes, aval)


def _within(ledger: Ledger, v: Row, axes: Axes, aval: Aval, keeps_axes: bool = False) -> Row:
  """Sum over axes within a row."""
  if is_float(v.dtype) and not is_wide(v.dtype):  # sums in few digits lose terms
    whose = v.owners if keeps_axes else v.owners.squeeze(tuple(axes))
    return ledger.fresh(aval, whose, v, is_padding_zero=v.is_padding_zero)
  count = math.prod(v.shape[a] for a in axes)
  whose = v.owners if keeps_axes else v.owners.squeeze(tuple(axes))
  low, high = (0.0 if x == 0 or not count else x * count for x in (v.range.low, v.range.high))
  below = {x: k * count for x, k in v.below.items()}
  known: dict[str, Any] = {"range": intervals.fitted(Range(low, high), aval.dtype), "below": below}
  is_left = [a for a, n in enumerate(v.owners.shape) if n == 1 and a not in axes]
  if all(v.shape[a] == 1 for a in is_left):  # one number a row
    known["above_square"] = {norm(c): 1.0 for c in v.totals}
  else:
    known["totals"] = v.totals
  known |= {"witnesses": v.witnesses, "is_padding_zero": v.is_padding_zero}
  if forms.is_bounded(v.bounded_form):
    known["form"] = forms.scaled(v.bounded_form, math.sqrt(count))
  known = {key: fact for key, fact in known.items() if fact or key == "form"}
  if v.range.may_be_infinite and v.range.low < 0:  # inf - inf
    known["suspects"] = v.suspects | ledger.suspect()
    known["range"] = dataclasses.replace(known["range"], is_finite=True)
  elif known["range"].low > -math.inf or known.keys() & {"below", "above_square", "totals", "form"}:
    known["suspects"] = v.suspects
  else:
    known.pop("range")
  return ledger.fresh(aval, whose, v, **known)


def norm(cover: Any) -> Norm:
  return frozenset(cover.items())


def over_examples(ledger: Ledger, v: Row, aval: Aval) -> Sum:
  """Sum over the batch; an example adds its rows, wherever in the result they go."""
  if v.is_everyones:
    raise AssertionError("a value of everyone has no batch axis")
  if not is_wide(v.dtype):
    what = f"sums {v.dtype} over the batch, which may wrap around or overflow"
    raise MixesError(what, "convert to float32")
  real = v.owners[v.owners >= 0]
  rows = np.bincount(real, minlength=ledger.num_examples).astype(float)
  # The rows of an example add up: a form of each at q is one of their mean at q, of their sum at
  # q * rows^2. Members mean the same rows everywhere, as moves rename those of repeated examples.
  form = {m: q * rows**2 for m, q in v.bounded_form.items()}
  bound = forms.size(form)
  if np.isfinite(bound).all():
    ledger.note("sums rows over the batch", bound)
  suspects = v.suspects if not v.range.may_be_infinite else v.suspects | ledger.suspect()
  return Sum(
    tuple(aval.shape), aval.dtype, form, ledger.where, suspects, v.is_padding_zero or not rows.any()
  )


def dot_general(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  """A product of rows placed side by side, then a sum."""
  (contract, batch) = eqn.params["dimension_numbers"]
  aval = eqn.outvars[0].aval
  a, b = ins
  sizes = [[v.shape[d] for d in dims] for v, dims in ((a, batch[0]), (a, contract[0]))]
  free = [
    [d for d in range(len(v.shape)) if d not in (*c, *t)]
    for v, c, t in zip(ins, contract, batch, strict=True)
  ]
  lefts, rights = ([v.shape[d] for d in f] for v, f in zip(ins, free, strict=True))
  shape = (*sizes[0], *lefts, *rights, *sizes[1])
  count, num_batch, rank = len(sizes[1]), len(sizes[0]), len(shape)
  ends = range(rank - count, rank)
  first = num_batch, num_batch + len(lefts)
  sides: list[Operand] = []
  for v, c, t, f, start in zip(ins, contract, batch, free, first, strict=True):
    order = [*t, *f, *c]
    positions = [*range(num_batch), *range(start, start + len(f)), *ends]
    sides.append(_spread(ledger, v, order, positions, shape))
  is_square = a is b and (contract[0], batch[0]) == (contract[1], batch[1])
  if is_square and all(n == 1 for n in (*lefts, *rights)):
    sides[1] = sides[0]
  product = InnerEquation("mul", {}, [jax.ShapeDtypeStruct(shape, aval.dtype)])
  (made,) = elementwise.apply(ledger, product, sides)
  if not count:
    return [moves.alias(ledger, made, aval)]
  return [summed(ledger, made, list(ends), aval)]


def _spread(ledger: Ledger, v: Value, order: Axes, positions: Axes, shape: Axes) -> Any:
  moved = jax.ShapeDtypeStruct(tuple(v.shape[d] for d in order), v.dtype)
  if isinstance(v, Row):
    is_moved = moves.reorders(v, order)
    v = moves.alias(ledger, v, moved, v.owners.transpose(order), is_moved=is_moved)
  else:
    v = moves.alias(ledger, v, moved)
  if v.shape == tuple(shape):
    return v
  aval = jax.ShapeDtypeStruct(tuple(shape), v.dtype)
  return moves.broadcast(ledger, v, aval, positions)


def reduce_other(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  """Maxima, minima, products and the like, within rows."""
  (v,) = ins
  assert isinstance(v, Row)
  axes, aval = tuple(eqn.params["axes"]), eqn.outvars[0].aval
  name = eqn.primitive.name
  owners.still(v.owners, axes, f"takes a {name.removeprefix('reduce_')}")
  whose = v.owners.squeeze(axes)
  known: dict[str, Any] = {"is_padding_zero": v.is_padding_zero and name != "reduce_xor"}
  if name in ("argmax", "argmin"):
    known |= {"range": Range(0.0, float(math.prod(v.shape[a] for a in axes)), True)}
    known["is_padding_zero"] = False
  elif name in ("reduce_max", "reduce_min", "reduce_and", "reduce_or"):
    known["range"] = v.range
  out = ledger.fresh(aval, whose, v, **known)
  if name == "reduce_and" and v.tests is not None and out.width == 1:
    finite = v.tests.witnesses
    return [dataclasses.replace(out, finite_when=finite, suspects=v.suspects)]
  return [out]


def along_axis(ledger: Ledger, eqn: Equation, ins: Sequence[Operand]) -> list[Value]:
  """Cumulative operations and sorts, within rows."""
  axis = eqn.params.get("axis", eqn.params.get("dimension"))
  rows = [v for v in ins if isinstance(v, Row)]
  axis = len(rows[0].shape) - 1 if axis is None or axis < 0 else axis
  whose = owners.merged(*(r.owners for r in rows))
  owners.still(whose, [axis], f"applies {eqn.primitive.name}")
  keeps = eqn.primitive.name in ("sort", "top_k", "cummax", "cummin")
  out: list[Value] = []
  for number, var in enumerate(eqn.outvars):
    source = ins[min(number, len(ins) - 1)]
    range_ = source.range if keeps and number < len(ins) else intervals.default(var.aval.dtype)
    out.append(ledger.fresh(var.aval, whose, *ins, range=range_))
  return out


def on_matrices(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  """Factorisations, solvers and transforms of the last axes."""
  rows = [v for v in ins if isinstance(v, Row)]
  count = len(eqn.params["fft_lengths"]) if eqn.primitive.name == "fft" else 2
  for row in rows:
    owners.still(row.owners, range(len(row.shape) - count, len(row.shape)), "mixes")
  lead = owners.merged(*(r.owners.reshape(r.owners.shape[: len(r.shape) - count]) for r in rows))
  return [
    ledger.fresh(
      var.aval, lead.reshape((*lead.shape, *[1] * (len(var.aval.shape) - lead.ndim))), *ins
    )
    for var in eqn.outvars
  ]
