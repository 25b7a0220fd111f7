"""What a check writes down on its way: names of rows, assumptions, the steps of the proof."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import grads
from medjax.privacy.sensitivity import forms, intervals, keys, owners
from medjax.privacy.sensitivity.chance import Chance
from medjax.privacy.sensitivity.equations import Aval, TracedEquation
from medjax.privacy.sensitivity.keys import Path
from medjax.privacy.sensitivity.kinds import UNKNOWN, Primitive, Table
from medjax.privacy.sensitivity.values import Cause, Public, Range, Row, Sum, Value


class ProofStep(NamedTuple):
  """A place in the program where a bound is born.

  Attributes:
    what: what was recognised.
    where: operation, type and source line.
    bound: L2 norm of one row, or of what one example adds to the sum.
  """

  what: str
  where: str
  bound: float

  def __str__(self) -> str:
    return f"{self.what}, at most {self.bound:.6g}: {self.where}"


@dataclasses.dataclass
class Ledger:
  """Attributes:
  num_examples: number of examples of the batch.
  primitives: what is known of every primitive.
  steps: steps of the proof, in order.
  suspects: {number: where} of results that are assumed finite.
  where: the equation at work.
  draws: {number: path of the key} of draws of normal numbers.
  limits: {number: what the law of a draw lacks}.
  released: (where, sum) of sums that became public by their noise, None where none may.
  """

  num_examples: int
  primitives: Table
  steps: list[ProofStep] = dataclasses.field(default_factory=list)
  suspects: dict[int, str] = dataclasses.field(default_factory=dict)
  where: str = "the arguments"
  draws: dict[int, Path] = dataclasses.field(default_factory=dict)
  limits: dict[int, str] = dataclasses.field(default_factory=dict)
  released: list[tuple[str, Sum]] | None = None
  _count: int = 0
  _line: str = ""
  _caller: str = ""
  _drawn: dict[Any, int] = dataclasses.field(default_factory=dict)
  _everyone: dict[int, tuple[Value, Any]] = dataclasses.field(default_factory=dict)

  def primitive(self, name: str) -> Primitive:
    """What is known of a primitive."""
    return self.primitives.get(name, UNKNOWN)

  def number(self) -> int:
    self._count += 1
    return self._count

  def suspect(self) -> frozenset[int]:
    """A new assumption: the result of the equation at work is finite."""
    number = self.number()
    self.suspects[number] = self.where
    return frozenset([number])

  def keep(self, value: Value) -> None:
    """Holds on to a value whose `id` serves as its name: Python may give a freed id to another."""
    self._everyone.setdefault(-id(value), (value, None))

  def draw(self, path: Path, what: Any) -> int:
    """Number of a draw; the same for two of one key and kind, which are the same numbers."""
    number = self._drawn.get((path, what)) if keys.is_exact(path) else None
    if number is None:
      number = self._drawn[path, what] = len(self.draws) + 1
      self.draws[number] = path
    return number

  def note(self, what: str, bound: Any) -> None:
    step = ProofStep(what, self.where, float(np.max(bound)))
    if step not in self.steps:
      self.steps.append(step)

  def fresh(self, aval: Aval, whose: owners.Owners, *sources: Value, **known: Any) -> Row:
    """A row of which nothing is known but what is passed, made of `sources`."""
    atom = known.pop("atom", None) or self.number()
    rows = [s for s in sources if isinstance(s, Row)]
    known.setdefault("range", intervals.default(aval.dtype))
    if "suspects" not in known:
      known["suspects"] = frozenset()
      is_claim = known["range"].low > -np.inf or known["range"].high < np.inf
      if is_claim or _FACTS & known.keys():
        known["suspects"] = together(*sources)
      if known["range"].cap == np.inf and jnp.issubdtype(aval.dtype, jnp.inexact):
        own = self.suspect()
        known["suspects"] |= own
        known["range"] = dataclasses.replace(known["range"], is_finite=True)
        known["witnesses"] = own | known.get("witnesses", frozenset())
    from_repeated = any(r.is_repeated for r in rows) and bool(known.keys() & (_FACTS | {"covers"}))
    known.setdefault("is_repeated", from_repeated or owners.has_repeats(whose))
    known.setdefault("form", forms.free(atom))
    known.setdefault("covers", ({atom: 1.0},))
    if owners.is_everyone(whose):
      known.setdefault("cause", next((r.cause for r in rows if r.cause), None))
      known["is_padding_zero"] = False
      assert known["cause"] is not None, self.where
    row = Row(tuple(aval.shape), aval.dtype, whose, atom, **known)
    return dataclasses.replace(row, is_even=row.is_even or row.width == 1)

  def everyones(self, value: Value, cause: Cause) -> Value:
    """`value` as one row that depends on everything."""
    if isinstance(value, Public) or (isinstance(value, Row) and value.is_everyones):
      return value
    if id(value) not in self._everyone:
      whose = owners.everyone(len(value.shape))
      known: dict[str, Any] = {"suspects": value.suspects, "cause": cause}
      if isinstance(value, Row):
        known |= {"range": value.range, "finite_when": value.finite_when}
      self._everyone[id(value)] = (value, self.fresh(value, whose, **known))
    return self._everyone[id(value)][1]

  def at(self, eqn: TracedEquation) -> None:
    """Goes on to an equation; one of JAX's own is at the line that called it."""
    out = _short(eqn.outvars[0].aval) if eqn.outvars else "no result"
    self._line = _line(eqn.source_info) or self._caller
    self.where = f"{eqn.primitive.name} -> {out} at {self._line}"

  @contextlib.contextmanager
  def inside(self) -> Iterator[None]:
    """While the equation at work is opened."""
    before, self._caller = self._caller, self._line
    yield
    self._caller = before


_HIDDEN = tuple(f"{pathlib.Path(module.__file__).parent}/" for module in (jax, grads))
_HIDDEN += tuple(
  str(pathlib.Path(__file__).parents[1] / name) for name in ("noise.py", "mechanism.py")
)
_FACTS = {"form", "above", "above_square", "below", "when", "totals", "finite_when"}


def _short(aval: Any) -> str:
  return aval.str_short(short_dtypes=True)


def _line(source: Any) -> str:
  """File, line and function of the caller of JAX and of `medjax.grads`."""
  for frame in source.traceback.frames if source.traceback else ():
    if not frame.file_name.startswith((*_HIDDEN, "<")):
      return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
  return ""


def together(*sources: Value) -> frozenset[int]:
  """Suspects of a value made of others."""
  return frozenset().union(*(s.suspects for s in sources if not isinstance(s, Public)))


def constant(array: Any) -> Public:
  """A public array whose numbers are known."""
  try:
    numbers = np.asarray(array)
  except TypeError:  # keys
    words = np.asarray(jax.random.key_data(array)).reshape(array.size, -1)
    paths = keys.array([(keys.FIXED, key.tobytes()) for key in words], tuple(array.shape))
    return Public(tuple(array.shape), array.dtype, chance=Chance(keys=paths))
  shape, dtype = numbers.shape, getattr(array, "dtype", numbers.dtype)
  is_number = numbers.dtype.kind in "fiub" or str(dtype) == "bfloat16"
  if not is_number or not numbers.size:
    return Public(shape, dtype)
  low, high = float(numbers.min()), float(numbers.max())
  return Public(
    shape,
    dtype,
    Range(low, high, max(abs(low), abs(high)) < np.inf),
    is_even=low == high,
  )
