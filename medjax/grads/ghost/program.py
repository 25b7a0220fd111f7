"""A loss as a list of operations, and the places where its parameters meet the example.

Every value is constant, a function of the parameters alone, or touched by the example. An operation
that reads the second and the third kind is a site: there, and only there, the gradient of one
example is born, from the operands of the operation and the cotangent of its result. Calls of `jit`
and `remat` that the parameters enter are opened; what is inside scan, cond or a custom derivative
stays one operation.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from medjax import tree
from medjax.devices import on_this_device
from medjax.grads.ghost import derivatives
from medjax.types import Leaf, PyTree

_CALLS = ("jit", "closed_call", "remat2")
# Selections move numbers and change none: the gradient keeps its norm through them.
_SELECTIONS = ("reshape", "transpose", "squeeze", "slice", "rev", "copy")


class Literal(NamedTuple):
  """An operand known when the loss was traced."""

  value: Any


class Operation(NamedTuple):
  """One primitive. `inputs` are value ids or Literals; results without reader have an id too."""

  primitive: core.Primitive
  params: dict[str, Any]
  inputs: tuple[int | Literal, ...]
  outputs: tuple[int, ...]
  input_avals: tuple[Leaf, ...]
  avals: tuple[Leaf, ...]  # of the outputs

  def run(self, inputs: Sequence[Leaf]) -> tuple[Leaf, ...]:
    if self.primitive.name == "pvary":  # traced for an example of no device, which now has one
      return tuple(on_this_device(list(inputs)))
    out = self.primitive.bind(*inputs, **self.primitive.get_bind_params(self.params))
    return tuple(out) if self.primitive.multiple_results else (out,)


class Cut(NamedTuple):
  """A value made of one leaf by selection: where a site takes hold of the parameters.

  Attributes:
    value: its id.
    leaf: number of the leaf.
    places: flat positions in the leaf of its elements, each at most once; None for the whole leaf
      in any order.
  """

  value: int
  leaf: int
  places: np.ndarray | None


class GhostSite(NamedTuple):
  """An operation on parameters and example.

  Attributes:
    operation: the primitive.
    cuts: the parameter values that it depends on.
    tail: operations that lead from the cuts to its operands, such as broadcasting a bias.
    examples: ids of its operands that the example touched.
    outputs: positions of its differentiable results.
  """

  operation: Operation
  cuts: tuple[Cut, ...]
  tail: tuple[Operation, ...]
  examples: tuple[int, ...]
  outputs: tuple[int, ...]

  @property
  def is_plain(self) -> bool:
    """Whether the operation reads its only cut directly, in one place."""
    direct = [i for i in self.operation.inputs if i == self.cuts[0].value]
    return len(self.cuts) == 1 and not self.tail and len(direct) == 1

  def run(
    self, cuts: Sequence[Leaf], examples: Sequence[Leaf], constants: Mapping[int, Leaf]
  ) -> tuple[Leaf, ...]:
    """Differentiable results of the site as a function of its cuts."""
    values = {
      **constants,
      **dict(zip((c.value for c in self.cuts), cuts, strict=True)),
      **dict(zip(self.examples, examples, strict=True)),
    }
    _run_all(self.tail, values)
    results = self.operation.run(read(self.operation, values))
    return tuple(results[i] for i in self.outputs)


class Forward(NamedTuple):
  """A loss run on one example: the scalar, what it returned beside, each site's operands."""

  loss: Any
  aux: PyTree
  operands: tuple[tuple[Leaf, ...], ...]


@dataclasses.dataclass(frozen=True)
class Program:
  """A traced loss of one example.

  Attributes:
    names: paths of the parameters' leaves, in order.
    operations: those that the example touches, in order; the rest runs once for all examples.
    shared: operations on parameters and constants alone.
    selections: those of them that lead from the leaves to the cuts; they run in any dtype.
    sites: by position in `operations`.
    leaf_ids, example_ids: ids of the arguments.
    results: the loss, then the leaves of aux: ids or Literals.
    is_example_dependent: False for a loss that no example enters; its sites do not say it all.
    has_own_gradients: whether parameters pass, before they meet an example, through an operation
      whose derivative may be anything, see `derivatives`: one that is not linear has to see the
      sum over the sites.
  """

  names: tuple[str, ...]
  operations: tuple[Operation, ...]
  shared: tuple[Operation, ...]
  selections: tuple[Operation, ...]
  sites: dict[int, GhostSite]
  leaf_ids: tuple[int, ...]
  example_ids: tuple[int, ...]
  results: tuple[int | Literal, ...]
  aux_tree: jax.tree_util.PyTreeDef
  is_example_dependent: bool
  has_own_gradients: bool

  def constants(self, leaves: Sequence[Leaf]) -> dict[int, Any]:
    """Every value that no example touches."""
    values = dict(zip(self.leaf_ids, leaves, strict=True))
    _run_all(self.shared, values)
    return values

  def cuts(self, leaves: Sequence[Leaf]) -> tuple[tuple[Leaf, ...], ...]:
    """Values of each site's cuts; linear in the leaves, in the leaves' own types."""
    values = dict(zip(self.leaf_ids, leaves, strict=True))
    _run_all(self.selections, values)
    return tuple(tuple(values[c.value] for c in site.cuts) for site in self.sites.values())

  def forward(
    self,
    constants: Mapping[int, Leaf],
    example: Sequence[Leaf],
    taps: Sequence[Sequence[Leaf]],
    run: Callable[[Operation, Sequence[Leaf]], tuple[Leaf, ...]] = Operation.run,
  ) -> tuple[jax.Array, Forward]:
    """The loss, with `taps` added to the results of the sites; `run` does each operation."""
    values = {**constants, **dict(zip(self.example_ids, example, strict=True))}
    operands = []
    added = iter(taps)
    for position, operation in enumerate(self.operations):
      results = list(run(operation, read(operation, values)))
      if (site := self.sites.get(position)) is not None:
        operands.append(tuple(values[i] for i in site.examples))
        for place, tap in zip(site.outputs, next(added), strict=True):
          results[place] = results[place] + tap
      values.update(zip(operation.outputs, results, strict=True))
    loss, *aux = [r.value if isinstance(r, Literal) else values[r] for r in self.results]
    return loss, Forward(loss, jax.tree.unflatten(self.aux_tree, aux), tuple(operands))

  def taps(self) -> tuple[tuple[jax.Array, ...], ...]:
    """Zeros of the shapes of the sites' differentiable results."""
    avals = [[site.operation.avals[i] for i in site.outputs] for site in self.sites.values()]
    zeros = tuple(tuple(jnp.zeros(a.shape, a.dtype) for a in group) for group in avals)
    return on_this_device(zeros)


def trace(
  loss_fn: Callable[..., Any],
  params: PyTree,
  example: PyTree,
  key: Any,
  *,
  has_aux: bool = False,
  merges: bool = False,
) -> Program:
  """The program of `loss_fn(params, example, key)`; arguments may be ShapeDtypeStructs.

  With `merges` an operation that was done before, with the same operands, is not done again: a
  network that the losses of several tasks run each for themselves has its sites once.
  """

  def flat(*arguments: Any) -> Any:
    out = loss_fn(*arguments)
    return out if has_aux else (out, ())

  closed, out_shape = jax.make_jaxpr(flat, return_shape=True)(params, example, key)
  if getattr(out_shape[0], "shape", None) != ():
    raise TypeError(f"expected a loss that returns a scalar, got {out_shape[0]}; reduce it")
  named = tree.named_leaves(params)
  builder = _Builder(merges)
  jaxpr = closed.jaxpr
  ids = [builder.new() for _ in jaxpr.invars]
  num_leaves = len(named)
  leaf_ids, example_ids = ids[:num_leaves], ids[num_leaves:]
  for number, (value, leaf) in enumerate(zip(leaf_ids, named.values(), strict=True)):
    builder.leaf(value, number, leaf.shape)
  builder.touched.update(example_ids)
  results = builder.inline(jaxpr, closed.consts, ids)
  return Program(
    names=tuple(named),
    operations=tuple(builder.operations),
    shared=tuple(builder.shared),
    selections=tuple(builder.selections),
    sites=builder.sites,
    leaf_ids=tuple(leaf_ids),
    example_ids=tuple(example_ids),
    results=tuple(results),
    aux_tree=jax.tree.structure(out_shape[1]),
    is_example_dependent=not builder.touched.isdisjoint(_ids(results[:1])),
    has_own_gradients=builder.has_own_gradients,
  )


class _Builder:
  """Sorts operations while it walks the jaxpr."""

  def __init__(self, merges: bool) -> None:
    self.done: dict[Any, list[int]] | None = {} if merges else None  # results by what made them
    self.operations: list[Operation] = []
    self.shared: list[Operation] = []
    self.selections: list[Operation] = []
    self.sites: dict[int, GhostSite] = {}
    self.touched: set[int] = set()
    self.of_params: set[int] = set()
    self.cuts: dict[int, Cut] = {}
    self.producer: dict[int, Operation] = {}
    self.has_own_gradients = False
    self._positions: dict[int, np.ndarray] = {}
    self._count = 0

  def new(self) -> int:
    self._count += 1
    return self._count - 1

  def leaf(self, value: int, number: int, shape: tuple[int, ...]) -> None:
    self.of_params.add(value)
    self.cuts[value] = Cut(value, number, None)
    self._positions[value] = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)

  def inline(
    self, jaxpr: core.Jaxpr, consts: Sequence[Leaf], arguments: Sequence[int | Literal]
  ) -> list[int | Literal]:
    """Adds the operations of a jaxpr; returns its results."""
    names: dict[core.Var, int | Literal] = dict(zip(jaxpr.invars, arguments, strict=True))
    names.update(zip(jaxpr.constvars, (Literal(c) for c in consts), strict=True))

    def look_up(atom: core.Var | core.Literal) -> int | Literal:
      return Literal(atom.val) if isinstance(atom, core.Literal) else names[atom]

    for eqn in jaxpr.eqns:
      inputs = tuple(look_up(atom) for atom in eqn.invars)
      if eqn.primitive.name in _CALLS and not self.of_params.isdisjoint(_ids(inputs)):
        inner = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
        body, held = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
        results = self.inline(body, held, inputs)
      else:
        avals = [tuple(v.aval for v in ends) for ends in (eqn.invars, eqn.outvars)]
        made_by = None if self.done is None else _signature(eqn, inputs, avals[1])
        results = None if made_by is None or self.done is None else self.done.get(made_by)
        if results is None:
          results = [self.new() for _ in eqn.outvars]
          self.add(Operation(eqn.primitive, eqn.params, inputs, tuple(results), *avals))
          if made_by is not None and self.done is not None:
            self.done[made_by] = results
      names.update(zip(eqn.outvars, results, strict=True))
    return [look_up(atom) for atom in jaxpr.outvars]

  def add(self, operation: Operation) -> None:
    ids = _ids(operation.inputs)
    self.producer.update(dict.fromkeys(operation.outputs, operation))
    from_params = sorted(self.of_params.intersection(ids))
    if self.touched.isdisjoint(ids):
      self.shared.append(operation)
      if from_params:
        self.of_params.update(operation.outputs)
        self.has_own_gradients |= derivatives.may_be_anything(operation.primitive, operation.params)
        self._select(operation)
      return
    self.touched.update(operation.outputs)
    outputs = tuple(
      i for i, a in enumerate(operation.avals) if jnp.issubdtype(a.dtype, jnp.inexact)
    )
    if from_params and outputs:
      self.sites[len(self.operations)] = self._site(operation, from_params, outputs)
    self.operations.append(operation)

  def _site(
    self, operation: Operation, from_params: list[int], outputs: tuple[int, ...]
  ) -> GhostSite:
    cuts: dict[int, Cut] = {}
    tail: dict[int, Operation] = {}

    pending, seen = list(from_params), set(from_params)
    while pending:
      value = pending.pop()
      if value in self.cuts:
        cuts[value] = self.cuts[value]
      elif value in self.of_params:
        made_by = self.producer[value]
        tail[made_by.outputs[0]] = made_by
        new = set(_ids(made_by.inputs)) - seen
        seen |= new
        pending += new
    order = tuple(tail[first] for first in sorted(tail))
    touched = tuple(dict.fromkeys(i for i in _ids(operation.inputs) if i in self.touched))
    return GhostSite(operation, tuple(cuts[v] for v in sorted(cuts)), order, touched, outputs)

  def _select(self, operation: Operation) -> None:
    """Follows a leaf through an operation that only moves its elements."""
    (value,) = operation.inputs[:1] if len(operation.inputs) == 1 else (None,)
    if operation.primitive.name not in _SELECTIONS or value not in self.cuts:
      return
    with jax.ensure_compile_time_eval():
      moved = np.asarray(operation.run([jnp.asarray(self._positions[value])])[0])
    (result,) = operation.outputs
    places = moved.ravel()
    source = self.cuts[value]
    is_whole = source.places is None and places.size == self._positions[value].size
    self.cuts[result] = Cut(result, source.leaf, None if is_whole else places)
    self._positions[result] = moved
    self.selections.append(operation)


def _signature(eqn: core.JaxprEqn, inputs: Sequence[int | Literal], avals: Sequence[Leaf]) -> Any:
  """Equal for two equations that give the same results; None where that cannot be told."""

  def one(x: Any) -> Any:
    if not isinstance(x, Literal):
      return x
    # Scalars that read alike are one operand; of arrays only the same object.
    is_scalar = isinstance(x.value, int | float | np.generic)
    return (type(x.value), repr(x.value)) if is_scalar else (type(x.value), id(x.value))

  params = tuple((name, type(value), value) for name, value in sorted(eqn.params.items()))
  found = (eqn.primitive, params, tuple(map(one, inputs)), str(avals))
  try:
    hash(found)
  except TypeError:  # a parameter that has no equality, such as an array
    return None
  return found


def _ids(inputs: Sequence[int | Literal]) -> list[int]:
  return [i for i in inputs if not isinstance(i, Literal)]


def read(operation: Operation, values: Mapping[int, Leaf]) -> list[Leaf]:
  return [i.value if isinstance(i, Literal) else values[i] for i in operation.inputs]


def _run_all(operations: Sequence[Operation], values: dict[int, Any]) -> None:
  for operation in operations:
    values.update(zip(operation.outputs, operation.run(read(operation, values)), strict=True))
