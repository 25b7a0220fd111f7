"""The parts of a set: as its authors published them, or drawn over the people of every site."""

from collections.abc import Mapping, Sequence
from typing import Any

from medjax.check import one_of
from medjax.data.people.splits import DEFAULT_FRACTIONS, Splits, check_disjoint, split_subjects
from medjax.data.seeds import Seed
from medjax.types import Source


def indices_of_part(
  part: str, parts: Sequence[str], subjects: Sequence[str], order: Sequence[str]
) -> tuple[int, ...]:
  """Cases of a part of a set as published, without those whose subject is in a later part too.

  The test set thus stays the published one, and nobody in it is trained on.

  Args:
    part: one of `parts`.
    parts: part of each case.
    subjects: subject of each case.
    order: the parts from the one to train on to the one to test on.
  """
  one_of("part", part, sorted(set(parts)))
  later = set(order[order.index(part) + 1 :]) if part in order else set()
  held_out = {s for s, other in zip(subjects, parts, strict=True) if other in later}
  return tuple(
    i
    for i, (subject, own) in enumerate(zip(subjects, parts, strict=True))
    if own == part and subject not in held_out
  )


def split_by_site(
  source: Source, fractions: Mapping[str, float | int] = DEFAULT_FRACTIONS, *, seed: Seed
) -> Splits:
  """Splits over people, each site on its own; sites with fewer people than parts are pooled.

  Raises:
    InputError: a person at two sites, or too few people in all.
  """
  people: dict[str, set[str]] = {}
  for subject, site in zip(source.subjects, source.domains, strict=True):
    people.setdefault(site, set()).add(subject)
  check_disjoint(people)
  groups = [sorted(own) for _, own in sorted(people.items()) if len(own) >= len(fractions)]
  small = sorted(s for own in people.values() if len(own) < len(fractions) for s in own)
  drawn = [split_subjects(group, fractions, seed=seed) for group in [*groups, small] if group]
  parts = {part: tuple(sorted(s for d in drawn for s in d.parts[part])) for part in fractions}
  return Splits(parts, int(seed))


def parts_of(source: Source, *, seed: Seed) -> Mapping[str, Sequence[int]]:
  """Cases of each split: as published where the source says so, else by `split_by_site`."""
  published: Any = getattr(source, "parts", ())
  if published and all(published):
    held: Any = source
    return {part: held.indices(part) for part in dict.fromkeys(published)}
  splits = split_by_site(source, seed=seed)
  return {part: splits.indices(part, source.subjects) for part in splits.parts}
