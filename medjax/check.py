"""Argument and input checks: one message format - expected, got, remedy."""

import math
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
  """Bad input from the person who runs us. Command lines print it as one line and exit with 2."""

  def __init__(self, expected: str, got: str, remedy: str):
    super().__init__(f"expected {expected}, got {got}; {remedy}")


def require(condition: Any, expected: str, got: str, remedy: str) -> None:
  """Raises InputError unless `condition` holds."""
  if not condition:
    raise InputError(expected, got, remedy)


def positive(name: str, value: float | int, remedy: str = "pass a value above 0") -> None:
  if not value > 0 or math.isnan(value):
    raise InputError(f"{name} > 0", f"{name}={value!r}", remedy)


def non_negative(name: str, value: float | int, remedy: str = "pass 0 or more") -> None:
  if not value >= 0:
    raise InputError(f"{name} >= 0", f"{name}={value!r}", remedy)


def in_interval(
  name: str,
  value: float | int,
  low: float | int,
  high: float | int,
  remedy: str = "pass a value inside",
) -> None:
  """Closed interval [low, high]."""
  if not low <= value <= high:
    raise InputError(f"{name} in [{low}, {high}]", f"{name}={value!r}", remedy)


def ordered(name: str, pair: tuple[float | int, float | int]) -> None:
  """A (low, high) range."""
  low, high = pair
  if not low <= high:
    raise InputError(f"{name} as (low, high) with low <= high", f"{name}={pair!r}", "swap them")


def one_of(name: str, value: Any, options: Iterable[Any]) -> None:
  options = tuple(options)
  if value not in options:
    listed = ", ".join(repr(o) for o in options)
    raise InputError(f"{name} to be one of {listed}", f"{name}={value!r}", "choose one of these")


def same_shape(name: str, shape: Iterable[int], other_name: str, other: Iterable[int]) -> None:
  shape, other = tuple(shape), tuple(other)
  if shape != other:
    raise InputError(
      f"{name} and {other_name} of one shape", f"{shape} and {other}", "bring them to one grid"
    )
