"""What the rules of the walk read of an equation of a jaxpr, and of what it makes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

DType: TypeAlias = Any  # a np.dtype; of typed keys an extended type, which JAX does not publish


@runtime_checkable
class Aval(Protocol):
  """Shape and type of an array: a `jax.ShapeDtypeStruct`, or what a jaxpr says of a variable."""

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def dtype(self) -> DType: ...


@runtime_checkable
class Variable(Protocol):
  """An operand or a result of an equation."""

  @property
  def aval(self) -> Aval: ...


@runtime_checkable
class Named(Protocol):
  """A primitive."""

  @property
  def name(self) -> str: ...


@runtime_checkable
class Equation(Protocol):
  """An equation of a jaxpr, or one that a rule makes as a part of another.

  Attributes:
    primitive: the operation.
    params: its parameters by name; what type one has depends on the primitive.
    outvars: its results.
  """

  @property
  def primitive(self) -> Named: ...

  @property
  def params(self) -> Mapping[str, Any]: ...

  @property
  def outvars(self) -> Sequence[Variable]: ...


@runtime_checkable
class TracedEquation(Equation, Protocol):
  """An equation of a jaxpr itself.

  Attributes:
    invars: its operands.
    effects: what it does beside computing its results.
    source_info: where in the user's program it stands.
  """

  @property
  def invars(self) -> Sequence[Variable]: ...

  @property
  def effects(self) -> Iterable[Any]: ...

  @property
  def source_info(self) -> Any: ...


@dataclasses.dataclass(frozen=True)
class _Name:
  name: str


@dataclasses.dataclass(frozen=True)
class _Result:
  aval: Aval


class InnerEquation:
  """An equation that a rule makes as a part of another one."""

  def __init__(self, name: str, params: Mapping[str, Any], avals: Sequence[Aval]):
    self.primitive = _Name(name)
    self.params = params
    self.outvars = [_Result(aval) for aval in avals]
