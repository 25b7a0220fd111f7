"""Operations that take arrays apart and put them together."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from medjax.privacy.sensitivity import forms, intervals, owners
from medjax.privacy.sensitivity.equations import Aval, Equation
from medjax.privacy.sensitivity.forms import Form, Piece
from medjax.privacy.sensitivity.ledger import Ledger, together
from medjax.privacy.sensitivity.moves import alias
from medjax.privacy.sensitivity.owners import NOBODY, Axes, MixesError
from medjax.privacy.sensitivity.values import Public, Row, Sum, Value


def slice_(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  (v,) = ins
  starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
  strides = eqn.params["strides"] or (1,) * len(starts)
  return [taken(ledger, v, eqn.outvars[0].aval, starts, stops, strides)]


def taken(
  ledger: Ledger,
  v: Any,
  aval: Aval,
  starts: Axes,
  stops: Axes,
  strides: Axes,
) -> Value:
  """v[starts:stops:strides]."""
  if isinstance(v, Public):
    return alias(ledger, v, aval)
  whose, is_cut = None, [n != m for n, m in zip(v.shape, aval.shape, strict=True)]
  if isinstance(v, Row):
    spans = [slice(*s) for s in zip(starts, stops, strides, strict=True)]
    moving = owners.axes(v.owners)
    at = tuple(spans[i] if i in moving else slice(None) for i in range(len(v.shape)))
    whose = owners.compressed(v.owners[at])
    is_moved = any(is_cut[i] for i in moving)
    is_cut = [cut and i not in moving for i, cut in enumerate(is_cut)]
    if not any(is_cut):
      return alias(ledger, v, aval, whose, is_moved=is_moved)
    if is_moved:
      kept = [
        n if i in moving else m for i, (m, n) in enumerate(zip(v.shape, aval.shape, strict=True))
      ]
      v = alias(ledger, v, jax.ShapeDtypeStruct(tuple(kept), v.dtype), whose, is_moved=is_moved)
  form = v.form
  if is_cut.count(True) == 1:
    axis = is_cut.index(True)
    piece = Piece(id(v), axis, int(starts[axis]), int(stops[axis]))
    form = forms.cut(v.form, piece)
    ledger.keep(v)
  if isinstance(v, Sum):
    return dataclasses.replace(v, shape=tuple(aval.shape), form=form)
  atom = ledger.number()
  return dataclasses.replace(
    v,
    shape=tuple(aval.shape),
    owners=whose,
    atom=atom,
    form=form,
    covers=({atom: 1.0},),
    totals=(),
    tests=None,
    witnesses=frozenset(),
  )


def split(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  (v,) = ins
  axis, out, start = eqn.params["axis"], [], 0
  for size, var in zip(eqn.params["sizes"], eqn.outvars, strict=True):
    starts, stops = [0] * len(v.shape), list(v.shape)
    starts[axis], stops[axis] = start, start + size
    out.append(taken(ledger, v, var.aval, starts, stops, [1] * len(v.shape)))
    start += size
  return out


def stack(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  axis = eqn.params["axis"]
  wide = [widened(ledger, v, axis) for v in ins]
  return [joined(ledger, eqn.outvars[0].aval, wide, axis)]


def widened(ledger: Ledger, v: Value, axis: Any) -> Value:
  """With an axis of size 1."""
  shape = (*v.shape[:axis], 1, *v.shape[axis:])
  whose = np.expand_dims(v.owners, axis) if isinstance(v, Row) else None
  return alias(ledger, v, jax.ShapeDtypeStruct(shape, v.dtype), whose)


def unstack(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  axis = eqn.params["axis"]
  return [element(ledger, ins[0], axis, place) for place in range(len(eqn.outvars))]


def element(ledger: Ledger, v: Value, axis: Any, place: int) -> Value:
  """v[place] along an axis."""
  starts, stops = [0] * len(v.shape), list(v.shape)
  starts[axis], stops[axis] = place, place + 1
  one = jax.ShapeDtypeStruct((*v.shape[:axis], 1, *v.shape[axis + 1 :]), v.dtype)
  piece = taken(ledger, v, one, starts, stops, [1] * len(starts))
  whose = np.squeeze(piece.owners, axis) if isinstance(piece, Row) else None
  shape = (*v.shape[:axis], *v.shape[axis + 1 :])
  return alias(ledger, piece, jax.ShapeDtypeStruct(shape, v.dtype), whose)


def concatenate(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  return [joined(ledger, eqn.outvars[0].aval, ins, eqn.params["dimension"])]


def joined(ledger: Ledger, aval: Aval, ins: Sequence[Value], axis: Any) -> Value:
  """One array after the other along an axis."""
  if any(isinstance(v, Sum) for v in ins):
    return _joined_sums(aval, ins)
  rows = [v for v in ins if isinstance(v, Row)]
  parts = [(v.owners if isinstance(v, Row) else None, v.shape[axis]) for v in ins]
  whose = owners.joined(parts, axis)
  known: dict[str, Any] = {
    "is_padding_zero": all(_is_padding_zero(v) for v in ins),
    "suspects": together(*ins),
    "range": _union(ins),
  }
  atom = ledger.number()
  if owners.varies(whose, axis):  # rows below rows; what is public has no owner
    sizes = [float(forms.size(r.bounded_form)) for r in rows]
    if max(sizes) < math.inf:
      is_repeated = any(r.is_repeated for r in rows) or owners.has_repeats(whose)
      same = not is_repeated and all(r.form == rows[0].form for r in rows)
      known["form"] = rows[0].form if same else forms.at_most(max(sizes), ledger.number())
  elif all(v.is_zero if isinstance(v, Public) else not _has_gaps(v, whose) for v in ins):
    known["form"] = forms.stacked(*(r.form for r in rows))
    lower = [forms.stacked(*(r.covers[i] for r in rows)) for i in (0, -1)]
    known["covers"] = ({atom: 1.0}, *lower)
  return ledger.fresh(aval, whose, *ins, atom=atom, **known)


def _has_gaps(v: Any, whose: owners.Owners) -> bool:
  """Whether a place without owner in `v` gets one: bounds do not speak of what stands there."""
  return bool(((v.owners == NOBODY) & (whose != NOBODY)).any())


def _joined_sums(aval: Aval, ins: Sequence[Value]) -> Sum:
  """Of sums and public arrays."""
  if any(isinstance(v, Row) for v in ins):
    raise MixesError("puts single examples beside a sum over the batch", owners.OWN_ROWS)
  sums = [v for v in ins if isinstance(v, Sum)]
  return Sum(
    tuple(aval.shape),
    aval.dtype,
    forms.stacked(*(v.form for v in sums)),
    sums[0].where,
    together(*sums),
    all(v.is_padding_zero for v in sums),
  )


def _union(ins: Sequence[Any]) -> intervals.Range:
  return intervals.union(*(v.range for v in ins))


def _form_elsewhere(ledger: Ledger, v: Row) -> Form | None:
  """Bound of a row that was moved to another place, see `alias`."""
  if not v.is_repeated:
    return v.form
  bound = float(forms.size(v.bounded_form))
  return forms.at_most(bound, ledger.number()) if math.isfinite(bound) else None


def pad(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  v, filling = ins
  aval = eqn.outvars[0].aval
  if not isinstance(filling, Public):
    raise MixesError("pads with a private value", owners.OWN_ROWS)
  if isinstance(v, Sum):
    return [dataclasses.replace(v, shape=tuple(aval.shape))]
  assert isinstance(v, Row)
  whose, is_inside = v.owners, False
  for axis, (low, high, interior) in enumerate(eqn.params["padding_config"]):
    is_inside |= not owners.varies(v.owners, axis) and (low, high, interior) != (0, 0, 0)
    whose = owners.padded(whose, axis, v.shape[axis], low, high, interior)
  known: dict[str, Any] = {"suspects": together(*ins), "range": _union(ins)}
  form = _form_elsewhere(ledger, v)
  if (filling.is_zero or not is_inside) and form is not None:
    known["form"] = form  # what lies beside the rows belongs to nobody
    known["is_padding_zero"] = v.is_padding_zero and filling.is_zero
  return [ledger.fresh(aval, whose, *ins, **known)]


def dynamic_slice(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  v, *starts = ins
  aval, sizes = eqn.outvars[0].aval, eqn.params["slice_sizes"]
  places = known_starts(starts, v.shape, sizes)
  if not isinstance(v, Public) and places is not None:
    stops = [a + n for a, n in zip(places, sizes, strict=True)]
    return [taken(ledger, v, aval, places, stops, [1] * len(sizes))]
  if any(isinstance(s, Sum) for s in starts):
    raise MixesError("cuts at a place that depends on a sum over the batch", owners.OWN_ROWS)
  whose = [_scalar(s, len(sizes)) for s in starts if isinstance(s, Row)]
  if isinstance(v, Sum):
    if whose:
      raise MixesError("cuts a sum over the batch at private places", owners.OWN_ROWS)
    return [dataclasses.replace(v, shape=tuple(aval.shape))]
  known: dict[str, Any] = {"range": v.range}
  if isinstance(v, Row):
    _stay(v, sizes)
    whose.append(v.owners)
    known |= {"form": v.form, "suspects": together(*ins)}
  return [ledger.fresh(aval, owners.merged(*whose), *ins, **known)]


def known_starts(starts: Sequence[Value], shape: Axes, sizes: Axes) -> list[int] | None:
  """Clamped starts, if they are known."""
  found = []
  for start, n, size in zip(starts, shape, sizes, strict=True):
    if n == size:
      found.append(0)
    elif isinstance(start, Public) and start.range.low == start.range.high:
      found.append(int(min(max(start.range.low, 0), n - size)))
    else:
      return None
  return found


def _scalar(start: Row, rank: int) -> owners.Owners:
  return start.owners.reshape((1,) * rank)


def _stay(v: Row, sizes: Axes) -> None:
  """Refuses to cut batch axes at places that are not known."""
  if any(sizes[axis] != v.shape[axis] for axis in owners.axes(v.owners)):
    what = "picks examples by a place that is not known"
    raise MixesError(what, "pick examples by places known before the run, or loop over all of them")


def dynamic_update_slice(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  v, update, *starts = ins
  aval = eqn.outvars[0].aval
  places = known_starts(starts, v.shape, update.shape)
  if isinstance(v, Sum) or isinstance(update, Sum):
    if any(not isinstance(s, Public) for s in starts):
      raise MixesError("writes at a private place", owners.OWN_ROWS)
    return [_joined_sums(aval, [v, update])]
  rows = [s for s in (v, update) if isinstance(s, Row)]
  moving = {i for r in rows for i in owners.axes(r.owners)}
  whose = None
  if not any(update.shape[i] != v.shape[i] for i in moving):
    try:
      scalars = [_scalar(s, len(v.shape)) for s in starts if isinstance(s, Row)]
      whose = owners.merged(*(r.owners for r in rows), *scalars)
    except MixesError:
      pass  # an example's row beside that of another
  if whose is None and places is None:
    what = "writes examples to a place that is not known"
    raise MixesError(what, "write them to places known before the run")
  out = _written(v, update, places or []) if whose is None else whose
  known: dict[str, Any] = {"range": _union([v, update])}
  known["is_padding_zero"] = all(_is_padding_zero(s) for s in (v, update))
  found = [_form_elsewhere(ledger, r) for r in rows]
  is_known = not owners.has_repeats(out) and not any((r.owners == NOBODY).any() for r in rows)
  if is_known and all(isinstance(s, Row) or s.is_zero for s in (v, update)) and None not in found:
    known["form"] = forms.stacked(*(form for form in found if form is not None))
    known["suspects"] = together(*ins)
  return [ledger.fresh(aval, out, *ins, **known)]


def _is_padding_zero(v: Value) -> bool:
  return v.is_zero if isinstance(v, Public) else v.is_padding_zero


def _written(v: Value, update: Any, starts: Axes) -> owners.Owners:
  """Owners after an update at a known place, which takes the axes that it does not fill apart."""
  nobody = np.full((1,) * len(v.shape), NOBODY, np.int32)
  below, above = (s.owners if isinstance(s, Row) else nobody for s in (v, update))
  if owners.is_everyone(below) or owners.is_everyone(above):
    return owners.everyone(len(v.shape))
  sizes = [
    n if m != n or a > 1 or b > 1 else 1
    for n, m, a, b in zip(v.shape, update.shape, below.shape, above.shape, strict=True)
  ]
  out = np.array(np.broadcast_to(below, sizes))
  at = tuple(
    slice(a, a + n) if size > 1 else slice(None)
    for a, n, size in zip(starts, update.shape, sizes, strict=True)
  )
  out[at] = above
  return owners.compressed(out)
