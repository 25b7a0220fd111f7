"""What leaves a program: whether every private output has its noise, and nothing else shows it."""

import itertools
from collections.abc import Mapping

import numpy as np

from medjax import check
from medjax.privacy.sensitivity import keys
from medjax.privacy.sensitivity.chance import Law
from medjax.privacy.sensitivity.keys import Path
from medjax.privacy.sensitivity.ledger import Ledger
from medjax.privacy.sensitivity.values import Sum, Value

OWN_KEY = "derive a key for every draw, one a leaf, e.g. by jax.random.split, and use each once"


def sizes(v: Value) -> tuple[float | None, ...]:
  """The standard deviations of the noise in a value, None for one that is not known."""
  law = v.chance.law
  if law is None:
    return ()
  found = np.unique(np.where(law.number != 0, law.std, 0.0))
  return tuple(None if np.isnan(std) else float(std) for std in found)


def unproven(ledger: Ledger, found: Mapping[str, Value]) -> tuple[str, ...]:
  """What the noise of private outputs rests on besides the program."""
  draws = {d for law in _laws(found).values() for d in law.draws}
  said = [ledger.limits[d] for d in sorted(draws) if d in ledger.limits]
  if draws:
    said.append("keys passed as arguments differ from each other and from those of other runs")
  return tuple(dict.fromkeys(said))


def _laws(found: Mapping[str, Value]) -> dict[str, Law]:
  laws = {path: v.chance.law for path, v in found.items() if isinstance(v, Sum)}
  return {path: law for path, law in laws.items() if law is not None and law.number.any()}


def check_noise(ledger: Ledger, found: Mapping[str, Value], std: float | int | None) -> None:
  """Raises InputError where noise of private outputs is shared, shown or, with `std`, wrong."""
  laws = _laws(found)
  _check_own_numbers(laws)
  of_noise = {d: ledger.draws[d] for law in laws.values() for d in law.draws}
  for (a, first), (b, second) in itertools.combinations(sorted(of_noise.items()), 2):
    if keys.may_meet(first, second):
      _refuse_shared(_holder(laws, a), _holder(laws, b))
  for path, v in found.items():
    for used, (number, key) in itertools.product(_shown(ledger, v), of_noise.items()):
      if keys.may_meet(used, key):
        _refuse_shared(_holder(laws, number), f"something else in {path}")
  if std is not None:
    for path, v in found.items():
      if isinstance(v, Sum):
        _check_size(ledger, path, v.chance.law, float(std))


def _holder(laws: Mapping[str, Law], draw: int) -> str:
  return next(path for path, law in laws.items() if draw in law.draws)


def _shown(ledger: Ledger, v: Value) -> set[Path]:
  """Keys that a value shows something of, besides the noise of a private output."""
  shown = set(v.chance.used)
  if v.chance.keys is not None:
    shown |= set(v.chance.keys.flat)
  if v.chance.law is not None and not isinstance(v, Sum):
    shown |= {ledger.draws[d] for d in v.chance.law.draws}
  return shown


def _check_own_numbers(laws: Mapping[str, Law]) -> None:
  """Every element of every output must have a normal number of its own."""
  present = {path: law.number[law.number != 0] for path, law in laws.items()}
  if not present:
    return
  numbers, counts = np.unique(np.concatenate(list(present.values())), return_counts=True)
  if not (counts > 1).any():
    return
  first = numbers[np.argmax(counts > 1)]
  holders = [path for path, of_path in present.items() if first in of_path]
  _refuse_shared(holders[0], holders[-1])


def _refuse_shared(a: str, b: str) -> None:
  raise check.InputError(
    "noise of its own for every element of every output, used for nothing else",
    f"one noise key for {a} and {b}" if a != b else f"one noise key for several elements of {a}",
    OWN_KEY,
  )


def _check_size(ledger: Ledger, path: str, law: Law | None, std: float) -> None:
  expected = f"Gaussian noise of standard deviation {std} added once to every element of {path}"
  remedy = "add std * jax.random.normal(key, sum.shape) to the sum, in float32, with a constant std"
  is_there = law is not None and law.number.any()
  check.require(is_there, expected, "no noise that is known to be Gaussian", remedy)
  assert law is not None
  without = int((law.number == 0).sum())
  check.require(not without, expected, f"{without} elements without it", remedy)
  with np.errstate(invalid="ignore"):
    wrong = law.std[~(np.abs(law.std - std) <= 1e-5 * std)]
  got = wrong[0] if wrong.size else std
  size = "a size that is not known" if np.isnan(got) else f"standard deviation {got}"
  check.require(not wrong.size, expected, f"noise of {size} on {wrong.size} elements", remedy)
  fixed = [d for d in law.draws if ledger.draws[d][0] == keys.FIXED]
  check.require(
    not fixed,
    expected,
    "noise from a key that is written in the program, which everybody can take away again",
    "pass the key as an argument of the release",
  )
