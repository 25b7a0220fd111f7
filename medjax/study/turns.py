"""Turns of a study: who is trained on, and who is tested afterwards in which role.

A turn is one split of the people: a fold, or a site that is left out. A study with one split has
one turn. In which form the cases come is up to the study (a Batch, stacks of slices, positions).
What must hold in every study is here: nobody is in two parts, and splits.json says who is where.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from medjax import check, data
from medjax.types import Json, Source


class Turn(NamedTuple):
  """One training set and what is tested after it.

  Attributes:
    name: stands in file names and tables; "" where there is one turn.
    train: the cases that are trained on, in the form that the study's batches are made of.
    validation: cases of the sources that choices may look at; () or None where nothing is chosen.
    test: role ("test"; "in-domain", "unseen"; "source", "target") -> cases.
    people: part -> names of people, for splits.json; no person is in two parts.
  """

  name: str
  train: Any
  validation: Any
  test: Mapping[str, Json]
  people: Mapping[str, Sequence[str]]


def splits_of(turns: Sequence[Turn], seed: int, kind: str = "people by part") -> dict[str, Json]:
  """What splits.json holds.

  >>> turn = Turn("", None, (), {}, {"train": ["ann", "bob"], "test": ["bob"]})
  >>> splits_of([turn], 0)
  Traceback (most recent call last):
  medjax.check.InputError: expected no subject in both train and test, got bob; split over subjects, not over images

  Args:
    turns: of the study, with different names.
    seed: that the parts were drawn from.
    kind: what the parts are, a few words.
  Raises:
    InputError: a person in two parts of a turn, or two turns of one name.
  """  # noqa: E501
  names = [turn.name for turn in turns]
  check.require(len(set(names)) == len(names), "turns of different names", f"{names}", "rename one")
  for turn in turns:
    data.check_disjoint(turn.people)
  return {"kind": kind, "seed": seed, "turns": {turn.name: dict(turn.people) for turn in turns}}


def people_of(subjects: Sequence[str], indices: Sequence[int]) -> tuple[str, ...]:
  """The people of the cases at the positions `indices`: each once, sorted by name."""
  return tuple(sorted({subjects[i] for i in indices}))


def people_by_part(
  subjects: Sequence[str], parts: Mapping[str, Sequence[int]]
) -> dict[str, tuple[str, ...]]:
  """The people of each part, sorted.

  >>> people_by_part(["bob", "ann", "bob", "cyd"], {"train": (0, 1, 2), "test": (3,)})
  {'train': ('ann', 'bob'), 'test': ('cyd',)}

  Args:
    subjects: the person of each case.
    parts: part -> positions of its cases, as `parted` draws them.
  """
  return {part: people_of(subjects, rows) for part, rows in parts.items()}


def parted(
  subjects: Sequence[str], fractions: Mapping[str, float | int], seed: int
) -> dict[str, tuple[int, ...]]:
  """Positions of the cases of each part, whose people are drawn from `seed`.

  >>> parts = parted(["ann", "ann", "bob", "cyd"], {"train": 0.7, "test": 0.3}, 0)
  >>> sorted(i for own in parts.values() for i in own)
  [0, 1, 2, 3]
  """
  drawn = data.split_subjects(subjects, fractions, seed=seed)
  return {part: drawn.indices(part, subjects) for part in fractions}


def turns_of(
  whole: Source,
  left_out: Sequence[Sequence[str]],
  held: Callable[[Sequence[int]], Any],
  *,
  fractions: Mapping[str, float | int],
  seed: int,
) -> list[Turn]:
  """A turn for each group of sites left out: the others train, everybody of the group is unseen.

  Roles are "in-domain" (test people of the sites that train) and "unseen".

  Args:
    whole: all sites, as `data.concat` puts them together: people of two sites are two people.
    left_out: the sites that are unseen in each turn.
    held: `held(positions)` -> what is trained on, chosen by and tested, e.g. `data.stack(whole,
      .)`.
    fractions: shares of the people of a site: "train", "validation" and "test"; drawn site by site.
    seed: that the parts are drawn from.
  Raises:
    InputError: an unknown site, no site left to train on, identical pixels in two parts.
  """
  domains = getattr(whole, "domains", ("",) * len(whole))
  sites = list(dict.fromkeys(domains))
  rows = {site: [i for i, own in enumerate(domains) if own == site] for site in sites}
  part_of: dict[str, str] = {}
  for own in rows.values():
    drawn = data.split_subjects([whole.subjects[i] for i in own], fractions, seed=seed)
    part_of |= {person: part for part, people in drawn.parts.items() for person in people}
  sides = {part: tuple(p for p, own in part_of.items() if own == part) for part in fractions}
  data.check_content(whole, data.Splits(sides, seed))
  found = []
  for unseen in left_out:
    for name in unseen:
      check.one_of("site left out", name, sites)
    known = [site for site in sites if site not in unseen]
    check.require(known, "a site to train on", "none", "leave fewer sites out")
    indices = {
      part: [i for site in known for i in rows[site] if part_of[whole.subjects[i]] == part]
      for part in fractions
    }
    indices["unseen"] = [i for site in unseen for i in rows[site]]
    found.append(
      Turn(
        "+".join(unseen),
        held(indices["train"]),
        held(indices["validation"]),
        {"in-domain": held(indices["test"]), "unseen": held(indices["unseen"])},
        {part: people_of(whole.subjects, own) for part, own in indices.items()},
      )
    )
  return found
