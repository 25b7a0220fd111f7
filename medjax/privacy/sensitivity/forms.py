"""Quadratic bounds on the norm of what one example contributes.

A form {member: q} says |v|^2 <= sum_m q_m |m|^2. Members of one family are parts of one vector of
norm at most 1: sum_{m in family} |m|^2 <= 1. So leaves that are clipped together stay together, and
several outputs are bounded jointly by adding their forms. Family None: no bound is known.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

_Name = TypeVar("_Name", bound=Hashable)
Amount = Any  # a float for a row; [example] float64 for what every example adds to a sum


class Piece(NamedTuple):
  """Range of an array that was cut out of a row, of which disjoint ones share one norm."""

  source: int
  axis: int
  start: int
  stop: int


class Term(NamedTuple):
  """Part `piece` (all, if None) of the quantity `atom`, measured in the unit of `family`."""

  family: Hashable | None
  atom: int
  piece: Piece | None = None


Form = Mapping[Term, Amount]


def free(atom: int) -> Form:
  """The norm of an atom itself, of which no bound is known."""
  return {Term(None, atom): 1.0}


def at_most(bound: float, atom: int) -> Form:
  """A norm of at most `bound`."""
  return {Term(("bound", atom), atom): bound**2}


def scaled(form: Form, factor: float) -> Form:
  """Of `factor` times the vector."""
  return {member: q * factor**2 for member, q in form.items()}


def stacked(*forms: Mapping[_Name, Amount]) -> dict[_Name, Amount]:
  """Of vectors written one below the other; also of covers, whose members are atoms."""
  out: dict[_Name, Amount] = {}
  for form in forms:
    for member, q in form.items():
      out[member] = out.get(member, 0.0) + q
  return out


def either(*forms: Form) -> Form:
  """Of a vector that obeys at least one of the forms."""
  out: dict[Term, Amount] = {}
  for form in forms:
    for member, q in form.items():
      out[member] = np.maximum(out.get(member, 0.0), q)
  return out


def added(a: Form, b: Form) -> Form:
  """Of a sum: |a + b|^2 <= (1 + t) |a|^2 + (1 + 1/t) |b|^2, t = |b| / |a| at the bounds."""
  first, second = np.asarray(size(a)), np.asarray(size(b))
  both = (first > 0) & (second > 0)
  usable = both & np.isfinite(first) & np.isfinite(second)
  with np.errstate(divide="ignore", invalid="ignore"):
    ratio = np.where(usable, second / first, 1.0)
  on_a, on_b = np.where(both, 1 + ratio, 1.0), np.where(both, 1 + 1 / ratio, 1.0)
  return stacked({m: q * on_a for m, q in a.items()}, {m: q * on_b for m, q in b.items()})


def cut(form: Form, piece: Piece) -> Form:
  """Of a piece of the vector; the pieces of one vector share its norm in proportion."""
  return {m if m.piece else m._replace(piece=piece): q for m, q in form.items()}


def is_bounded(form: Form) -> bool:
  return all(member.family is not None for member in form)


def size(form: Form) -> Amount:
  """Largest norm; inf where none is known."""
  families: dict[Hashable, dict[int, list[tuple[Piece | None, Amount]]]] = {}
  total: Amount = 0.0
  for member, q in form.items():
    if member.family is None:
      total = total + np.where(np.asarray(q) > 0, math.inf, 0.0)
    else:
      atoms = families.setdefault(member.family, {})
      atoms.setdefault(member.atom, []).append((member.piece, q))
  for atoms in families.values():
    largest: Amount = 0.0
    for parts in atoms.values():
      apart = are_disjoint([piece for piece, _ in parts])
      shares = [q for _, q in parts] if apart else [sum(q for _, q in parts)]
      for share in shares:
        largest = np.maximum(largest, share)
    total = total + largest
  return np.sqrt(total)


def are_disjoint(pieces: list[Piece | None]) -> bool:
  """Whether no two pieces of one array overlap; None is all of it."""
  if len(pieces) == 1:
    return True
  known = [piece for piece in pieces if piece is not None]
  if len(known) < len(pieces) or len({(p.source, p.axis) for p in known}) > 1:
    return False
  spans = sorted((p.start, p.stop) for p in known)
  return all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
