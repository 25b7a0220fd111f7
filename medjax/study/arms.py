"""The arms of a study are the methods that it compares; each is one row of a table."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from medjax import check


class Arm(NamedTuple):
  """One method among those compared.

  Attributes:
    name: stands in flags, file names and tables.
    meaning: what the method does, a line that stands beside its scores.
    make: what the study calls to get the arm's Step (or loss, filter, optimiser); its arguments are
      the study's own.
    starts_from: name of another arm, whose last weights this one starts from; "" starts anew.
  """

  name: str
  meaning: str
  make: Callable[..., Any]
  starts_from: str = ""


def arms(*rows: Arm) -> dict[str, Arm]:
  """The rows by name, in their order.

  >>> list(arms(Arm("plain", "nothing", dict), Arm("ours", "the method", dict, "plain")))
  ['plain', 'ours']

  Raises:
    InputError: two arms of one name, or an arm that starts from none of the earlier rows.
  """
  found: dict[str, Arm] = {}
  for arm in rows:
    check.require(arm.name not in found, "arms of different names", f"two {arm.name!r}", "rename")
    if arm.starts_from:
      check.one_of(f"start of arm {arm.name}", arm.starts_from, found)
    found[arm.name] = arm
  return found


def chosen(what: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
  """Refuses no names, repeated names and unknown names; for `Config.__post_init__`.

  >>> chosen("arms", ("plain", "our"), {"plain": None, "ours": None})
  Traceback (most recent call last):
  medjax.check.InputError: expected arms to be one of 'plain', 'ours', got arms='our'; choose one of these
  """  # noqa: E501
  names = tuple(names)
  check.require(names, f"{what}, one or more", "none", f"choose among {', '.join(known)}")
  check.require(len(set(names)) == len(names), f"{what} without repeats", f"{names}", "drop one")
  for name in names:
    check.one_of(what, name, known)
