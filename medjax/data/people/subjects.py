"""Subjects from case names."""

import re
from collections.abc import Iterable

from medjax.check import InputError, require


def subjects_of(names: Iterable[str], pattern: str | None) -> tuple[str, ...]:
  """Subject of each case: the group of `pattern`, searched in the name; the name if None.

  >>> subjects_of(["person03_scan1", "person03_scan2"], r"(person\\d+)_")
  ('person03', 'person03')

  Raises:
    InputError: a pattern that is no regular expression with one group, or that a name lacks.
  """
  names = tuple(names)
  if pattern is None:
    return names
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise InputError(
      "subject_pattern as a regular expression", f"{pattern!r} ({error})", "correct it"
    ) from error
  require(
    compiled.groups == 1,
    "subject_pattern with one group",
    f"{pattern!r} with {compiled.groups}",
    "put the part that names the person in parentheses, others in (?:...)",
  )
  subjects = []
  for name in names:
    match = compiled.search(name)
    if match is None or not match.group(1):
      raise InputError(
        f"case names that match subject_pattern {pattern!r}", repr(name), "widen the pattern"
      )
    subjects.append(match.group(1))
  return tuple(subjects)
