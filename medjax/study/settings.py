"""Settings of a study: the fields that every study has, and the ranges that names of fields imply.

The settings of a study are a dataclass `Config`, whose fields are the flags of its command. The
comment on the line of a field, or above it, is the help that `medjax.cli` shows:

  @dataclasses.dataclass(frozen=True)
  class Config(study.Settings):
    "What the study does, in a line."

    size: int = 32  # side in pixels
"""

import dataclasses
import pathlib
from collections.abc import Collection, Sequence

from medjax import check

_COUNTS = ("num_", "max_")
_POSITIVE = ("_every", "_size", "_rate", "_steps", "_epochs", "_updates", "_norm", "_mm")


@dataclasses.dataclass(frozen=True)
class Settings:
  """The fields of every study; there are three, since a study has no flag that it does not use."""

  num_seeds: int = 3  # seeds, each with its own initial weights and draws
  margin: float = 0.01  # that a difference between arms has to exceed to be called one
  log_every: int = 50  # updates between two log rows

  def __post_init__(self):
    check_fields(self)


def check_fields(config: object, may_be_zero: Collection[str] = ()) -> None:
  """Refuses values outside the ranges that the names of a Config's fields imply.

  Counts (`num_*`, `max_*`), periods (`*_every`), sizes, rates, numbers of steps, updates and
  epochs, norms and lengths (`*_mm`) are above 0; `*_fraction` lies in [0, 1]; `margin` is 0 or
  more. Fields that are no numbers are not looked at.

  >>> check_fields(Settings())
  >>> Settings(num_seeds=0)
  Traceback (most recent call last):
  medjax.check.InputError: expected num_seeds > 0, got num_seeds=0; pass a value above 0

  Args:
    config: a dataclass.
    may_be_zero: names of fields whose 0 means something; below 0 is still refused.
  Raises:
    InputError: naming the first field that breaks its promise.
  """
  for field in dataclasses.fields(config):  # pyrefly: ignore[bad-argument-type]
    name, value = field.name, getattr(config, field.name)
    if isinstance(value, bool) or not isinstance(value, int | float):
      continue
    if name in may_be_zero or name == "margin":
      check.non_negative(name, value)
    elif name.endswith("_fraction"):
      check.in_interval(name, value, 0.0, 1.0)
    elif name.startswith(_COUNTS) or name.endswith(_POSITIVE):
      check.positive(name, value)


def paths_of(
  paths: Sequence[pathlib.Path], wanted: int | None, why: str = ""
) -> tuple[pathlib.Path, ...]:
  """What came after --data, refused unless it is as many paths as the study can read.

  >>> paths_of((), 1, " with --source npz")
  Traceback (most recent call last):
  medjax.check.InputError: expected one path after --data with --source npz, got 0; see --help

  Args:
    paths: `options.data`.
    wanted: their number; None: two or more.
    why: ends the sentence of the refusal.
  """
  words = {0: "no path", 1: "one path", None: "two paths or more"}.get(wanted, f"{wanted} paths")
  is_right = len(paths) >= 2 if wanted is None else len(paths) == wanted
  check.require(is_right, f"{words} after --data{why}", f"{len(paths)}", "see --help")
  return tuple(paths)
