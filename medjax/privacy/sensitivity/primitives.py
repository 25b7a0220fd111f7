"""What the check knows of every primitive of JAX: one row each, and no fact of it elsewhere.

A primitive without a row is refused on private values. A test compares the names with those of the
JAX that is installed: a row of a name that JAX has not, or a new name, is seen there.
"""

import dataclasses
from types import MappingProxyType
from typing import Any

from medjax.privacy.sensitivity import (
  intervals,
  lookups,
  loops,
  movement,
  moves,
  noise,
  norms,
  parts,
  reductions,
  sums,
)
from medjax.privacy.sensitivity.kinds import Kind, Primitive, PrimitiveRule, RangeRule, Table

_ALL = 10**9


def _elementwise(range: RangeRule | None = None, **columns: Any) -> Primitive:
  return Primitive(Kind.ELEMENTWISE, range=range, **columns)


def _compared(name: str) -> Primitive:
  return _elementwise(intervals.compared(name), facts=norms.compare(name))


def _moved(rule: PrimitiveRule, moved: Any = None, **columns: Any) -> Primitive:
  """Rows and sums alike are moved."""
  known: dict[str, Any] = {"num_bounding": _ALL} | columns
  return Primitive(Kind.WHOLE, rule, linear=rule, moved=moved, **known)


def _whole(rule: PrimitiveRule, **columns: Any) -> Primitive:
  return Primitive(Kind.WHOLE, rule, **columns)


_ALIAS = _elementwise(intervals.same, linear=sums.same, moved=movement.identity, is_alias=True)
_ADD = _elementwise(
  intervals.total,
  facts=norms.add,
  linear=sums.elementwise(sums.add),
  law=noise.plus,
  spreads=True,
)
_ODD = _elementwise(intervals.stepped, zero_at_zero=True)
_PLAIN = _elementwise()  # element by element, of which nothing else is known

_ROWS: dict[str, Primitive] = {
  # Calls
  **dict.fromkeys(
    ("jit", "closed_call", "remat2", "custom_jvp_call", "custom_vjp_call"), Primitive(Kind.CALL)
  ),
  "optimization_barrier": Primitive(Kind.PASS),
  "scan": Primitive(Kind.LOOP, loops.scan),
  "while": Primitive(Kind.LOOP, loops.while_),
  "cond": Primitive(Kind.LOOP, loops.cond),
  # Arithmetic
  "add": _ADD,
  "add_any": _ADD,
  "sub": dataclasses.replace(_ADD, range=intervals.difference, facts=norms.difference),
  "mul": _elementwise(
    intervals.product,
    facts=norms.multiply,
    linear=sums.elementwise(sums.multiply),
    law=noise.times,
    spreads=True,
  ),
  "div": _elementwise(
    intervals.quotient,
    facts=norms.divide,
    linear=sums.elementwise(sums.divide),
    law=noise.times,
  ),
  "neg": _elementwise(
    intervals.negative,
    facts=norms.negate,
    linear=sums.same,
    moved=movement.identity,
    spreads=True,
  ),
  "abs": _elementwise(intervals.absolute, facts=norms.absolute, spreads=True),
  "sign": _elementwise(intervals.sign),
  "square": _elementwise(intervals.square, facts=norms.square, spreads=True),
  "integer_pow": _elementwise(intervals.whole_power, facts=norms.square, spreads=True),
  "sqrt": _elementwise(intervals.root, facts=norms.root, spreads=True),
  "rsqrt": _elementwise(intervals.inverse_root, facts=norms.inverse_root),
  "pow": _elementwise(facts=norms.power),
  # Choices
  "max": _elementwise(intervals.chosen("max"), facts=norms.maximum),
  "min": _elementwise(intervals.chosen("min"), facts=norms.minimum),
  "clamp": _elementwise(intervals.chosen("clamp"), facts=norms.clamp),
  "select_n": _elementwise(
    intervals.chosen("select_n"),
    facts=norms.select,
    linear=sums.elementwise(sums.select),
    law=noise.selected,
  ),
  **{name: _compared(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
  "is_finite": _elementwise(intervals.compared("is_finite"), facts=norms.finite),
  "and": _elementwise(intervals.both_bits, facts=norms.both),
  "or": _elementwise(intervals.either_bits),
  "not": _elementwise(intervals.negated_bits, facts=norms.opposite),
  # Functions of one number
  "exp": _elementwise(intervals.exp),
  "exp2": _elementwise(intervals.exp2),
  "expm1": _elementwise(intervals.expm1),
  "log": _elementwise(intervals.log),
  "log1p": _elementwise(intervals.log1p),
  "logistic": _elementwise(intervals.within(0.0, 1.0)),
  "tanh": _elementwise(intervals.within(-1.0, 1.0), zero_at_zero=True),
  "erf": _elementwise(intervals.within(-1.0, 1.0), zero_at_zero=True),
  "erfc": _elementwise(intervals.within(0.0, 2.0)),
  "sin": _elementwise(intervals.wave, zero_at_zero=True),
  "cos": _elementwise(intervals.wave),
  **dict.fromkeys(("floor", "ceil", "round"), _ODD),
  **dict.fromkeys(
    ("cbrt", "rem", "nextafter", "atan2", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh")
    + ("acosh", "atanh", "erf_inv", "lgamma", "digamma", "igamma", "igammac", "bessel_i0e")
    + ("bessel_i1e", "polygamma", "regularized_incomplete_beta", "imag", "conj", "complex")
    + ("xor", "shift_left", "shift_right_logical", "shift_right_arithmetic", "population_count")
    + ("clz", "bitcast_convert_type", "random_fold_in", "random_seed", "random_gamma")
    + ("threefry2x32",),
    _PLAIN,
  ),
  # The same elements
  "convert_element_type": _elementwise(
    intervals.converted, linear=sums.converted, law=noise.converted
  ),
  "real": _elementwise(intervals.same),
  **dict.fromkeys(("copy", "stop_gradient", "name", "sharding_constraint"), _ALIAS),
  # Moves
  "broadcast_in_dim": _moved(moves.broadcast_in_dim, movement.broadcast),
  "reshape": _moved(moves.reshape, movement.reshape),
  "transpose": _moved(moves.transpose, movement.transpose),
  "squeeze": _moved(moves.squeeze, movement.squeeze),
  "rev": _moved(moves.rev, movement.rev),
  "tile": _moved(moves.tile, movement.tile),
  "slice": _moved(parts.slice_, movement.slice_),
  "split": _moved(parts.split, movement.split),
  "unstack": _moved(parts.unstack, movement.unstack),
  "stack": _moved(parts.stack, law=noise.joined),
  "concatenate": _moved(parts.concatenate, law=noise.joined),
  "pad": _moved(parts.pad),
  "dynamic_slice": _moved(parts.dynamic_slice, law=noise.cut, num_bounding=1),
  "dynamic_update_slice": _moved(parts.dynamic_update_slice, num_bounding=2),
  # Sums, products of matrices, orders
  "reduce_sum": _whole(reductions.reduce_sum, linear=reductions.reduce_sum),
  "dot_general": _whole(reductions.dot_general),
  **dict.fromkeys(("reduce_max", "reduce_min"), _whole(reductions.reduce_other, num_bounding=_ALL)),
  **dict.fromkeys(
    ("reduce_prod", "reduce_and", "reduce_or", "reduce_xor", "argmax", "argmin"),
    _whole(reductions.reduce_other),
  ),
  **dict.fromkeys(("sort", "cummax", "cummin"), _whole(reductions.along_axis, num_bounding=_ALL)),
  **dict.fromkeys(("cumsum", "cumprod", "cumlogsumexp", "top_k"), _whole(reductions.along_axis)),
  **dict.fromkeys(
    ("cholesky", "triangular_solve", "lu", "qr", "householder_product", "eigh", "svd", "fft"),
    _whole(reductions.on_matrices),
  ),
  # Places that are computed
  "gather": _whole(lookups.gather, num_bounding=1),
  **dict.fromkeys(
    ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"),
    _whole(lookups.scatter),
  ),
  "conv_general_dilated": _whole(lookups.convolution),
  **dict.fromkeys(
    ("reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_scatter_add")
    + ("select_and_gather_add",),
    _whole(lookups.windows),
  ),
  **dict.fromkeys(
    ("random_bits", "random_split", "random_wrap", "random_unwrap", "random_clone"),
    _whole(lookups.keys),
  ),
}
TABLE: Table = MappingProxyType(_ROWS)
