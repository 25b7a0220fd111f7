"""Argument and input checks: one message format - expected, got, remedy.

A check returns the value that it found good, with its type: `subject = check.given(subject, ...)`.
"""

import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")
PairT = TypeVar("PairT", bound=tuple[float | int, float | int])
NumberT = TypeVar("NumberT", bound=float | int)


class InputError(ValueError):
  """Bad input from the person who runs us. Command lines print it as one line and exit with 2."""

  def __init__(self, expected: str, got: str, remedy: str):
    super().__init__(f"expected {expected}, got {got}; {remedy}")


def require(condition: Any, expected: str, got: str, remedy: str) -> None:
  """Raises InputError unless `condition` holds."""
  if not condition:
    raise InputError(expected, got, remedy)


def given(value: T | None, expected: str, remedy: str, *, got: str = "none") -> T:
  """The value, which must not be None.

  >>> given(3, "a number of classes", "pass num_classes")
  3
  """
  if value is None:
    raise InputError(expected, got, remedy)
  return value


def existing_file(path: str | os.PathLike, remedy: str = "check the path") -> pathlib.Path:
  """The path of a file that is there."""
  path = pathlib.Path(path)
  require(path.is_file(), f"a file {path}", "nothing there", remedy)
  return path


def existing_folder(path: str | os.PathLike, remedy: str = "check the path") -> pathlib.Path:
  """The path of a folder that is there."""
  path = pathlib.Path(path)
  require(path.is_dir(), f"a folder {path}", "nothing there", remedy)
  return path


def positive(name: str, value: NumberT, remedy: str = "pass a value above 0") -> NumberT:
  """A number above 0."""
  if not value > 0 or math.isnan(value):
    raise InputError(f"{name} > 0", f"{name}={value!r}", remedy)
  return value


def non_negative(name: str, value: NumberT, remedy: str = "pass 0 or more") -> NumberT:
  """A number of 0 or more."""
  if not value >= 0:
    raise InputError(f"{name} >= 0", f"{name}={value!r}", remedy)
  return value


def in_interval(
  name: str,
  value: NumberT,
  low: float | int,
  high: float | int,
  remedy: str = "pass a value inside",
) -> NumberT:
  """A number of the closed interval [low, high]."""
  if not low <= value <= high:
    raise InputError(f"{name} in [{low}, {high}]", f"{name}={value!r}", remedy)
  return value


def probability(name: str, value: NumberT) -> NumberT:
  """A number of [0, 1]."""
  return in_interval(name, value, 0.0, 1.0)


def ordered(
  name: str,
  pair: PairT,
  *,
  above: float | int | None = None,
  least: float | int | None = None,
  most: float | int | None = None,
) -> PairT:
  """A range (low, high), low <= high; where given above < low, least <= low and high <= most.

  >>> ordered("scale", (0.5, 1.0), above=0.0, most=1.0)
  (0.5, 1.0)
  """
  low, high = pair
  if not low <= high:
    raise InputError(f"{name} as (low, high) with low <= high", f"{name}={pair!r}", "swap them")
  got, remedy = f"{name}={pair!r}", "narrow the range"
  require(above is None or low > above, f"{name}[0] > {above}", got, remedy)
  require(least is None or low >= least, f"{name}[0] >= {least}", got, remedy)
  require(most is None or high <= most, f"{name}[1] <= {most}", got, remedy)
  return pair


def one_of(name: str, value: T, options: Iterable[Any]) -> T:
  """A value among the options."""
  options = tuple(options)
  if value not in options:
    listed = ", ".join(repr(o) for o in options)
    raise InputError(f"{name} to be one of {listed}", f"{name}={value!r}", "choose one of these")
  return value


def same_shape(
  name: str, shape: Iterable[int], other_name: str, other: Iterable[int]
) -> tuple[int, ...]:
  """The shape that two arrays share."""
  shape, other = tuple(shape), tuple(other)
  if shape != other:
    raise InputError(
      f"{name} and {other_name} of one shape", f"{shape} and {other}", "bring them to one grid"
    )
  return shape
