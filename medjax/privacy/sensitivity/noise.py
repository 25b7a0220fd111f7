"""Follows random numbers through a program: keys, the Gaussian law of elements, and what uses them.

A draw of normal numbers is recognised by its program: the equation must hold, letter by letter,
what JAX makes of one of `GENERATORS`. So a function of the same name that does something else is no
generator, and a new JAX with another way to draw is one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from medjax.privacy import noise
from medjax.privacy.sensitivity import chance, keys, parts
from medjax.privacy.sensitivity.chance import NOTHING, Chance, Law
from medjax.privacy.sensitivity.equations import DType, Equation, InnerEquation, TracedEquation
from medjax.privacy.sensitivity.keys import ANY, MANY, Path
from medjax.privacy.sensitivity.kinds import Primitive
from medjax.privacy.sensitivity.ledger import Ledger
from medjax.privacy.sensitivity.values import Public, Row, Sum, Value, is_wide, with_chance

_V = TypeVar("_V", bound=Value)


class NormalSource(NamedTuple):
  """A source of standard normal numbers.

  Attributes:
    name: for reports.
    draw: `draw(key, shape, dtype)`.
    limits: {type: what its law lacks of the normal one}; a type that is not named lacks nothing
      that an accountant would notice.
  """

  name: str
  draw: Callable[..., Any]
  limits: dict[str, str]


GENERATORS = (
  NormalSource(
    "jax.random.normal",
    jax.random.normal,
    {
      "float32": "jax.random.normal in float32 takes 2^23 values and none beyond 5.42 standard"
      " deviations; a real Gaussian does with probability 6e-8 a number, which delta must hold"
    },
  ),
)


def drawn(ledger: Ledger, eqn: TracedEquation, ins: Sequence[Value]) -> list[Value] | None:
  """Results of a call that draws normal numbers with one public key; None of any other."""
  if eqn.primitive.name != "jit" or len(eqn.invars) != 1 or len(eqn.outvars) != 1:
    return None
  (key,), aval = ins, eqn.outvars[0].aval
  if not isinstance(key, Public) or not _is_key(key.dtype) or key.shape or not is_wide(aval.dtype):
    return None
  inside = eqn.params["jaxpr"]
  if inside.consts:
    return None
  text = str(inside)
  for generator in GENERATORS:
    if text != _program(generator.draw, tuple(aval.shape), str(aval.dtype), key.dtype):
      continue
    (path,) = _paths(key) or (("data", MANY),)
    number = ledger.draw(path, (generator.name, tuple(aval.shape), str(aval.dtype)))
    if str(aval.dtype) in generator.limits:
      ledger.limits[number] = generator.limits[str(aval.dtype)]
    known = Chance(chance.drawn(number, tuple(aval.shape)), used=key.chance.used)
    return [Public(tuple(aval.shape), aval.dtype, chance=known)]
  return None


def added(ledger: Ledger, eqn: TracedEquation, ins: Sequence[Value]) -> list[Value] | None:
  """Results of a call of medjax's own noise, `privacy.noise.added`; None of any other.

  Its promise: the result is the sum, moved by no more than the size of the noise pays for, plus
  normal numbers of that size, one for every element, of the key that is the first argument.
  """
  if eqn.primitive.name != "jit" or len(eqn.invars) != 6 or len(eqn.outvars) != 1:
    return None
  key, total, size, *_ = ins
  aval = eqn.outvars[0].aval
  is_its = eqn.params["name"] == noise.call_name(tuple(aval.shape)) and not key.shape
  if not is_its or tuple(total.shape) != tuple(aval.shape):
    return None
  if not isinstance(key, Public) or not isinstance(total, Public | Sum):
    return None
  std = size.range.low if isinstance(size, Public) and size.range.low == size.range.high else np.nan
  (path,) = _paths(key) or (("data", MANY),)
  law = chance.drawn(ledger.draw(path, ("medjax", aval.shape)), tuple(aval.shape))
  noisy = Public(tuple(aval.shape), aval.dtype, chance=Chance(Law(law.number, law.std * std)))
  sum_ = InnerEquation("add", {}, [aval])
  out = dataclasses.replace(total, dtype=aval.dtype)
  if isinstance(out, Public):
    out = Public(tuple(aval.shape), aval.dtype)
  return followed(ledger, sum_, [total, noisy], [out])


@functools.cache
def _program(draw: Callable[..., Any], shape: tuple[int, ...], dtype: str, key: Any) -> str:
  """What JAX makes of a draw."""
  traced = jax.make_jaxpr(lambda k: draw(k, shape, jnp.dtype(dtype)))(jax.ShapeDtypeStruct((), key))
  (eqn,) = traced.jaxpr.eqns
  return str(eqn.params["jaxpr"])


def followed(
  ledger: Ledger, eqn: Equation, ins: Sequence[Value], outs: Sequence[Value]
) -> list[Value]:
  """The results of an equation, with what of them is random."""
  name = eqn.primitive.name
  if name != "random_seed" and all(v.chance is NOTHING for v in ins):
    return list(outs)
  inherited = frozenset().union(*(v.chance.used for v in ins))
  entered = inherited | _entered(ledger, ins)
  laws = _laws(ledger, eqn, ins)
  found: list[Value] = []
  for place, out in enumerate(outs):
    law, extra = laws[place] if laws else (None, frozenset())
    if _is_key(out.dtype) or name == "random_unwrap":
      known = _derived(ledger.primitive(name), eqn, ins, out, inherited)
    elif law is not None and not isinstance(out, Row):
      known = Chance(law, used=keys.covering(inherited | extra))
    else:
      known = Chance(used=keys.covering(entered))
    found.append(with_chance(out, known))
  return found


def spent(ledger: Ledger, v: _V) -> _V:
  """A value of whose random numbers nothing is remembered but their keys."""
  if v.chance is NOTHING:
    return v
  used = keys.covering(v.chance.used | _entered(ledger, [v]))
  if not _is_key(v.dtype):
    return with_chance(v, Chance(used=used))
  paths = keys.array([_one_of(used)] * math.prod(v.shape), v.shape)
  return with_chance(v, Chance(keys=paths))


def blended(ledger: Ledger, v: Value, sources: Sequence[Value]) -> Value:
  """A value that may depend on all random numbers of `sources`, in any way."""
  sources = [s for s in (v, *sources) if s.chance is not NOTHING]
  if not sources:
    return v
  used = frozenset().union(*(s.chance.used for s in sources)) | _entered(ledger, sources)
  return spent(ledger, with_chance(v, Chance(used=keys.covering(used))))


def _is_key(dtype: DType) -> bool:
  return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _paths(v: Value) -> frozenset[Path]:
  return frozenset() if v.chance.keys is None else frozenset(v.chance.keys.flat)


def _entered(ledger: Ledger, ins: Sequence[Value]) -> frozenset[Path]:
  """Paths of the keys and of the draws that stand in values."""
  found: set[Path] = set()
  for v in ins:
    found |= _paths(v)
    if v.chance.law is not None:
      found |= {ledger.draws[number] for number in v.chance.law.draws}
  return frozenset(found)


def _one_of(paths: Sequence[Path] | frozenset[Path]) -> Path:
  """A path that covers a key which is one of several, or made of them."""
  found = list(paths)
  if not found:
    return ("data", MANY)
  if len(found) == 1:
    return found[0]
  if len({p[:-1] for p in found}) == 1:
    return (*found[0][:-1], ANY)
  shared = 0
  while all(len(p) > shared and p[shared] == found[0][shared] for p in found):
    shared += 1
  return (*found[0][:shared], MANY)


# Keys.


def _derived(
  row: Primitive, eqn: Equation, ins: Sequence[Value], out: Value, inherited: frozenset[Path]
) -> Chance:
  """Paths of keys that were made of others."""
  name, first = eqn.primitive.name, ins[0]
  before = first.chance.keys
  is_child = name in ("random_fold_in", "random_split")
  if isinstance(out, Row):  # keys of single examples: one path stands for all
    made = frozenset(p for v in ins for p in _paths(v))
    made = frozenset(keys.child(p, ANY) for p in made) if is_child else made
    return Chance(used=keys.covering(made | inherited))
  if name == "random_seed":
    return Chance(keys=keys.array([_seed(eqn, first)] * math.prod(out.shape), out.shape))
  paths = None
  if before is not None and name in ("random_wrap", "random_unwrap", "random_clone"):
    paths = before
  elif before is not None and name == "random_split":
    count = math.prod(eqn.params["shape"])
    made = [keys.child(p, i) for p in before.flat for i in range(count)]
    paths = keys.array(made, tuple(out.shape))
  elif before is not None and name == "random_fold_in":
    number = _known(ins[1])
    step = ANY if number is None else number % 2**32
    whole = np.broadcast_to(before, out.shape)
    paths = keys.array([keys.child(p, step) for p in whole.flat], tuple(out.shape))
  elif before is not None and row.moved is not None:
    paths = row.moved(eqn, before)[0] if len(eqn.outvars) == 1 else None
  elif before is not None and name == "dynamic_slice":
    paths = _cut(eqn, ins, before)
  if paths is None:
    made = frozenset(keys.child(p, MANY) for v in ins for p in v.chance.used)
    one = _one_of(made.union(*(_paths(v) for v in ins)))
    paths = keys.array([one] * math.prod(out.shape), tuple(out.shape))
  return Chance(keys=paths)


def _known(v: Value) -> int | None:
  """The one number that a public value holds, if it is known."""
  is_one = isinstance(v, Public) and v.range.low == v.range.high and abs(v.range.low) < 2**53
  return int(v.range.low) if is_one and isinstance(v, Public) else None


def _seed(eqn: Equation, seed: Value) -> Path:
  number = _known(seed)
  if number is None:
    return ("seed", ANY)
  made = jax.random.key(number, impl=eqn.params["impl"])
  return keys.FIXED, np.asarray(jax.random.key_data(made)).tobytes()


def _cut(eqn: Equation, ins: Sequence[Value], x: np.ndarray) -> np.ndarray | None:
  """x[starts : starts + sizes] where the starts are known."""
  starts = parts.known_starts(ins[1:], x.shape, eqn.params["slice_sizes"])
  if starts is None:
    return None
  spans = zip(starts, eqn.params["slice_sizes"], strict=True)
  return x[tuple(slice(a, a + n) for a, n in spans)]


# Laws. A rule gives for every result its law and the keys of noise that the law left out.

Found = list[tuple[Law | None, frozenset[Path]]] | None


def _laws(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> Found:
  row = ledger.primitive(eqn.primitive.name)
  if all(v.chance.law is None for v in ins):
    return None
  first = ins[0].chance.law
  if row.moved is not None:
    assert first is not None
    moved = zip(row.moved(eqn, first.number), row.moved(eqn, first.std), strict=True)
    return [(Law(*pair), frozenset()) for pair in moved]
  return None if row.law is None else row.law(ledger, eqn, ins)


def _laid(law: Law | None, shape: tuple[int, ...]) -> Law:
  """A law at the shape of a result; none is no noise anywhere."""
  if law is None:
    return Law(np.broadcast_to(np.int64(0), shape), np.broadcast_to(0.0, shape))
  return Law(np.broadcast_to(law.number, shape), np.broadcast_to(law.std, shape))


def plus(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> Found:
  shape = tuple(eqn.outvars[0].aval.shape)
  a, b = (_laid(v.chance.law, shape) for v in ins)
  is_twice = (a.number != 0) & (b.number != 0)
  # Two noises in one element: one stays to be compared with others, of a size that is not known.
  std = np.where(is_twice, np.nan, a.std + b.std)
  number = np.where(a.number != 0, a.number, b.number)
  left = Law(np.where(is_twice, b.number, 0), b.std).draws
  return [(Law(number, std), frozenset(ledger.draws[d] for d in left))]


def times(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> Found:
  a, b = ins
  if a.chance.law is not None and b.chance.law is not None:
    return None
  law = a.chance.law or b.chance.law
  other = b if a.chance.law is not None else a
  assert law is not None
  if not isinstance(other, Public) or (eqn.primitive.name == "div" and other is a):
    return None
  low, high = other.range.low, other.range.high
  is_known = low == high and math.isfinite(low) and not other.chance.used
  factor = abs(low) if is_known else math.nan
  if eqn.primitive.name == "div":
    factor = 1 / factor if factor else math.nan
  law = _laid(law, tuple(eqn.outvars[0].aval.shape))
  return [(Law(law.number, law.std * factor), frozenset())]


def converted(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> Found:
  is_kept = is_wide(ins[0].dtype) and is_wide(eqn.params["new_dtype"])
  return [(ins[0].chance.law, frozenset())] if is_kept else None


def joined(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> Found:
  laws = [_laid(v.chance.law, tuple(v.shape)) for v in ins]
  if eqn.primitive.name == "stack":
    pair = [np.stack(x, eqn.params["axis"]) for x in zip(*laws, strict=True)]
  else:
    pair = [np.concatenate(x, eqn.params["dimension"]) for x in zip(*laws, strict=True)]
  return [(Law(*pair), frozenset())]


def cut(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> Found:
  law = ins[0].chance.law
  if law is None or any(v.chance is not NOTHING for v in ins[1:]):
    return None
  number, std = (_cut(eqn, ins, x) for x in law)
  return None if number is None or std is None else [(Law(number, std), frozenset())]


def selected(ledger: Ledger, eqn: Equation, ins: Sequence[Value]) -> Found:
  which, *cases = ins
  number = _known(which)
  if number is not None:
    return [(cases[number].chance.law, frozenset())]
  laws = [_laid(v.chance.law, tuple(eqn.outvars[0].aval.shape)) for v in cases]
  is_same = all(np.array_equal(x, y) for law in laws[1:] for x, y in zip(laws[0], law, strict=True))
  return [(laws[0], frozenset())] if is_same and which.chance is NOTHING else None
