"""Gather, scatter, convolution and windows: which axis of the result belongs to which example."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax.privacy.sensitivity import owners
from medjax.privacy.sensitivity.equations import Aval, Equation
from medjax.privacy.sensitivity.ledger import Ledger
from medjax.privacy.sensitivity.owners import NOBODY, OWN_ROWS, Axes, MixesError, Owners
from medjax.privacy.sensitivity.values import Operand, Public, Range, Row, Value

BOUNDED = ("CLIP", "PROMISE_IN_BOUNDS")


def _whose(v: Value) -> Owners:
  return v.owners if isinstance(v, Row) else np.full((1,) * len(v.shape), NOBODY, np.int32)


def gather(ledger: Ledger, eqn: Equation, ins: Sequence[Operand]) -> list[Value]:
  operand, indices = ins
  aval, numbers = eqn.outvars[0].aval, eqn.params["dimension_numbers"]
  range_ = operand.range if eqn.params["mode"].name in BOUNDED else Range()
  rank = len(aval.shape)
  offset = [int(d) for d in numbers.offset_dims]
  lead = [d for d in range(rank) if d not in offset]  # from the indices
  index = owners.placed(_whose(indices)[..., 0], lead, rank) if lead else _flat(indices, rank)
  if isinstance(indices, Row) and owners.varies(indices.owners, len(indices.shape) - 1):
    raise MixesError("reads at places of different examples", OWN_ROWS)
  if isinstance(operand, Public):
    return [_read(ledger, aval, index, ins, range_)]
  left = _through_gather(operand, eqn.params["slice_sizes"], numbers, lead, rank)
  return [_read(ledger, aval, owners.merged(left, index), ins, range_)]


def _read(ledger: Ledger, aval: Aval, whose: Owners, ins: Sequence[Value], range_: Range) -> Row:
  if range_.cap == np.inf:
    return ledger.fresh(aval, whose, *ins)
  return ledger.fresh(aval, whose, *ins, range=range_)


def _flat(indices: Any, rank: int) -> Owners:
  return _whose(indices).reshape(-1)[:1].reshape((1,) * rank)


def _through_gather(operand: Any, sizes: Axes, numbers: Any, lead: Axes, rank: int) -> Owners:
  whose = operand.owners
  out = [1] * rank
  batching = [int(d) for d in numbers.operand_batching_dims]
  kept = [
    d
    for d in range(whose.ndim)
    if d not in (*(int(c) for c in numbers.collapsed_slice_dims), *batching)
  ]
  places: dict[Any, Any] = dict(zip(kept, (int(d) for d in numbers.offset_dims), strict=True))
  for d, start in zip(batching, numbers.start_indices_batching_dims, strict=True):
    places[d] = lead[int(start)]
  for axis in owners.axes(whose):
    is_whole = axis in batching or (axis in places and sizes[axis] == operand.shape[axis])
    if not is_whole:
      what = "reads examples at places that are not known"
      raise MixesError(what, "read them at places known before the run")
    out[places[axis]] = whose.shape[axis]
  order = sorted(owners.axes(whose), key=lambda a: places[a])
  rest = [a for a in range(whose.ndim) if a not in order]
  return whose.transpose([*order, *rest]).reshape(out)


def scatter(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  operand, indices, updates = ins
  aval, numbers = eqn.outvars[0].aval, eqn.params["dimension_numbers"]
  rank = len(operand.shape)
  window = [int(d) for d in numbers.update_window_dims]
  batching = [int(d) for d in numbers.operand_batching_dims]
  inserted = [int(d) for d in numbers.inserted_window_dims]
  kept = [d for d in range(rank) if d not in (*inserted, *batching)]
  lead = [d for d in range(len(updates.shape)) if d not in window]  # as the axes of the indices
  from_update = dict(zip(window, kept, strict=True))
  index_batch = [int(d) for d in numbers.scatter_indices_batching_dims]
  for d, start in zip(batching, index_batch, strict=True):
    from_update[lead[start]] = d
  from_index = dict(zip(index_batch, batching, strict=True))
  parts = [_whose(operand)]
  for v, places in ((updates, from_update), (indices, from_index)):
    whose = _whose(v)
    sizes = [1] * rank
    moving = owners.axes(whose)
    for axis in moving:
      target = places.get(axis)
      if target is None or v.shape[axis] != operand.shape[target]:
        raise MixesError("writes rows of different examples into one array", OWN_ROWS)
      sizes[target] = whose.shape[axis]
    order = sorted(moving, key=lambda a: places[a])
    rest = [a for a in range(whose.ndim) if a not in order]
    parts.append(whose.transpose([*order, *rest]).reshape(sizes))
  return [ledger.fresh(aval, owners.merged(*parts), *ins)]


def convolution(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  image, kernel = ins
  p = eqn.params
  numbers, aval = p["dimension_numbers"], eqn.outvars[0].aval
  (image_batch, image_feature, *image_space) = numbers.lhs_spec
  (kernel_out, kernel_in, *kernel_space) = numbers.rhs_spec
  a, b = _whose(image), _whose(kernel)
  for whose, axes in ((a, image_space), (b, [*kernel_space, kernel_in])):
    if any(owners.varies(whose, axis) for axis in axes):
      raise MixesError("adds rows of different examples in a convolution", OWN_ROWS)
  count, channels = image.shape[image_batch], image.shape[image_feature]
  outs = kernel.shape[kernel_out]
  rows = np.broadcast_to(
    a.transpose(image_batch, image_feature, *image_space).reshape(
      a.shape[image_batch], a.shape[image_feature]
    ),
    (count, channels),
  )
  columns = np.broadcast_to(b.transpose(kernel_out, kernel_in, *kernel_space).reshape(-1), (outs,))
  groups, batch_groups = p["feature_group_count"], p["batch_group_count"]
  by_group = rows.reshape(count, groups, channels // groups)
  if (by_group != by_group[:, :, :1]).any():
    raise MixesError("adds rows of different examples in a convolution", OWN_ROWS)
  # [batch, out]: group of the out-channel, and with batch groups its part of the batch
  whose_image = np.repeat(by_group[:, :, 0], outs // groups, axis=1)
  if batch_groups > 1:
    part = count // batch_groups
    blocks = whose_image.reshape(batch_groups, part, outs)
    which = np.arange(outs) // (outs // batch_groups)
    whose_image = blocks[which, :, np.arange(outs)].T
  found = owners.merged(owners.compressed(whose_image), owners.compressed(columns[None]))
  positions = [numbers.out_spec[0], numbers.out_spec[1]]
  return [ledger.fresh(aval, owners.placed(found, positions, len(aval.shape)), *ins)]


def windows(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  """Pooling and its derivatives, with windows inside rows."""
  p = eqn.params
  rows = [v for v in ins if isinstance(v, Row) and v.shape]
  whose = owners.merged(*(r.owners for r in rows))
  for axis in owners.axes(whose):
    is_still = p["window_dimensions"][axis] == p["window_strides"][axis] == 1
    is_still &= p.get("base_dilation", {axis: 1})[axis] == 1
    if not is_still or tuple(p["padding"][axis]) != (0, 0):
      raise MixesError("lets a window run over examples", OWN_ROWS)
  return [ledger.fresh(var.aval, whose, *ins) for var in eqn.outvars]


def keys(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> list[Value]:
  """Random bits and keys from keys that belong to examples: axes of the result come behind."""
  rank = len(eqn.outvars[0].aval.shape)
  (v,) = ins[:1]
  assert isinstance(v, Row)
  whose = v.owners
  if whose.ndim > rank:
    owners.still(whose, range(rank, whose.ndim), "wraps keys")
    whose = whose.reshape(whose.shape[:rank])
  return [
    ledger.fresh(var.aval, whose.reshape((*whose.shape, *[1] * (rank - whose.ndim))), *ins)
    for var in eqn.outvars
  ]
